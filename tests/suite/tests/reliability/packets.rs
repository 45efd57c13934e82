//! Packets that vanish, by nftables rules of a case's own.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Rules in a table of their own, gone when this is dropped.
pub(crate) struct Lost(String);

impl Lost {
    /// Whether this process may make rules here.
    pub(crate) fn probe() -> Result<(), String> {
        Lost::outgoing("probe", &["tcp dport 1".to_owned()]).map(drop)
    }

    /// Drops outgoing packets of this machine that fit one of `matches`, written as nft does. `name` is the table's,
    /// of letters and digits.
    pub(crate) fn outgoing(name: &str, matches: &[String]) -> Result<Lost, String> {
        let table = format!("rsf_{name}_{}", std::process::id());
        let rules: String = matches.iter().map(|one| format!(" {one} drop\n")).collect();
        let text = format!(
            "table inet {table} {{\n chain out {{\n type filter hook output priority 0;\n{rules} }}\n}}\n"
        );
        let lost = Lost(table);
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("nft (package nftables) cannot be run: {error}"))?;
        if let Some(mut input) = nft.stdin.take() {
            input
                .write_all(text.as_bytes())
                .map_err(|error| error.to_string())?;
        }
        let output = nft.wait_with_output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(lost);
        }
        let problem = String::from_utf8_lossy(&output.stderr);
        Err(format!("nft may not make rules here: {}", problem.trim()))
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        // Nothing to delete where it was refused.
        let _ = Command::new("nft")
            .args(["delete", "table", "inet", &self.0])
            .stderr(Stdio::null())
            .status();
    }
}
