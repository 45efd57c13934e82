//! The one source of chance of a run.

use std::time::Duration;

use parking_lot::Mutex;

/// Random choices, all from one seed and in the order in which the run asks for them.
#[derive(Debug)]
pub(crate) struct Chance {
    rng: Mutex<fastrand::Rng>,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Chance {
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
        }
    }

    /// A number from `least` to `most`, both included.
    pub(crate) fn number(&self, least: u64, most: u64) -> u64 {
        self.rng.lock().u64(least..=most.max(least))
    }

    /// Whether something happens that happens in `percent` of the cases.
    pub(crate) fn happens(&self, percent: u64) -> bool {
        self.number(1, 100) <= percent
    }

    /// A time from `least` to `most` milliseconds.
    pub(crate) fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.number(least, most))
    }

    /// A time from `least` to `most` seconds, in milliseconds.
    pub(crate) fn seconds(&self, least: u64, most: u64) -> Duration {
        self.millis(least * 1_000, most * 1_000)
    }

    /// One of `choices`; `None` where there is none.
    pub(crate) fn pick<'a, T>(&self, choices: &'a [T]) -> Option<&'a T> {
        let last = choices.len().checked_sub(1)?;
        choices.get(self.index(last))
    }

    /// A place from 0 to `last`.
    pub(crate) fn index(&self, last: usize) -> usize {
        self.rng.lock().usize(0..=last)
    }
}
