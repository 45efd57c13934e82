//! Compares the balancers in virtual time and prints the table of docs/balancing.md; `make sim` runs it. With
//! `UPDATE_DOCS=1` it writes the table there. `SEED` chooses the chance.

#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::path::Path;

const BEGIN: &str = "<!-- made by `UPDATE_DOCS=1 make sim` -->\n";
const END: &str = "<!-- end -->";

fn main() -> std::io::Result<()> {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    let table = rsf_core::simulation::markdown(seed);
    println!("seed {seed}\n\n{table}");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/balancing.md");
        let page = std::fs::read_to_string(&path)?;
        let missing = || std::io::Error::other(format!("{} has no place for the table", path.display()));
        let (before, rest) = page.split_once(BEGIN).ok_or_else(missing)?;
        let (_, after) = rest.split_once(END).ok_or_else(missing)?;
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}"))?;
    }
    Ok(())
}
