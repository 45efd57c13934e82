//! How an instance that ends knows that its consumers have heard of it: no call comes any more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often the count is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// Counts the calls that come although the instance drains. Costs the others a look at a word that nobody writes.
#[derive(Default)]
pub(super) struct Drain {
    begun: AtomicBool,
    late: AtomicU64,
}

impl Drain {
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// A call has come. Of one that comes in parts it may be said more than once.
    pub(super) fn arrived(&self) {
        if self.begun.load(Ordering::Relaxed) {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until no call has come for `quiet`, `limit` at most. Returns whether it is quiet.
    pub(super) async fn quiet(&self, quiet: Duration, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let (mut seen, mut since) = (self.late.load(Ordering::Relaxed), Instant::now());
        while since.elapsed() < quiet {
            if Instant::now() >= end {
                return false;
            }
            sleep(LOOK).await;
            let late = self.late.load(Ordering::Relaxed);
            if late != seen {
                (seen, since) = (late, Instant::now());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_when_no_call_has_come_for_a_while() {
        let drain = Drain::default();
        drain.arrived();
        drain.begin();
        let begun = Instant::now();
        let calls = async {
            for _ in 0..10 {
                sleep(Duration::from_millis(100)).await;
                drain.arrived();
            }
        };
        let quiet = drain.quiet(Duration::from_millis(400), Duration::from_secs(5));
        let ((), quiet) = tokio::join!(calls, quiet);
        assert!(quiet);
        let took = begun.elapsed().as_millis();
        assert!((1400..1500).contains(&took), "{took} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_never_stop_do_not_keep_it() {
        let drain = Drain::default();
        drain.begin();
        let begun = Instant::now();
        let calls = async {
            loop {
                sleep(Duration::from_millis(100)).await;
                drain.arrived();
            }
        };
        let quiet = drain.quiet(Duration::from_millis(400), Duration::from_secs(3));
        let quiet = tokio::select! {
            () = calls => unreachable!("it never ends"),
            quiet = quiet => quiet,
        };
        assert!(!quiet);
        assert_eq!(begun.elapsed().as_millis() / 50, 60);
    }
}
