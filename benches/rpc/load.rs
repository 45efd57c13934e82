//! The closed loop: so many tasks, each of which calls again as soon as its reply is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::plan::Amount;
use crate::resident::{self, Resident};
use crate::{Error, Result, cpu};

// By its path: tarpc's program includes this file by path too.
#[path = "load/open_loop.rs"]
mod open_loop;

/// Something that can be called again and again.
pub(crate) trait Caller: Clone + Send + 'static {
    /// One call, with a look at its reply.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// One call that the server does not answer.
    fn hold(&mut self) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Err(Error::from("this peer holds no calls")))
    }
}

/// What a client has measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) calls: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// CPU microseconds a call.
    pub(crate) client_cpu_us: f64,
    pub(crate) server_cpu_us: f64,
    /// What pending calls take, where there were some.
    pub(crate) resident: Option<Resident>,
}

const WARM: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

struct Control {
    phase: AtomicU8,
    /// Calls that may still begin.
    left: AtomicU64,
}

/// Runs the load on the runtime around it. The first call that fails ends it.
pub(crate) async fn run(
    caller: impl Caller,
    in_flight: usize,
    amount: Amount,
    server: u32,
) -> Result<Measured> {
    if let Amount::Pending(pending) = amount {
        let resident = Some(resident::hold(caller, pending, server).await?);
        return Ok(Measured {
            resident,
            ..Measured::default()
        });
    }
    let (phase, left) = match amount {
        Amount::Time { .. } => (WARM, u64::MAX),
        Amount::Calls(calls) => (MEASURE, calls),
        Amount::Open { rate, warm, window } => {
            return open_loop::run(caller, rate, warm, window, server).await;
        }
        Amount::Pending(_) | Amount::Idle(_) => return Err(Error::from("this peer has no such amount")),
    };
    let control = Arc::new(Control {
        phase: AtomicU8::new(phase),
        left: AtomicU64::new(left),
    });
    let mut tasks = Vec::new();
    let mut clocks = Clocks::read(server)?;
    for _ in 0..in_flight {
        tasks.push(tokio::spawn(call_again(caller.clone(), control.clone())));
    }
    if let Amount::Time { warm, window } = amount {
        tokio::time::sleep(warm).await;
        clocks = Clocks::read(server)?;
        control.phase.store(MEASURE, Ordering::Relaxed);
        tokio::time::sleep(window).await;
        control.phase.store(STOP, Ordering::Relaxed);
        clocks = Clocks::read(server)?.since(&clocks);
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    if matches!(amount, Amount::Calls(_)) {
        clocks = Clocks::read(server)?.since(&clocks);
    }
    Ok(summary(latencies, &clocks))
}

fn summary(mut latencies: Vec<u32>, clocks: &Clocks) -> Measured {
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies.get(place).map_or(0.0, |nanos| f64::from(*nanos) / 1e3)
    };
    let calls = latencies.len().max(1) as f64;
    Measured {
        calls: latencies.len() as u64,
        seconds: clocks.wall.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
        client_cpu_us: clocks.client.as_secs_f64() * 1e6 / calls,
        server_cpu_us: clocks.server.as_secs_f64() * 1e6 / calls,
        resident: None,
    }
}

/// One task's loop. Returns the nanoseconds of each call that ended while it was measured; a plain list, because
/// appending to it disturbs the caches less than a histogram a task.
async fn call_again(mut caller: impl Caller, control: Arc<Control>) -> Result<Vec<u32>> {
    let mut latencies = Vec::with_capacity(1 << 14);
    // The end of a call is the beginning of the next: one look at the clock a call.
    let mut begun = Instant::now();
    loop {
        let phase = control.phase.load(Ordering::Relaxed);
        let left = control
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if phase == STOP || left.is_err() {
            return Ok(latencies);
        }
        caller.call().await?;
        let now = Instant::now();
        if control.phase.load(Ordering::Relaxed) == MEASURE {
            let took = now.duration_since(begun).as_nanos();
            latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
        begun = now;
    }
}

struct Clocks {
    at: Instant,
    wall: Duration,
    client: Duration,
    server: Duration,
}

impl Clocks {
    fn read(server: u32) -> Result<Clocks> {
        Ok(Clocks {
            at: Instant::now(),
            wall: Duration::ZERO,
            client: cpu::of_process(std::process::id())?,
            server: cpu::of_process(server)?,
        })
    }

    fn since(self, before: &Clocks) -> Clocks {
        Clocks {
            wall: self.at.duration_since(before.at),
            client: self.client.saturating_sub(before.client),
            server: self.server.saturating_sub(before.server),
            at: self.at,
        }
    }
}
