//! Memory of pending calls: what a consumer with many calls in flight holds for each of them.

#![allow(clippy::print_stdout, reason = "a program whose purpose is its output")]

use crate::Result;
use crate::plan::{Amount, Cell, Mode, Peer};
use crate::process::measure;
use crate::resident::Resident;

/// Pending calls at both ends of the slope.
const PENDING: [u64; 2] = [20_000, 100_000];
/// Instances, because a connection carries a few thousand calls at once.
const INSTANCES: usize = 32;

/// The bars of PERFORMANCE, bytes of resident set a pending governed call.
const BAR: f64 = 2048.0;

/// Measures both wires and prints the table.
pub(crate) fn run(only: &str) -> Result<()> {
    println!(
        "Resident set of a pending call: (at {} calls − at {} calls) / difference, {INSTANCES} instances.\n",
        PENDING[1], PENDING[0]
    );
    println!("| | client, bytes a call | server, bytes a call |\n|---|---|---|");
    for peer in [Peer::Governed, Peer::Engine] {
        let cell = Cell {
            instances: INSTANCES,
            ..Cell::of(peer, Mode::Multi, 1)
        };
        if !cell.to_string().contains(only) {
            continue;
        }
        let [client, server] = slope(cell, PENDING, Amount::Pending)?;
        let verdict = if client <= BAR { "holds" } else { "is missed" };
        println!("| {cell} | {client:.0} (the bar of {BAR} {verdict}) | {server:.0} |");
    }
    Ok(())
}

/// Bytes that one more of `amount` takes in a cell's client and server.
pub(crate) fn slope(cell: Cell, counts: [u64; 2], amount: fn(u64) -> Amount) -> Result<[f64; 2]> {
    let mut resident = [Resident::default(); 2];
    for (place, count) in counts.into_iter().enumerate() {
        let measured = measure(cell, amount(count), &[], &[])?;
        resident[place] = measured
            .resident
            .ok_or("the client has not looked at its memory")?;
    }
    let [few, many] = resident;
    let each = |few: u64, many: u64| (many as f64 - few as f64) / (counts[1] - counts[0]) as f64;
    Ok([each(few.client, many.client), each(few.server, many.server)])
}
