//! Instructions a call, counted by callgrind: repeatable where time is not.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose purpose is its output"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::plan::{Amount, Cell, Mode, cells};
use crate::process::measure;
use crate::report::output_folder;
use crate::{Error, Result};

/// Two runs of so many calls: their difference holds calls alone, without start and end.
const CALLS: [u64; 2] = [2_000, 6_000];

/// Counts all cells on one thread (callgrind runs one at a time anyway) and prints the table.
pub(crate) fn run(only: &str, keep: bool) -> Result<()> {
    let found = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if !found.is_ok_and(|status| status.success()) {
        println!(
            "valgrind is not installed (Debian: `apt-get install valgrind`), so instructions are not counted."
        );
        return Ok(());
    }
    let mut cells = cells(only);
    cells.retain(|cell| cell.mode == Mode::Current);
    if cells.is_empty() {
        return Err(Error::from(format!(
            "no cell with one thread contains `{only}` in its name"
        )));
    }
    println!(
        "Instructions a call by callgrind: ({} calls − {} calls) / difference.\n",
        CALLS[1], CALLS[0]
    );
    println!("| | client | server | both |\n|---|---|---|---|");
    for cell in cells {
        let [client, server] = count(cell, keep)?;
        println!("| {cell} | {client:.0} | {server:.0} | {:.0} |", client + server);
    }
    Ok(())
}

fn count(cell: Cell, keep: bool) -> Result<[f64; 2]> {
    let mut counts = [[0; 2]; 2];
    for (run, calls) in CALLS.into_iter().enumerate() {
        let name = cell.to_string().replace([' ', ','], "-");
        let files = ["client", "server"]
            .map(|side| Ok::<_, Error>(output_folder()?.join(format!("callgrind.{name}.{calls}.{side}"))));
        let [client, server] = files;
        let (client, server) = (client?, server?);
        measure(cell, Amount::Calls(calls), &under(&server), &under(&client))?;
        for (side, file) in [client, server].iter().enumerate() {
            counts[side][run] = total(file)?;
            if !keep {
                std::fs::remove_file(file)?;
            }
        }
    }
    let calls = (CALLS[1] - CALLS[0]) as f64;
    Ok(counts.map(|[few, many]| (many as f64 - few as f64) / calls))
}

fn under(file: &Path) -> Vec<String> {
    let out = format!("--callgrind-out-file={}", file.display());
    ["valgrind", "--tool=callgrind", "-q", &out]
        .map(str::to_owned)
        .to_vec()
}

fn total(file: &PathBuf) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| {
        line.strip_prefix("summary: ")
            .or_else(|| line.strip_prefix("totals: "))
    });
    line.and_then(|total| total.split(' ').next()?.parse().ok())
        .ok_or_else(|| Error::from(format!("{} has no total", file.display())))
}
