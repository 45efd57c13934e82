//! Calls at a steady rate, whatever becomes of the ones before, and what became of each.

use std::sync::Arc;
use std::time::Duration;

use rsf::{Reason, RpcError};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often calls that are due are sent.
const TICK: Duration = Duration::from_millis(5);

/// A call that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Its place in the order of sending.
    pub(crate) place: u64,
    pub(crate) took: Duration,
    /// `None` where it was answered.
    pub(crate) failed: Option<Reason>,
}

/// Makes `rate` calls a second for `time` and waits for the last one's end. `call` is told each one's place.
pub(crate) async fn open_loop<F>(
    rate: u64,
    time: Duration,
    call: impl Fn(u64) -> F + Send + Sync + 'static,
) -> Vec<Ended>
where
    F: Future<Output = Result<(), RpcError>> + Send + 'static,
{
    let (tell, mut told) = mpsc::unbounded_channel();
    let call = Arc::new(call);
    let begun = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = 0;
    while begun.elapsed() < time {
        ticks.tick().await;
        let due = begun.elapsed().min(time).as_micros() as u64 * rate / 1_000_000;
        for place in sent..due {
            let (call, tell) = (call(place), tell.clone());
            tokio::spawn(async move {
                let begun = Instant::now();
                let failed = call.await.err().map(|error| error.reason());
                let took = begun.elapsed();
                tell.send(Ended { place, took, failed }).ok();
            });
        }
        sent = sent.max(due);
    }
    drop(tell);
    let mut ended = Vec::new();
    while let Some(call) = told.recv().await {
        ended.push(call);
    }
    ended
}

/// The 99th percentile in milliseconds; zero of nothing.
pub(crate) fn p99_ms(ended: impl Iterator<Item = Ended>) -> f64 {
    let mut times: Vec<_> = ended.map(|call| call.took).collect();
    times.sort_unstable();
    let place = (times.len() * 99 / 100).min(times.len().saturating_sub(1));
    times.get(place).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
}
