//! Waiting between attempts to reach a backend: growing, bounded, and different in every process.

use std::time::Duration;

/// Delays that double from `first` to `longest`, each drawn from its upper half, so that a fleet does not come back
/// in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Default for Backoff {
    /// From 100 ms to 2 s: a change is seen soon after the backend is back, and 1 000 processes cost it 700 attempts/s.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
    }
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Backoff {
            first,
            longest: longest.max(first),
            attempts: 0,
        }
    }

    /// The delay before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self
            .first
            .saturating_mul(1 << self.attempts.min(16))
            .min(self.longest);
        self.attempts = self.attempts.saturating_add(1);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// How often was waited since the last success.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// `interval` ± 10 %.
pub(crate) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + fastrand::f64() * 0.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_longest_and_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let (delay, whole) = (backoff.next(), Duration::from_millis(whole));
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
        }
        for _ in 0..100 {
            assert!(backoff.next() <= Duration::from_secs(1));
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }

    #[test]
    fn two_processes_do_not_wait_alike() {
        let waits = || {
            let mut backoff = Backoff::default();
            (0..10).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_ne!(waits(), waits());
        let second = Duration::from_secs(1);
        let drawn: Vec<_> = (0..100).map(|_| jittered(second)).collect();
        let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
        assert!(
            *most - *least > Duration::from_millis(50),
            "{least:?} to {most:?}"
        );
        assert!(*least >= second.mul_f64(0.9) && *most <= second.mul_f64(1.1));
    }
}
