//! What happened in a run: one line an event, and a number that stands for all of them.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The events of one run, in order.
#[derive(Debug)]
pub(crate) struct Trace {
    start: Instant,
    shown: bool,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    steps: u64,
    hash: u64,
}

impl Trace {
    /// An empty trace; call it inside the run's runtime. Lines are printed where `shown`.
    pub(crate) fn new(shown: bool) -> Self {
        let written = Written {
            steps: 0,
            // FNV-1a's offset basis.
            hash: 0xcbf2_9ce4_8422_2325,
        };
        Trace {
            start: Instant::now(),
            shown,
            written: Mutex::new(written),
        }
    }

    /// Since the run's start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Adds an event.
    pub(crate) fn note(&self, who: &str, what: std::fmt::Arguments<'_>) {
        let line = format!("{:>10.3} {who:<12} {what}", self.elapsed().as_secs_f64());
        if self.shown {
            print(&line);
        }
        let mut written = self.written.lock();
        written.steps += 1;
        for byte in line.bytes() {
            written.hash = (written.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// How many events there were, and the hash of all of them.
    pub(crate) fn sum(&self) -> (u64, u64) {
        let written = self.written.lock();
        (written.steps, written.hash)
    }
}

#[allow(clippy::print_stdout, reason = "the trace is what a replayed seed is for")]
fn print(line: &str) {
    println!("{line}");
}
