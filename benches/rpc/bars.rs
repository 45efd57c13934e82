//! The wire engine against its bars: each row is a ratio to a peer that was measured in the same round.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose purpose is its output"
)]

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::load::Measured;
use crate::memory::slope;
use crate::plan::{Amount, Cell, Mode, PAYLOAD, Peer};
use crate::process::{measure, tarpc};
use crate::report::{median, output_folder};
use crate::{Error, Result, cpu};

mod rows;

use rows::{Bar, Figure, Load, Row, SHARE_OF_CAPACITY, rows};

/// A row with what came of it, as it is written to `target/bench/bars.json`.
#[derive(Serialize)]
struct Outcome {
    name: String,
    goal: String,
    must: String,
    /// Least, median and greatest of the rounds.
    measured: [f64; 3],
    verdict: &'static str,
    /// What the same loads take of CPU a call, theirs by ours: what a machine that is busy with other things cannot blur.
    cpu: Option<f64>,
}

/// Measures all rows whose name contains `only`, `repeats` times, and prints the table.
pub(crate) fn run(only: &str, repeats: u32, window: Duration) -> Result<()> {
    let mut rows = rows();
    if tarpc()?.is_none() {
        println!("tarpc's program is not built (`make bench-wire` builds it): its row is left out.\n");
        rows.retain(|row| row.theirs.iter().all(|load| load.cell.peer != Peer::Tarpc));
    }
    rows.retain(|row| row.name().contains(only));
    let loads = loads(&rows);
    let (begun, machine, mut ours) = (Instant::now(), cpu::of_machine()?, 0.0);
    let mut rounds = Vec::new();
    for round in 0..repeats {
        let round = match measure_round(&loads, round, repeats, window) {
            Ok(round) => round,
            // tonic's connection breaks now and then where its open loop is beyond what a busy machine leaves it.
            Err(error) => {
                println!("Round {} is left out: {error}.", round + 1);
                continue;
            }
        };
        let used = |measured: &Measured| measured.calls as f64 * Figure::Cpu.of(measured);
        ours += 1.5 * round.values().map(used).sum::<f64>() / 1e6;
        rounds.push(round);
    }
    eprintln!("\r{:80}\r", "");
    if rounds.is_empty() {
        return Err(Error::from("no round came to its end"));
    }
    let used = cpu::of_machine()?.saturating_sub(machine).as_secs_f64();
    let disturbance = ((used - ours) / begun.elapsed().as_secs_f64()).max(0.0);
    println!(
        "{PAYLOAD} B echo over loopback; each call with deadline, request id and trace header of its own; ratios, medians of \
         {} rounds of {} ms. Other processes used {disturbance:.2} of {} cores.\n",
        rounds.len(),
        window.as_millis(),
        std::thread::available_parallelism()?.get(),
    );
    print_cells(&loads, &rounds);
    println!("| | goal | must | measured [least–greatest] | | by CPU a call |\n|---|---|---|---|---|---|");
    let mut results: Vec<Outcome> = rows.iter().map(|row| row.result(&rounds)).collect();
    for result in &results {
        result.print();
    }
    for result in memory_rows(only)? {
        result.print();
        results.push(result);
    }
    let path = output_folder()?.join("bars.json");
    std::fs::write(&path, serde_json::to_string_pretty(&results)?)?;
    println!("\nAll rows: {}", path.display());
    Ok(())
}

type Round = HashMap<Load, Measured>;

/// Each load once, in the rows' order; those that need a rate last, behind tonic's capacity.
fn loads(rows: &[Row]) -> Vec<Load> {
    let mut loads = Vec::new();
    let capacity = capacity();
    let opens = rows.iter().flat_map(|row| &row.ours).any(|load| load.open);
    let needed = opens.then_some(&capacity).into_iter();
    for load in needed.chain(rows.iter().flat_map(|row| row.ours.iter().chain(&row.theirs))) {
        if !loads.contains(load) {
            loads.push(*load);
        }
    }
    loads
}

fn capacity() -> Load {
    Load {
        cell: Cell::of(Peer::Varying, Mode::Multi, 64),
        open: false,
    }
}

fn measure_round(loads: &[Load], round: u32, of: u32, window: Duration) -> Result<Round> {
    let mut measured = Round::new();
    let mut order = loads.to_vec();
    if round % 2 == 1 {
        order.reverse();
    }
    order.sort_by_key(|load| load.open);
    let warm = window / 2;
    for load in order {
        eprint!("\rround {} of {of}: {:<60}", round + 1, load.cell.to_string());
        let amount = match load.open {
            false => Amount::Time { warm, window },
            true => {
                let capacity = measured
                    .get(&capacity())
                    .ok_or("tonic's capacity was not measured")?;
                let rate = SHARE_OF_CAPACITY * Figure::Calls.of(capacity);
                // Rare latencies want many calls.
                Amount::Open {
                    rate,
                    warm,
                    window: 3 * window,
                }
            }
        };
        measured.insert(load, measure(load.cell, amount, &[], &[])?);
    }
    Ok(measured)
}

