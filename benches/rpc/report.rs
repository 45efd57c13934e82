//! The run in rounds, and its result: medians and spread, as a table and as JSON.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose purpose is its output"
)]

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::load::Measured;
use crate::plan::{Amount, Cell, PAYLOAD, Peer, cells};
use crate::process::measure;
use crate::{Error, Result, cpu};

/// The bar: CPU per call of a governed call, as a multiple of bare tonic's.
const BAR: f64 = 1.2;

/// One cell's result over all rounds.
#[derive(Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    cell: Cell,
    calls_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    client_cpu_us: f64,
    server_cpu_us: f64,
    /// Least, median and greatest CPU of both sides.
    cpu_us: [f64; 3],
    /// The median of the rounds' ratios to tonic in the same round; absent without a tonic cell.
    cpu_to_tonic: Option<f64>,
    calls_to_tonic: Option<f64>,
    rounds: Vec<Measured>,
}

/// What is written to `target/bench/rpc.json`.
#[derive(Serialize)]
struct Run {
    payload_bytes: usize,
    repeats: u32,
    window_ms: u128,
    cores: usize,
    /// Cores that other processes used meanwhile, on average.
    disturbance: f64,
    rows: Vec<Row>,
}

/// Measures all cells `repeats` times, prints the table and writes the JSON.
pub(crate) fn run(only: &str, repeats: u32, window: Duration) -> Result<()> {
    let cells = cells(only);
    if cells.is_empty() {
        return Err(Error::from(format!("no cell's name contains `{only}`")));
    }
    let amount = Amount::Time {
        warm: window / 2,
        window,
    };
    let (begun, machine) = (Instant::now(), cpu::of_machine()?);
    let mut ours = 0.0;
    let mut rounds: Vec<Vec<Measured>> = cells.iter().map(|_| Vec::new()).collect();
    for round in 0..repeats {
        let mut order: Vec<usize> = (0..cells.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            eprint!(
                "\rround {} of {repeats}: {:<60}",
                round + 1,
                cells[place].to_string()
            );
            let measured = measure(cells[place], amount, &[], &[])?;
            // Half as much again for the warm-up; starting and ending are left to the others' account.
            ours += 1.5 * measured.calls as f64 * (measured.client_cpu_us + measured.server_cpu_us) / 1e6;
            rounds[place].push(measured);
        }
    }
    eprintln!("\r{:80}\r", "");
    let used = cpu::of_machine()?.saturating_sub(machine).as_secs_f64();
    let disturbance = ((used - ours) / begun.elapsed().as_secs_f64()).max(0.0);
    let rows = rows(&cells, &rounds);
    let run = Run {
        payload_bytes: PAYLOAD,
        repeats,
        window_ms: window.as_millis(),
        cores: std::thread::available_parallelism()?.get(),
        disturbance,
        rows,
    };
    print(&run);
    let path = output_folder()?.join("rpc.json");
    std::fs::write(&path, serde_json::to_string_pretty(&run)?)?;
    println!("\nAll rounds: {}", path.display());
    Ok(())
}

/// `target/bench`.
pub(crate) fn output_folder() -> Result<PathBuf> {
    let folder = target_folder()?.join("bench");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// `target`, wherever cargo keeps it: this program lies in `<target>/release/deps`.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3);
    let target = target.ok_or("this program lies in no target folder")?;
    Ok(target.to_owned())
}

fn rows(cells: &[Cell], rounds: &[Vec<Measured>]) -> Vec<Row> {
    let row = |(cell, own): (&Cell, &Vec<Measured>)| {
        let tonic = cells.iter().position(|other| *other == cell.baseline());
        let ratio = |of: fn(&Measured) -> f64| {
            let tonic = &rounds[tonic?];
            Some(median(
                own.iter().zip(tonic).map(|(own, tonic)| of(own) / of(tonic)),
            ))
        };
        let middle = |of: fn(&Measured) -> f64| median(own.iter().map(of));
        let cpu = own.iter().map(both_cpu);
        Row {
            name: cell.to_string(),
            cell: *cell,
            calls_per_second: middle(rate),
            p50_us: middle(|m| m.p50_us),
            p99_us: middle(|m| m.p99_us),
            client_cpu_us: middle(|m| m.client_cpu_us),
            server_cpu_us: middle(|m| m.server_cpu_us),
            cpu_us: [
                cpu.clone().fold(f64::INFINITY, f64::min),
                middle(both_cpu),
                cpu.fold(0.0, f64::max),
            ],
            cpu_to_tonic: ratio(both_cpu),
            calls_to_tonic: ratio(rate),
            rounds: own.clone(),
        }
    };
    cells.iter().zip(rounds).map(row).collect()
}

fn both_cpu(measured: &Measured) -> f64 {
    measured.client_cpu_us + measured.server_cpu_us
}

fn rate(measured: &Measured) -> f64 {
    measured.calls as f64 / measured.seconds
}

/// The middle of them; of the two middle ones their mean.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

fn print(run: &Run) {
    println!(
        "{PAYLOAD} B echo over loopback, closed loop, one connection an instance; medians of {} rounds of {} ms.",
        run.repeats, run.window_ms
    );
    println!(
        "CPU is microseconds a call; [least–greatest of the rounds]. Other processes used {:.2} of {} cores.\n",
        run.disturbance, run.cores
    );
    println!("| | calls/s | p50 µs | p99 µs | CPU client + server | both | calls to tonic | CPU to tonic |");
    println!("|---|---|---|---|---|---|---|---|");
    let times = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} ×"));
    for row in &run.rows {
        println!(
            "| {} | {:.0} | {:.1} | {:.1} | {:.2} + {:.2} | {:.2} [{:.2}–{:.2}] | {} | {} |",
            row.name,
            row.calls_per_second,
            row.p50_us,
            row.p99_us,
            row.client_cpu_us,
            row.server_cpu_us,
            row.cpu_us[1],
            row.cpu_us[0],
            row.cpu_us[2],
            times(row.calls_to_tonic),
            times(row.cpu_to_tonic),
        );
    }
    let headline = run.rows.iter().find(|row| row.cell.peer == Peer::Governed);
    if let Some((row, ratio)) = headline.and_then(|row| Some((row, row.cpu_to_tonic?))) {
        let verdict = if ratio <= BAR { "holds" } else { "is missed" };
        println!(
            "\n{}: {ratio:.2} × tonic's CPU a call; the bar of {BAR} × {verdict}.",
            row.name
        );
    }
}
