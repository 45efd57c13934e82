//! Instructions of a run of this program, counted by valgrind's callgrind.

use std::process::{Command, Stdio};

use crate::Result;

/// Runs this program with these arguments and counts; `None`, and a word about it, where valgrind is not installed.
pub(crate) fn count(arguments: &[&str]) -> Result<Option<u64>> {
    let file = std::env::temp_dir().join(format!("rsf-wire-callgrind-{}", std::process::id()));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "-q"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(arguments)
        .stdout(Stdio::null())
        .status();
    match run {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(format!("valgrind: {status}").into()),
        Err(error) => {
            println!(
                "valgrind does not start ({error}; Debian: `apt-get install valgrind`): nothing is counted."
            );
            return Ok(None);
        }
    }
    let text = std::fs::read_to_string(&file)?;
    std::fs::remove_file(&file)?;
    let line = text.lines().find_map(|line| {
        line.strip_prefix("summary: ")
            .or_else(|| line.strip_prefix("totals: "))
    });
    let total = line.and_then(|line| line.split(' ').next()?.parse().ok());
    Ok(Some(total.ok_or("callgrind wrote no total")?))
}
