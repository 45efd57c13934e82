//! The budget of further attempts, retries and hedges alike, of one consumer and service: a share of the calls of the last
//! ten seconds plus a constant rate (Finagle's `RetryBudget`). It keeps a failing service from being hit by more than that
//! on top of its calls.
//!
//! In any ten seconds no more credit is taken than `percent` of the calls of the ten seconds before each withdrawal, plus ten
//! seconds of the rate. A call costs one atomic addition; only a further attempt takes the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::moment::Moment;

/// Seconds that a call's share stays good for, and that a withdrawal weighs.
const WINDOW: u64 = 10;
/// Milliseconds of one slot of the window.
const SLOT: u64 = 250;
/// Slots of the window.
const SLOTS: u64 = WINDOW * 1000 / SLOT;

pub(crate) struct RetryBudget {
    percent: AtomicU32,
    per_second: AtomicU32,
    /// The millisecond of its beginning.
    begun: u64,
    /// The slot's time that `calls` counts, since `begun`.
    now: AtomicU64,
    calls: AtomicU64,
    window: Mutex<Window>,
}

/// By time modulo the window's length. The oldest slot is only partly within the last ten seconds: what was taken in it
/// still weighs, what was called in it gives no credit any more.
struct Window {
    slots: [Slot; SLOTS as usize + 1],
}

#[derive(Clone, Copy, Default)]
struct Slot {
    time: u64,
    calls: u64,
    taken: u64,
}

/// The credit of one further attempt. Dropped unspent, it goes back.
pub(super) struct Credit {
    budget: Arc<RetryBudget>,
    /// The slot it was taken in; `None` once it is spent.
    taken: Option<u64>,
}

impl Credit {
    /// The attempt is made.
    pub(super) fn spend(mut self) {
        self.taken = None;
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if let Some(time) = self.taken {
            let mut window = self.budget.window.lock();
            let slot = &mut window.slots[place(time)];
            if slot.time == time {
                slot.taken = slot.taken.saturating_sub(1);
            }
        }
    }
}

impl RetryBudget {
    pub(super) fn new(percent: u32, per_second: u32) -> Self {
        RetryBudget {
            percent: AtomicU32::new(percent),
            per_second: AtomicU32::new(per_second),
            begun: Moment::now().millis(),
            now: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            window: Mutex::new(Window {
                slots: [Slot::default(); SLOTS as usize + 1],
            }),
        }
    }

