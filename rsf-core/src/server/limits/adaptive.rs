//! A limit learned from latency: Gradient2 of Netflix's concurrency-limits.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::policy::AdaptiveRules;

/// Handlers above what the gradient asks for: what may queue up behind them without being noticed in the latency.
const QUEUED: f64 = 4.0;
/// Windows that the long-term latency is averaged over; the first ten are a plain mean.
const LONG: f64 = 600.0;
const WARM_UP: u32 = 10;
/// Calls that a window has at least.
const LEAST: u64 = 10;

/// The limit's arithmetic, one step a window.
#[derive(Debug, Clone, Copy)]
struct Gradient {
    limit: f64,
    /// Seconds.
    long: f64,
    windows: u32,
}

impl Gradient {
    fn new(initial: u32) -> Self {
        Gradient {
            limit: f64::from(initial),
            long: 0.0,
            windows: 0,
        }
    }

    /// Takes over a window in which handlers took `short` seconds and `peak` ran at once.
    fn step(&mut self, rules: &AdaptiveRules, short: f64, peak: usize) {
        let (least, most) = (f64::from(rules.min.min(rules.max)), f64::from(rules.max));
        let saturated = peak as f64 >= self.limit.floor();
        if self.windows < WARM_UP {
            self.long = (self.long * f64::from(self.windows) + short) / f64::from(self.windows + 1);
            self.windows += 1;
        } else {
            // Beyond Netflix's: a latency that rises because the limit is reached is what the limit is to hold down, and
            // must not become the new normal within minutes. Ten times slower it still does within hours, so that a
            // handler that has really become slower is not throttled for ever.
            let slow = if saturated && short > self.long { 0.1 } else { 1.0 };
            self.long += (short - self.long) * slow * 2.0 / (LONG + 1.0);
        }
        // After a time of overload the long-term latency is too high for long.
        if self.long > short * 2.0 {
            self.long *= 0.95;
        }
        // Where the callers ask for less, nothing can be learned about more.
        if (peak as f64) < self.limit / 2.0 {
            self.limit = self.limit.clamp(least, most);
            return;
        }
        let gradient = (rules.tolerance * self.long / short).clamp(0.5, 1.0);
        let aim = self.limit * gradient + QUEUED;
        let next = self.limit * (1.0 - rules.smoothing) + aim * rules.smoothing;
        self.limit = next.clamp(least, most);
    }
}

/// The latencies of the window that goes on, and the limit that they will move.
#[derive(Debug)]
pub(super) struct Learning {
    enabled: AtomicBool,
    born: Instant,
    /// Microseconds since `born`.
    window_ends: AtomicU64,
    /// Nanoseconds.
    sum: AtomicU64,
    count: AtomicU64,
    peak: AtomicUsize,
    learned: Mutex<(AdaptiveRules, Gradient)>,
}

impl Learning {
    pub(super) fn new() -> Self {
        let rules = AdaptiveRules::default();
        Learning {
            enabled: AtomicBool::new(false),
            born: Instant::now(),
            window_ends: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            count: AtomicU64::new(0),
            peak: AtomicUsize::new(0),
            learned: Mutex::new((rules, Gradient::new(rules.initial))),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Takes over what policy says; the limit that holds then, `None` where it is not learned. What is learned stays
    /// while it is enabled, unless `initial` changes.
    pub(super) fn set(&self, rules: AdaptiveRules) -> Option<usize> {
        let mut learned = self.learned.lock();
        let fresh = !self.is_enabled() || learned.0.initial != rules.initial;
        self.enabled.store(rules.enabled, Ordering::Relaxed);
        if fresh {
            learned.1 = Gradient::new(rules.initial);
            self.begin(rules.window_ms);
        }
        learned.0 = rules;
        let (least, most) = (f64::from(rules.min.min(rules.max)), f64::from(rules.max));
        learned.1.limit = learned.1.limit.clamp(least, most);
        rules.enabled.then_some(learned.1.limit as usize)
    }

    /// Adds a handler that took `took` while `running` ran. The new limit where that ended a window.
    pub(super) fn add(&self, took: Duration, running: usize) -> Option<usize> {
        self.sum.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        self.peak.fetch_max(running, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if count < LEAST || self.now() < self.window_ends.load(Ordering::Relaxed) {
            return None;
        }
        // Whoever finds it taken knows that somebody else does the step.
        let mut learned = self.learned.try_lock()?;
        if self.now() < self.window_ends.load(Ordering::Relaxed) || !self.is_enabled() {
            return None;
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e9;
        let short = sum / self.count.load(Ordering::Relaxed).max(1) as f64;
        let peak = self.peak.load(Ordering::Relaxed);
        let (rules, gradient) = &mut *learned;
        gradient.step(rules, short.max(1e-6), peak);
        self.begin(rules.window_ms);
        Some(gradient.limit as usize)
    }

    fn begin(&self, window_ms: u64) {
        self.sum.store(0, Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        self.peak.store(0, Ordering::Relaxed);
        self.window_ends
            .store(self.now() + window_ms * 1000, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.born.elapsed().as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backend that serves 16 at once in 10 ms each: with more in flight each takes longer.
    fn latency(in_flight: f64) -> f64 {
        0.010 * (in_flight / 16.0).max(1.0)
    }

    fn run(gradient: &mut Gradient, offered: f64, windows: usize) {
        let rules = AdaptiveRules::default();
        for _ in 0..windows {
            let in_flight = offered.min(gradient.limit.floor());
            gradient.step(&rules, latency(in_flight), in_flight as usize);
        }
    }

    #[test]
    fn it_settles_near_the_capacity_and_stays_for_ten_minutes_of_overload() {
        let mut gradient = Gradient::new(20);
        run(&mut gradient, 8.0, 30);
        run(&mut gradient, 1000.0, 60);
        assert!((16.0..=32.0).contains(&gradient.limit), "{gradient:?}");
        run(&mut gradient, 1000.0, 540);
        assert!((16.0..=36.0).contains(&gradient.limit), "{gradient:?}");
    }

    #[test]
    fn it_learns_nothing_from_callers_who_ask_for_less() {
        let mut gradient = Gradient::new(100);
        run(&mut gradient, 8.0, 1000);
        assert_eq!(gradient.limit, 100.0);
    }

    #[test]
    fn its_bounds_hold() {
        let mut gradient = Gradient::new(20);
        let rules = AdaptiveRules::default();
        for _ in 0..1000 {
            gradient.step(&rules, 0.001, gradient.limit as usize);
        }
        assert_eq!(gradient.limit, f64::from(rules.max));
        for _ in 0..30 {
            gradient.step(&rules, 10.0, gradient.limit as usize);
        }
        assert!(
            gradient.limit >= f64::from(rules.min) && gradient.limit < 20.0,
            "{gradient:?}"
        );
    }
}
