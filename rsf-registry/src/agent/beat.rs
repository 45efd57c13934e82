//! When the leases of a process are renewed: all at one moment, so that they go to the registry together, and each
//! process at moments of its own.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backoff::jittered;

/// The moments that the leases of one process share.
#[derive(Debug)]
pub(super) struct Beat {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Beat {
    /// One beat about every `interval`, 10 % more or less.
    pub(super) fn new(interval: Duration) -> Self {
        Beat {
            interval,
            next: Mutex::new(Instant::now()),
        }
    }

    /// The next moment, for who has just renewed a lease.
    pub(super) fn next(&self) -> Instant {
        self.next_after(jittered(self.interval))
    }

    /// The next moment, for who has just written a lease: sooner, by chance, so that a fleet that wrote its leases
    /// together, when the registry came back, does not renew them together ever after.
    pub(super) fn next_after_write(&self) -> Instant {
        self.next_after(self.interval.mul_f64(0.25 + fastrand::f64() * 0.75))
    }

    fn next_after(&self, pause: Duration) -> Instant {
        let now = Instant::now();
        let mut next = self.next.lock();
        if *next <= now {
            *next = now + pause;
        }
        *next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn leases_meet_at_one_moment_and_processes_do_not() {
        let interval = Duration::from_secs(5);
        let (beat, other) = (Beat::new(interval), Beat::new(interval));
        let mut apart = 0;
        for _ in 0..20 {
            let begun = Instant::now();
            let at = beat.next();
            assert!(at - begun >= interval * 9 / 10 && at - begun <= interval * 11 / 10);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(beat.next_after_write(), at, "who comes later joins");
            apart += usize::from(other.next() != at);
            tokio::time::sleep_until(at).await;
        }
        assert!(apart >= 19, "{apart}");
    }
}