fn print_cells(loads: &[Load], rounds: &[Round]) {
    println!(
        "| | calls/s | p50 µs | p99 µs | p99.9 µs | CPU client + server µs |\n|---|---|---|---|---|---|"
    );
    for load in loads {
        let middle = |of: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(|round| of(&round[load])));
        println!(
            "| {load} | {:.0} | {:.1} | {:.1} | {:.1} | {:.2} + {:.2} |",
            middle(&|m| Figure::Calls.of(m)),
            middle(&|m| m.p50_us),
            middle(&|m| m.p99_us),
            middle(&|m| m.p999_us),
            middle(&|m| m.client_cpu_us),
            middle(&|m| m.server_cpu_us),
        );
    }
    println!();
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.open {
            true => write!(
                f,
                "{}, open loop",
                self.cell.to_string().replace(", 64 in flight", "")
            ),
            false => write!(f, "{}", self.cell),
        }
    }
}

impl Row {
    fn name(&self) -> String {
        let side = |loads: &[Load]| match loads {
            [only] => only.to_string(),
            [first, ..] => format!(
                "{}, best mode, {} in flight",
                first.cell.peer.name(),
                first.cell.in_flight
            ),
            [] => String::new(),
        };
        format!(
            "{}: {} against {}",
            self.figure.name(),
            side(&self.ours),
            side(&self.theirs)
        )
    }

    fn result(&self, rounds: &[Round]) -> Outcome {
        let best = |loads: &[Load], round: &Round| {
            let figures = loads.iter().map(|load| self.figure.of(&round[load]));
            match self.bar {
                Bar::AtLeast { .. } => figures.fold(f64::MIN, f64::max),
                Bar::AtMost { .. } => figures.fold(f64::MAX, f64::min),
            }
        };
        let ratios: Vec<f64> = rounds
            .iter()
            .map(|round| best(&self.ours, round) / best(&self.theirs, round))
            .collect();
        let of_cpu = |loads: &[Load], round: &Round| {
            let figures = loads.iter().map(|load| Figure::Cpu.of(&round[load]));
            figures.fold(f64::MAX, f64::min)
        };
        let cpu = rounds
            .iter()
            .map(|round| of_cpu(&self.theirs, round) / of_cpu(&self.ours, round));
        let cpu = matches!(self.figure, Figure::Calls).then(|| median(cpu));
        Outcome {
            cpu,
            ..Outcome::of(self.name(), self.bar, &ratios, "×")
        }
    }
}

impl Outcome {
    fn of(name: String, bar: Bar, values: &[f64], unit: &str) -> Outcome {
        let measured = [
            values.iter().copied().fold(f64::MAX, f64::min),
            median(values.iter().copied()),
            values.iter().copied().fold(f64::MIN, f64::max),
        ];
        let holds = |limit: f64| match bar {
            Bar::AtLeast { .. } => measured[1] >= limit,
            Bar::AtMost { .. } => measured[1] <= limit,
        };
        let (Bar::AtLeast { goal, must } | Bar::AtMost { goal, must }) = bar;
        let verdict = match (holds(goal), holds(must)) {
            (true, _) => "goal",
            (_, true) => "met",
            _ => "**missed**",
        };
        let written = |limit: f64| format!("{}{unit}", short(limit));
        Outcome {
            name,
            goal: written(goal),
            must: written(must),
            measured,
            verdict,
            cpu: None,
        }
    }

    fn print(&self) {
        let [least, middle, greatest] = self.measured;
        println!(
            "| {} | {} | {} | {} [{}–{}] | {} | {} |",
            self.name,
            self.goal,
            self.must,
            short(middle),
            short(least),
            short(greatest),
            self.verdict,
            self.cpu
                .map_or_else(String::new, |cpu| format!("{} ×", short(cpu))),
        );
    }
}

/// Three digits that mean something.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// Connections at both ends of the slope, within what a process may open; and pending calls, spread over connections.
const IDLE: [u64; 2] = [1_000, 9_000];
const PENDING: [u64; 2] = [20_000, 100_000];
const CONNECTIONS: usize = 32;

/// Resident set of what rests, each side by itself.
fn memory_rows(only: &str) -> Result<Vec<Outcome>> {
    let cell = Cell::of(Peer::Bare, Mode::Multi, 1);
    let spread = Cell {
        instances: CONNECTIONS,
        ..cell
    };
    let idle: fn(u64) -> Amount = Amount::Idle;
    let mut results = Vec::new();
    for (name, cell, counts, amount, goal, must) in [
        ("an idle connection", cell, IDLE, idle, 6_144.0, 16_384.0),
        ("a pending call", spread, PENDING, Amount::Pending, 512.0, 2_048.0),
    ] {
        let name = format!("resident set of {name}");
        if !name.contains(only) {
            continue;
        }
        let sides = slope(cell, counts, amount)?;
        for (side, bytes) in ["client", "server"].into_iter().zip(sides) {
            let bar = Bar::AtMost { goal, must };
            results.push(Outcome::of(format!("{name}, {side}"), bar, &[bytes], " B"));
        }
    }
    Ok(results)
}
