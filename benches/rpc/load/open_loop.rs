//! The open loop: calls begin when they are due, by the clock of a thread that waits for nobody.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Caller, Clocks, Measured, summary};
use crate::{Error, Result};

/// Calls begin in bunches at this distance: nearer together than a millisecond, which is as fine as tokio's timers are, and
/// far enough apart that the thread takes little from the machine.
const STEP: Duration = Duration::from_micros(250);
/// For how long after the last call began an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Begins `rate` calls a second, each a task of its own, and counts from when each was due.
pub(super) async fn run(
    caller: impl Caller,
    rate: f64,
    warm: Duration,
    window: Duration,
    server: u32,
) -> Result<Measured> {
    let (report, mut reports) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Handle::current();
    let begun = Instant::now();
    let measured_from = begun + warm;
    let begins = std::thread::spawn(move || {
        let mut called = 0;
        for step in 1.. {
            let due = begun + STEP * step;
            if due > measured_from + window {
                return;
            }
            wait_until(due);
            // As many as the time since the beginning brings, all told: no rounding adds up.
            let wanted = (rate * (due - begun).as_secs_f64()) as u64;
            for _ in called..wanted {
                let (mut caller, report) = (caller.clone(), report.clone());
                runtime.spawn(async move {
                    let outcome = caller.call().await;
                    if due >= measured_from {
                        let _ = report.send(outcome.map(|()| due.elapsed()));
                    }
                });
            }
            called = wanted;
        }
    });
    tokio::time::sleep_until(measured_from).await;
    let clocks = Clocks::read(server)?;
    tokio::time::sleep(window).await;
    let clocks = Clocks::read(server)?.since(&clocks);
    let mut latencies = Vec::new();
    let all = async {
        while let Some(outcome) = reports.recv().await {
            latencies.push(u32::try_from(outcome?.as_nanos()).unwrap_or(u32::MAX));
        }
        Ok::<(), Error>(())
    };
    let ended = tokio::time::timeout(PATIENCE, all).await;
    ended
        .map_err(|_| Error::from("calls that are not answered: the rate is beyond what the peer can do"))??;
    begins
        .join()
        .map_err(|_| "the thread that begins calls panicked")?;
    Ok(summary(latencies, &clocks))
}

#[allow(
    clippy::disallowed_methods,
    reason = "a thread of its own, which no runtime waits for"
)]
fn wait_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}
