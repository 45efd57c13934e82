//! `make sim` and `make soak`: runs seeds on all processors and prints a line for each that broke something.

#![allow(clippy::print_stdout, reason = "its lines are what the program is for")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use parking_lot::Mutex;
use rsf_simulation::{Missing, Options, missed_by, run};

/// Simulates RSF's control path: the real pump and agents over twins of Redis and ZooKeeper.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds are run.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them; by default 1.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Runs this seed alone, and prints all that happens in it. RUST_LOG=debug adds what RSF logs.
    #[arg(long)]
    seed: Option<u64>,
    /// Goes on with fresh seeds for so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Takes one guard after the other away, and demands that some seed breaks without it.
    #[arg(long)]
    guards: bool,
    /// How many threads run seeds; by default one a processor.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        return replay(seed);
    }
    if arguments.guards {
        return take_guards_away(&arguments);
    }
    let first = match arguments.minutes {
        Some(_) => fastrand::u64(1 << 32..1 << 62),
        None => arguments.first,
    };
    let last = match arguments.minutes {
        Some(_) => u64::MAX,
        None => first.saturating_add(arguments.seeds),
    };
    let total = run_all(first, last, &arguments);
    println!(
        "RSF-SIM seeds={} steps={} simulated_h={} violations={} {}",
        total.seeds,
        total.steps,
        total.simulated.as_secs() / 3_600,
        total.violations,
        if total.violations == 0 { "PASS" } else { "FAIL" }
    );
    if total.violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The negative controls: a guard that no seed misses is not tried by the other runs either.
fn take_guards_away(arguments: &Arguments) -> ExitCode {
    let (next, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    on_all(arguments.threads, || {
        while let Some(missing) = Missing::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let last = arguments.first.saturating_add(arguments.seeds);
            match missed_by(*missing, arguments.first..last) {
                Ok(Some(outcome)) => {
                    missed.fetch_add(1, Ordering::Relaxed);
                    let (seed, why) = (outcome.seed, outcome.violation.unwrap_or_default());
                    println!("RSF-SIM without={missing:?} seed={seed} PASS: broken, {why}");
                }
                Ok(None) => println!(
                    "RSF-SIM without={missing:?} seeds={} FAIL: nothing broke",
                    arguments.seeds
                ),
                Err(error) => println!("RSF-SIM without={missing:?} FAIL: cannot run: {error}"),
            }
        }
    });
    if missed.into_inner() == Missing::ALL.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn replay(seed: u64) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .without_time()
        .init();
    let options = Options {
        trace: true,
        ..Options::default()
    };
    match run(seed, options) {
        Ok(outcome) => {
            println!("{outcome}");
            if outcome.violation.is_none() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            println!("RSF-SIM seed={seed} cannot run: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    steps: u64,
    simulated: Duration,
    violations: u64,
}

fn run_all(first: u64, last: u64, arguments: &Arguments) -> Total {
    let begin = tokio::time::Instant::now();
    let limit = arguments.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let (next, total) = (AtomicU64::new(first), Mutex::new(Total::default()));
    on_all(arguments.threads, || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= last || limit.is_some_and(|limit| begin.elapsed() >= limit) {
                return;
            }
            let outcome = run(seed, Options::default());
            let mut total = total.lock();
            total.seeds += 1;
            match outcome {
                Ok(outcome) => {
                    total.steps += outcome.steps;
                    total.simulated += outcome.simulated;
                    if outcome.violation.is_some() {
                        total.violations += 1;
                        println!("{outcome}");
                    }
                }
                Err(error) => {
                    total.violations += 1;
                    println!("RSF-SIM seed={seed} cannot run: {error}");
                    return;
                }
            }
        }
    });
    total.into_inner()
}

/// Does the same on so many threads, by default on one a processor, and waits for all.
fn on_all(threads: Option<usize>, work: impl Fn() + Sync) {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.unwrap_or_else(processors) {
            scope.spawn(&work);
        }
    });
}
