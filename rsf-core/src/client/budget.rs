//! The retry budget of one consumer and service: a share of the calls of the last ten seconds, plus a constant rate
//! (Finagle's `RetryBudget`). It keeps a failing service from being hit by more than that on top of its calls.
//!
//! A call costs one atomic addition; only a retry takes the lock.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Seconds that a call's share, and the constant rate's unused credit, stay good for.
const WINDOW: u64 = 10;

pub(crate) struct RetryBudget {
    percent: u32,
    per_second: u32,
    begun: Instant,
    /// The second that `calls` counts, since `begun`.
    second: AtomicU64,
    calls: AtomicU64,
    window: Mutex<Window>,
}

struct Window {
    /// By second modulo the window's length.
    slots: [Slot; WINDOW as usize],
    /// Credit of the constant rate.
    tokens: f64,
    refilled: Instant,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    second: u64,
    calls: u64,
    /// Retries that were charged to the calls' share.
    spent: u64,
}

impl RetryBudget {
    pub(super) fn new(percent: u32, per_second: u32) -> Self {
        let now = Instant::now();
        RetryBudget {
            percent,
            per_second,
            begun: now,
            second: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            window: Mutex::new(Window {
                slots: Default::default(),
                tokens: f64::from(per_second) * WINDOW as f64,
                refilled: now,
            }),
        }
    }

    /// Whether it still says what policy says.
    pub(super) fn is(&self, percent: u32, per_second: u32) -> bool {
        (self.percent, self.per_second) == (percent, per_second)
    }

    /// Counts a call.
    pub(super) fn deposit(&self, now: Instant) {
        let second = self.second_of(now);
        if self.second.load(Ordering::Relaxed) < second {
            self.turn(&mut self.window.lock(), second);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the credit of one retry, if there is some.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
        let second = self.second_of(now);
        let mut window = self.window.lock();
        self.turn(&mut window, second);
        let live = window.slots.iter().filter(|slot| slot.second + WINDOW > second);
        let (past, spent) = live.fold((0, 0), |(calls, spent), slot| {
            (calls + slot.calls, spent + slot.spent)
        });
        let calls = past + self.calls.load(Ordering::Relaxed);
        if spent < calls * u64::from(self.percent) / 100 {
            window.slot(second).spent += 1;
            return true;
        }
        let since = now.saturating_duration_since(window.refilled).as_secs_f64();
        let rate = f64::from(self.per_second);
        window.tokens = (window.tokens + since * rate).min(rate * WINDOW as f64);
        window.refilled = now;
        let enough = window.tokens >= 1.0;
        if enough {
            window.tokens -= 1.0;
        }
        enough
    }

    fn second_of(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs()
    }

    /// Files the calls of the second that has gone.
    fn turn(&self, window: &mut Window, second: u64) {
        let gone = self.second.load(Ordering::Relaxed);
        if gone < second {
            window.slot(gone).calls += self.calls.swap(0, Ordering::Relaxed);
            self.second.store(second, Ordering::Relaxed);
        }
    }
}

impl Window {
    fn slot(&mut self, second: u64) -> &mut Slot {
        let slot = &mut self.slots[(second % WINDOW) as usize];
        if slot.second != second {
            *slot = Slot {
                second,
                ..Slot::default()
            };
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn credit(budget: &RetryBudget, now: Instant) -> u32 {
        (0..).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_the_calls_may_be_retried_for_ten_seconds() {
        let budget = RetryBudget::new(20, 0);
        let now = Instant::now();
        assert_eq!(credit(&budget, now), 0);
        (0..50).for_each(|_| budget.deposit(now));
        assert_eq!(credit(&budget, now), 10);
        assert_eq!(credit(&budget, now), 0);
        let later = now + Duration::from_secs(5);
        (0..10).for_each(|_| budget.deposit(later));
        assert_eq!(credit(&budget, later), 2);
        (0..100).for_each(|_| budget.deposit(later));
        assert_eq!(credit(&budget, now + Duration::from_millis(14_900)), 20);
        (0..100).for_each(|_| budget.deposit(now + Duration::from_secs(20)));
        assert_eq!(
            credit(&budget, now + Duration::from_secs(30)),
            0,
            "unused credit expires"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_constant_rate_holds_over_time() {
        let budget = RetryBudget::new(0, 10);
        let begun = Instant::now();
        let mut spent = 0;
        for millisecond in 0..60_000 {
            spent += u32::from(budget.withdraw(begun + Duration::from_millis(millisecond)));
        }
        assert!(
            (690..=700).contains(&spent),
            "{spent} in a minute: one window ahead, then ten a second"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_nothing() {
        let budget = RetryBudget::new(0, 0);
        budget.deposit(Instant::now());
        assert!(!budget.withdraw(Instant::now()));
    }
}
