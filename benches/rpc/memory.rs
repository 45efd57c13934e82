//! Memory of pending calls: what a consumer with many calls in flight holds for each of them.

#![allow(clippy::print_stdout, reason = "a program whose purpose is its output")]

use serde::{Deserialize, Serialize};

use crate::plan::{Amount, Cell, Mode, Peer};
use crate::process::measure;
use crate::{Error, Result, load};

/// Pending calls at both ends of the slope.
const PENDING: [u64; 2] = [20_000, 100_000];
/// Instances, because a connection carries a few thousand calls at once.
const INSTANCES: usize = 32;

/// The bars of PERFORMANCE, bytes of resident set a pending governed call.
const BAR: f64 = 2048.0;

/// What the client says.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Resident {
    pub(crate) client: u64,
    pub(crate) server: u64,
}

/// Measures both wires and prints the table.
pub(crate) fn run(only: &str) -> Result<()> {
    println!(
        "Resident set of a pending call: (at {} calls − at {} calls) / difference, {INSTANCES} instances.\n",
        PENDING[1], PENDING[0]
    );
    println!("| | client, bytes a call | server, bytes a call |\n|---|---|---|");
    for peer in [Peer::Governed, Peer::Engine] {
        let cell = Cell {
            peer,
            mode: Mode::Multi,
            in_flight: 1,
            instances: INSTANCES,
        };
        if !cell.to_string().contains(only) {
            continue;
        }
        let mut resident = [Resident::default(); 2];
        for (place, pending) in PENDING.into_iter().enumerate() {
            let measured = measure(cell, Amount::Pending(pending), &[], &[])?;
            resident[place] = measured
                .resident
                .ok_or("the client has not looked at its memory")?;
        }
        let slope = |of: fn(&Resident) -> u64| {
            (of(&resident[1]) as f64 - of(&resident[0]) as f64) / (PENDING[1] - PENDING[0]) as f64
        };
        let (client, server) = (slope(|r| r.client), slope(|r| r.server));
        let verdict = if client <= BAR { "holds" } else { "is missed" };
        println!("| {cell} | {client:.0} (the bar of {BAR} {verdict}) | {server:.0} |");
    }
    Ok(())
}

/// Begins `pending` calls that are not answered, and looks at the memory of both processes once all are at the server.
pub(crate) async fn hold(caller: impl load::Caller, pending: u64, server: u32) -> Result<Resident> {
    let mut calls = tokio::task::JoinSet::new();
    let before = Resident {
        client: resident(std::process::id())?,
        server: resident(server)?,
    };
    for _ in 0..pending {
        let mut caller = caller.clone();
        calls.spawn(async move { caller.hold().await });
        // One at a time is what applications do; a burst would measure queues.
        if calls.len() % 256 == 0 {
            tokio::task::yield_now().await;
        }
    }
    settled(server).await?;
    if let Some(ended) = calls.try_join_next() {
        return Err(Error::from(format!(
            "a call that should wait has ended: {:?}",
            ended?
        )));
    }
    let now = Resident {
        client: resident(std::process::id())? - before.client,
        server: resident(server)?.saturating_sub(before.server),
    };
    Ok(now)
}

/// Waits until neither process has used the processor for a while: all calls are where they wait.
async fn settled(server: u32) -> Result<()> {
    let used =
        || Ok::<_, Error>(crate::cpu::of_process(std::process::id())? + crate::cpu::of_process(server)?);
    let mut before = used()?;
    let mut quiet = 0;
    while quiet < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        let now = used()?;
        quiet = if now - before < std::time::Duration::from_millis(20) {
            quiet + 1
        } else {
            0
        };
        before = now;
    }
    Ok(())
}

/// Bytes of a process that are in memory.
fn resident(process: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or("the kernel does not say VmRSS")?;
    Ok(kib * 1024)
}
