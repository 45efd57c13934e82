//! How long a method's latest answers took, for the delay of hedges.
//!
//! A histogram whose buckets grow by an eighth of a power of two (at most 12.5 % too long, never too short). It forgets by
//! halving: the estimate stands on the last few thousand answers. An answer costs two atomic additions and takes no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Buckets per doubling.
const STEPS: u32 = 8;
/// Doublings above 16 µs: up to 70 minutes.
const DOUBLINGS: u32 = 28;
const BUCKETS: usize = (STEPS * DOUBLINGS) as usize;
/// Answers below which there is no estimate.
const LEAST: u32 = 100;
/// Answers at which the older ones are halved.
const MOST: u32 = 4096;
/// Answers after which a percentile is read anew.
const FRESH: u32 = 32;

/// The latest answers of one method.
pub(crate) struct Latency {
    buckets: [AtomicU32; BUCKETS],
    /// Answers in all buckets, but for those that are being added.
    count: AtomicU32,
    /// The percentile that was read last, as the bits of its number, and what it was in microseconds.
    asked: AtomicU64,
    micros: AtomicU64,
    /// Answers until it is read anew.
    fresh: AtomicU32,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Latency {
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
            count: AtomicU32::new(0),
            asked: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            fresh: AtomicU32::new(0),
        }
    }

    /// Notes an answer that took `took`, or one that was not waited for any longer than that.
    pub(crate) fn note(&self, took: Duration) {
        self.buckets[bucket(took)].fetch_add(1, Ordering::Relaxed);
        let fresh = self.fresh.load(Ordering::Relaxed);
        self.fresh.store(fresh.saturating_sub(1), Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 >= MOST {
            self.forget();
        }
    }

    /// The time within which `percentile` per cent of the latest answers came; `None` while too few are known.
    pub(crate) fn percentile(&self, percentile: f64) -> Option<Duration> {
        if self.count.load(Ordering::Relaxed) < LEAST {
            return None;
        }
        let same = self.asked.load(Ordering::Relaxed) == percentile.to_bits();
        if !same || self.fresh.load(Ordering::Relaxed) == 0 {
            self.micros.store(self.read(percentile), Ordering::Relaxed);
            self.asked.store(percentile.to_bits(), Ordering::Relaxed);
            self.fresh.store(FRESH, Ordering::Relaxed);
        }
        Some(Duration::from_micros(self.micros.load(Ordering::Relaxed)))
    }

    fn read(&self, percentile: f64) -> u64 {
        let counts = self.buckets.each_ref().map(|count| count.load(Ordering::Relaxed));
        let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let wanted = (all as f64 * percentile / 100.0).ceil() as u64;
        let mut seen = 0;
        let place = counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        upper_bound(place.unwrap_or(BUCKETS - 1))
    }

    fn forget(&self) {
        let mut left = 0;
        for bucket in &self.buckets {
            let half = bucket.load(Ordering::Relaxed) / 2;
            bucket.store(half, Ordering::Relaxed);
            left += half;
        }
        // Two threads that halve at once lose some answers; the shares stay.
        self.count.store(left, Ordering::Relaxed);
    }
}

/// 16 µs, of which a bucket below takes no smaller part.
const UNIT: u64 = 16;

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    // Eighths of the power of two below it.
    let scaled = (micros.saturating_mul(u64::from(STEPS)) / UNIT).max(u64::from(STEPS));
    let doubling = scaled.ilog2() - STEPS.ilog2();
    let step = (scaled >> doubling) as usize - STEPS as usize;
    ((doubling * STEPS) as usize + step).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    let (doubling, step) = (bucket as u32 / STEPS, bucket as u64 % u64::from(STEPS));
    ((u64::from(STEPS) + step + 1) << doubling) * UNIT / u64::from(STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: Option<Duration>, micros: u64) {
        let found = found.unwrap().as_micros() as u64;
        assert!(
            (micros..=micros * 9 / 8 + 2).contains(&found),
            "{found} instead of {micros}"
        );
    }

    #[test]
    fn buckets_hold_what_is_below_their_bound() {
        for micros in (0..100_000).chain([1_000_000, 59_999_999, 3_600_000_000]) {
            let place = bucket(Duration::from_micros(micros));
            let bound = upper_bound(place);
            assert!(bound > micros, "{micros} in {place}, which ends at {bound}");
            assert!(bound <= (micros * 9 / 8 + 2).max(18), "{micros}: {bound}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_latest_answers() {
        let latency = Latency::new();
        for n in 1..100 {
            latency.note(Duration::from_millis(n));
        }
        assert_eq!(latency.percentile(50.0), None, "too few");
        latency.note(Duration::from_millis(100));
        near(latency.percentile(50.0), 50_000);
        near(latency.percentile(95.0), 95_000);
        near(latency.percentile(99.0), 99_000);
        for _ in 0..3 * MOST {
            latency.note(Duration::from_millis(7));
        }
        near(latency.percentile(95.0), 7_000);
        near(latency.percentile(99.9), 7_000);
    }
}
