//! How long handlers take: what a call that waits needs yet, and how fast the queue moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// The recent median, by steps of a sixteenth towards each new value: half of them pull it up and half down where it is
/// right. (Frugal streaming, Ma, Muthukrishnan and Sandler 2013, with relative steps.) Two writers at once may lose a
/// step, which does no harm.
#[derive(Debug, Default)]
pub(super) struct Median(AtomicU64);

impl Median {
    pub(super) fn add(&self, took: Duration) {
        let (value, median) = (nanos(took), self.0.load(Ordering::Relaxed));
        let step = median / 16 + 1;
        let next = match median {
            0 => value,
            _ if value > median => median + step.min(value - median),
            _ => median - step.min(median - value),
        };
        self.0.store(next, Ordering::Relaxed);
    }

    /// Zero where nothing is known.
    pub(super) fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// The recent mean: each value counts for a thirty-second part.
#[derive(Debug, Default)]
pub(super) struct Mean(AtomicU64);

impl Mean {
    pub(super) fn add(&self, took: Duration) {
        let (value, mean) = (nanos(took), self.0.load(Ordering::Relaxed));
        let next = match mean {
            0 => value,
            _ if value > mean => mean + (value - mean) / 32,
            _ => mean - (mean - value) / 32,
        };
        self.0.store(next, Ordering::Relaxed);
    }

    /// Zero where nothing is known.
    pub(super) fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_finds_the_middle_and_ignores_the_tail() {
        let median = Median::default();
        assert_eq!(median.get(), Duration::ZERO);
        for round in 0..3000_u64 {
            // Nine between 8 and 12 ms, and one of five seconds.
            let millis = if round % 10 == 9 { 5000 } else { 8 + round * 7 % 5 };
            median.add(Duration::from_millis(millis));
        }
        let millis = median.get().as_millis();
        assert!((8..=12).contains(&millis), "{millis}");
    }

    #[test]
    fn both_follow_a_change_within_a_hundred_calls() {
        let (median, mean) = (Median::default(), Mean::default());
        for millis in [1, 50, 2] {
            for _ in 0..150 {
                median.add(Duration::from_millis(millis));
                mean.add(Duration::from_millis(millis));
            }
            for found in [median.get(), mean.get()] {
                let found = found.as_secs_f64() * 1000.0;
                assert!((found / millis as f64 - 1.0).abs() < 0.25, "{found} for {millis}");
            }
        }
    }
}
