//! Work that a handler does: so much of the processor's time, whoever else wants it.

use std::hint::black_box;
use std::time::Duration;

use tokio::time::Instant;

/// Rounds that are timed at a time.
const SAMPLE: u64 = 20_000;

/// So much to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    rounds: u64,
}

impl Work {
    /// Work that takes this long where nobody disturbs it: the fastest of many tries says how much that is. A handler that
    /// looked at the clock instead would count the time of its neighbours as its own.
    pub(crate) fn of_micros(micros: u32) -> Work {
        if micros == 0 {
            return Work { rounds: 0 };
        }
        let tries = (0..200).map(|_| {
            let begun = Instant::now();
            spin(SAMPLE);
            begun.elapsed()
        });
        let fastest = tries.min().unwrap_or(Duration::MAX).as_secs_f64();
        let rounds = f64::from(micros) / 1e6 / fastest * SAMPLE as f64;
        Work {
            rounds: rounds as u64,
        }
    }

    /// Does it.
    pub(crate) fn burn(self) {
        spin(self.rounds);
    }
}

fn spin(rounds: u64) {
    for round in 0..rounds {
        black_box(round);
    }
}