    /// What policy says now. What was called and taken before still counts.
    pub(super) fn set(&self, percent: u32, per_second: u32) {
        self.percent.store(percent, Ordering::Relaxed);
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Counts a call.
    #[inline(always)]
    pub(super) fn deposit(&self, now: Moment) {
        let time = self.time(now);
        if self.now.load(Ordering::Relaxed) < time {
            self.turn(&mut self.window.lock(), time);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the credit of one further attempt, if there is some.
    pub(super) fn withdraw(self: &Arc<Self>, now: Moment) -> Option<Credit> {
        let time = self.time(now);
        let mut window = self.window.lock();
        self.turn(&mut window, time);
        if self.credit(&window, time) == 0 {
            return None;
        }
        window.slot(time).taken += 1;
        Some(Credit {
            budget: self.clone(),
            taken: Some(time),
        })
    }

    /// How many further attempts there is credit for now.
    pub(super) fn left(&self, now: Moment) -> u64 {
        let time = self.time(now);
        let mut window = self.window.lock();
        self.turn(&mut window, time);
        self.credit(&window, time)
    }

    fn credit(&self, window: &Window, time: u64) -> u64 {
        let (mut calls, mut taken) = (self.calls.load(Ordering::Relaxed), 0);
        for slot in &window.slots {
            if slot.time + SLOTS > time {
                calls += slot.calls;
            }
            if slot.time + SLOTS >= time {
                taken += slot.taken;
            }
        }
        let share = calls * u64::from(self.percent.load(Ordering::Relaxed)) / 100;
        let constant = WINDOW * u64::from(self.per_second.load(Ordering::Relaxed));
        (share + constant).saturating_sub(taken)
    }

    /// Credit that was taken in the last ten seconds and has not come back.
    #[cfg(test)]
    pub(super) fn taken(&self) -> u64 {
        self.window.lock().slots.iter().map(|slot| slot.taken).sum()
    }

    #[inline(always)]
    fn time(&self, now: Moment) -> u64 {
        now.millis().saturating_sub(self.begun) / SLOT
    }

    /// Files the calls of the slot that has gone.
    fn turn(&self, window: &mut Window, time: u64) {
        let gone = self.now.load(Ordering::Relaxed);
        if gone < time {
            window.slot(gone).calls += self.calls.swap(0, Ordering::Relaxed);
            self.now.store(time, Ordering::Relaxed);
        }
    }
}

impl Window {
    fn slot(&mut self, time: u64) -> &mut Slot {
        let slot = &mut self.slots[place(time)];
        if slot.time != time {
            *slot = Slot {
                time,
                ..Slot::default()
            };
        }
        slot
    }
}

fn place(time: u64) -> usize {
    (time % (SLOTS + 1)) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn budget(percent: u32, per_second: u32) -> Arc<RetryBudget> {
        Arc::new(RetryBudget::new(percent, per_second))
    }

    fn take(budget: &Arc<RetryBudget>, now: Moment) -> bool {
        budget.withdraw(now).map(Credit::spend).is_some()
    }

    fn credit(budget: &Arc<RetryBudget>, now: Moment) -> u32 {
        (0..).take_while(|_| take(budget, now)).count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_the_calls_may_be_retried_for_ten_seconds() {
        let budget = budget(20, 0);
        let now = Moment::now();
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
        let budget = budget(0, 10);
        let begun = Moment::now();
        let mut taken = Vec::new();
        for millisecond in 0..60_000 {
            if take(&budget, begun + Duration::from_millis(millisecond)) {
                taken.push(millisecond);
            }
        }
        assert!((580..=600).contains(&taken.len()), "{} in a minute", taken.len());
        let windows = taken.iter().zip(taken.iter().skip(100));
        let shortest = windows.map(|(first, last)| last - first).min().unwrap();
        assert!(shortest >= 10_000, "101 within {shortest} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn no_ten_seconds_take_more_than_their_share() {
        let budget = budget(20, 0);
        let begun = Moment::now();
        let mut taken = Vec::new();
        for millisecond in 0..60_000 {
            let now = begun + Duration::from_millis(millisecond);
            budget.deposit(now);
            // Nothing fails at first: credit piles up.
            if millisecond >= 15_000 && take(&budget, now) {
                taken.push(millisecond);
            }
        }
        let windows = taken.iter().zip(taken.iter().skip(2000));
        let shortest = windows.map(|(first, last)| last - first).min().unwrap();
        assert!(shortest >= 10_000, "2001 of 10000 within {shortest} ms");
        assert!(taken.len() >= 45 * 195, "{} of 9000", taken.len());
    }

    /// The bar of an outage of 30 s: a fifth of what is offered in it, and ten a second. An even load may take all of that,
    /// because three times ten seconds are 30, and not one attempt more, whenever in a slot the outage begins.
    #[tokio::test(start_paused = true)]
    async fn an_outage_of_thirty_seconds_takes_what_thirty_seconds_may() {
        for offset in [0, 1, 100, 249] {
            let budget = budget(20, 10);
            let begun = Moment::now();
            let mut taken = 0;
            for millisecond in 0..42_000 + offset {
                let now = begun + Duration::from_millis(millisecond);
                if millisecond % 5 == 0 {
                    budget.deposit(now);
                }
                if millisecond >= 12_000 + offset {
                    taken += credit(&budget, now);
                }
            }
            assert!(
                (1490..=1500).contains(&taken),
                "{taken} of 6000 calls, offset {offset}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_spent_goes_back_and_policy_takes_hold_at_once() {
        let budget = budget(0, 1);
        let now = Moment::now();
        drop(budget.withdraw(now));
        assert_eq!(credit(&budget, now), 10);
        budget.set(0, 2);
        assert_eq!(credit(&budget, now), 10, "what was taken before still counts");
        budget.set(0, 0);
        assert_eq!(credit(&budget, now + Duration::from_secs(60)), 0);
    }
}
