//! Calls of the last moments, counted in tenths of a window.
//!
//! A call costs three relaxed atomic operations at most; the lock is taken by the first call of each tenth.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::moment::Moment;

const BUCKETS: usize = 10;

/// Counts over a sliding window.
pub(super) struct Window {
    /// The millisecond of its beginning.
    begun: u64,
    /// Milliseconds of a tenth.
    width: AtomicU64,
    buckets: [Bucket; BUCKETS],
    turning: Mutex<()>,
}

#[derive(Default)]
struct Bucket {
    /// Which tenth since the beginning it counts, plus one; 0: none yet.
    tenth: AtomicU64,
    calls: AtomicU32,
    errors: AtomicU32,
    slow: AtomicU32,
}

/// What a call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) error: bool,
    pub(super) slow: bool,
}

/// How many calls there were, and how many of them were bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) slow: u64,
}

impl Window {
    pub(super) fn new(length: Duration, now: Moment) -> Self {
        Window {
            begun: now.millis(),
            width: AtomicU64::new(width(length)),
            buckets: Default::default(),
            turning: Mutex::new(()),
        }
    }

    /// From now on the window has another length, and is empty.
    pub(super) fn set_length(&self, length: Duration) {
        let _turning = self.turning.lock();
        if self.width.swap(width(length), Ordering::Relaxed) != width(length) {
            for bucket in &self.buckets {
                bucket.clear();
                bucket.tenth.store(0, Ordering::Release);
            }
        }
    }

    #[inline(always)]
    pub(super) fn record(&self, verdict: Verdict, now: Moment) {
        let tenth = self.tenth(now);
        let bucket = &self.buckets[(tenth % BUCKETS as u64) as usize];
        let found = bucket.tenth.load(Ordering::Acquire);
        if found < tenth {
            let _turning = self.turning.lock();
            if self.tenth(now) != tenth {
                // The window has got another length meanwhile, in which this number means another time.
                return;
            }
            if bucket.tenth.load(Ordering::Relaxed) < tenth {
                bucket.clear();
                bucket.tenth.store(tenth, Ordering::Release);
            }
        } else if found > tenth {
            // Another call was faster by a whole window.
            return;
        }
        bucket.calls.fetch_add(1, Ordering::Relaxed);
        if verdict.error {
            bucket.errors.fetch_add(1, Ordering::Relaxed);
        }
        if verdict.slow {
            bucket.slow.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self, now: Moment) -> Counts {
        let tenth = self.tenth(now);
        let mut counts = Counts::default();
        for bucket in &self.buckets {
            if bucket.tenth.load(Ordering::Acquire) + BUCKETS as u64 > tenth {
                counts.calls += u64::from(bucket.calls.load(Ordering::Relaxed));
                counts.errors += u64::from(bucket.errors.load(Ordering::Relaxed));
                counts.slow += u64::from(bucket.slow.load(Ordering::Relaxed));
            }
        }
        counts
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let _turning = self.turning.lock();
        self.buckets.iter().for_each(Bucket::clear);
    }

    /// From 1 on, and beyond any empty bucket's reach.
    #[inline(always)]
    fn tenth(&self, now: Moment) -> u64 {
        now.millis().saturating_sub(self.begun) / self.width.load(Ordering::Relaxed) + 1 + BUCKETS as u64
    }
}

fn width(length: Duration) -> u64 {
    (length.as_millis() as u64 / BUCKETS as u64).max(1)
}

impl Bucket {
    fn clear(&self) {
        self.calls.store(0, Ordering::Relaxed);
        self.errors.store(0, Ordering::Relaxed);
        self.slow.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Verdict = Verdict {
        error: false,
        slow: false,
    };
    const BAD: Verdict = Verdict {
        error: true,
        slow: true,
    };

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[tokio::test(start_paused = true)]
    async fn it_slides_by_tenths() {
        let begun = Moment::now();
        let window = Window::new(ms(1000), begun);
        for place in 0..10 {
            window.record(if place < 3 { BAD } else { GOOD }, begun + ms(place * 100));
        }
        let at = |time| {
            let counts = window.counts(begun + ms(time));
            (counts.calls, counts.errors, counts.slow)
        };
        assert_eq!(at(999), (10, 3, 3));
        assert_eq!(at(1000), (9, 2, 2));
        assert_eq!(at(1250), (7, 0, 0));
        assert_eq!(at(1900), (0, 0, 0));
        window.record(BAD, begun + ms(5000));
        assert_eq!(at(5000), (1, 1, 1));
        window.clear();
        assert_eq!(at(5000), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shortest_window_counts_too() {
        let begun = Moment::now();
        let window = Window::new(ms(100), begun);
        (0..1000).for_each(|time| window.record(GOOD, begun + ms(time)));
        assert_eq!(window.counts(begun + ms(999)).calls, 100);
    }

    #[test]
    fn no_call_is_lost_between_threads() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let _time = runtime.enter();
        let now = Moment::now();
        let window = Window::new(ms(1000), now);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| window.record(BAD, now)));
            }
        });
        assert_eq!(window.counts(now).errors, 40_000);
    }
}
