//! `rsf bench`: what the control path costs at a fleet's size, measured on real stores.

mod fleet;
mod leases;

mod consumer;
mod servers;

mod registry;
mod sessions;

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::Failure;

#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Simulate a fleet on real Redis and ZooKeeper with a pump of its own, and print figures as JSON
    Registry(registry::RegistryArguments),
    /// Start consumers by the thousand on a ZooKeeper ensemble of its own, restart its servers, and print figures as JSON
    Sessions(sessions::SessionsArguments),
}

pub(crate) async fn run(command: BenchCommand) -> Result<ExitCode, Failure> {
    let measuring = async {
        match command {
            BenchCommand::Registry(arguments) => registry::run(arguments).await,
            BenchCommand::Sessions(arguments) => sessions::run(arguments).await,
        }
    };
    tokio::select! {
        done = measuring => done,
        // What it started ends with it, and its folder goes.
        _ = tokio::signal::ctrl_c() => Err("interrupted before there were figures".into()),
    }
}

/// Waits until `condition` holds, at most `patience`; answers whether it does.
async fn until(patience: Duration, condition: impl AsyncFn() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// How long things took, in milliseconds with two places.
fn percentiles(mut took: Vec<Duration>) -> Value {
    took.sort_unstable();
    let percentile = |share: usize| {
        let place = (took.len() * share / 100).min(took.len().saturating_sub(1));
        took.get(place)
            .map(|took| (took.as_secs_f64() * 100_000.0).round() / 100.0)
    };
    json!({
        "count": took.len(), "p50_ms": percentile(50), "p99_ms": percentile(99), "max_ms": percentile(100),
    })
}

/// Seconds with three places.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// What it does now, on standard error: standard output is the figures' alone.
fn say(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}
