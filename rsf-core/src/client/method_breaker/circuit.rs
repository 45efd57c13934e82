//! The breaker of one method: closed → (too many errors or slow calls) → open for a time → half-open: some trials →
//! closed, or open again. It outlives snapshots and reads its rules anew each time, so that they change live.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::window::{Counts, Verdict, Window};
use crate::metrics::MethodBreakerMetrics;
use crate::moment::Moment;
use crate::policy::MethodBreakerRules as Rules;

const CLOSED: u8 = 0;
const HALF_OPEN: u8 = 1;
const OPEN: u8 = 2;

/// One method's breaker.
pub(super) struct Circuit {
    /// What `state` is, for calls through a closed breaker: they take no lock. Written under the lock.
    mode: AtomicU8,
    window: Window,
    state: Mutex<State>,
    metrics: MethodBreakerMetrics,
}

enum State {
    Closed,
    Open { since: Moment, why: String },
    HalfOpen(Trials),
}

/// The trials of a half-open breaker. At most as many as policy says, under way and ended together.
struct Trials {
    /// The time of the first one; names them, because a trial may end after the breaker has opened again.
    begun: Moment,
    under_way: u64,
    ended: Counts,
}

/// A call that a half-open breaker let through; named by the time when the trials began.
pub(super) type Trial = Moment;

/// How a call ended, as far as the method is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It says nothing about the method: nothing was sent, or nobody waited for the end.
    Neutral,
    /// It ran.
    Ran(Verdict),
}

/// Why a call may not pass.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Open for so much longer.
    Open { left: Duration, why: String },
    /// Half-open, and all trials are under way.
    Trying,
}

impl Circuit {
    pub(super) fn new(rules: &Rules, metrics: MethodBreakerMetrics) -> Self {
        metrics.state.set(i64::from(CLOSED));
        Circuit {
            mode: AtomicU8::new(CLOSED),
            window: Window::new(window_of(rules), Moment::now()),
            state: Mutex::new(State::Closed),
            metrics,
        }
    }

    /// Live policy. A window of another length begins empty; everything else is read as it is used.
    pub(super) fn follow(&self, rules: &Rules) {
        self.window.set_length(window_of(rules));
    }

    /// Lets a call pass, as a trial where the breaker is half-open.
    #[inline(always)]
    pub(super) fn admit(&self, rules: &Rules) -> Result<Option<Trial>, Refusal> {
        if self.mode.load(Ordering::Relaxed) == CLOSED {
            return Ok(None);
        }
        let now = Moment::now();
        let mut state = self.state.lock();
        if let Some(refusal) = state.refusal(rules, now) {
            return Err(refusal);
        }
        if matches!(*state, State::Open { .. }) {
            self.enter(
                &mut state,
                State::HalfOpen(Trials {
                    begun: now,
                    under_way: 0,
                    ended: Counts::default(),
                }),
            );
        }
        match &mut *state {
            State::HalfOpen(trials) if trials.has_room(rules) => {
                trials.under_way += 1;
                Ok(Some(trials.begun))
            }
            State::HalfOpen(_) => {
                // Policy has come to want fewer trials than have ended well.
                self.close(&mut state);
                Ok(None)
            }
            State::Closed | State::Open { .. } => Ok(None),
        }
    }

    /// Why a call would not pass now. Asking changes nothing.
    pub(super) fn refusal(&self, rules: &Rules) -> Option<Refusal> {
        if self.mode.load(Ordering::Relaxed) == CLOSED {
            return None;
        }
        self.state.lock().refusal(rules, Moment::now())
    }

    /// Takes in how a call ended.
    #[inline(always)]
    pub(super) fn settle(&self, rules: &Rules, trial: Option<Trial>, ending: Ending, now: Moment) {
        if let Some(trial) = trial {
            return self.settle_trial(rules, trial, ending, now);
        }
        let Ending::Ran(verdict) = ending else { return };
        // Calls that began before it opened say nothing about the method as it is now.
        if self.mode.load(Ordering::Relaxed) != CLOSED {
            return;
        }
        let window = &self.window;
        window.record(verdict, now);
        // A good call can complete the volume, but makes no ratio worse: the next bad one decides.
        if !(verdict.error || verdict.slow) {
            return;
        }
        let counts = window.counts(now);
        if counts.calls < u64::from(rules.min_calls) {
            return;
        }
        if let Some(why) = too_bad(rules, &counts, counts.calls) {
            let mut state = self.state.lock();
            if matches!(*state, State::Closed) {
                self.open(&mut state, now, format!("{why} within {} ms", rules.window_ms));
            }
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self.mode.load(Ordering::Relaxed) {
            CLOSED => "closed",
            HALF_OPEN => "half-open",
            _ => "open",
        }
    }

    fn settle_trial(&self, rules: &Rules, trial: Trial, ending: Ending, now: Moment) {
        let mut state = self.state.lock();
        let State::HalfOpen(trials) = &mut *state else {
            return;
        };
        if trials.begun != trial {
            return;
        }
        trials.under_way -= 1;
        // Neutral: its place is free for another trial.
        let Ending::Ran(verdict) = ending else { return };
        trials.ended.calls += 1;
        trials.ended.errors += u64::from(verdict.error);
        trials.ended.slow += u64::from(verdict.slow);
        // As soon as the outcome is certain, whatever the rest brings.
        if let Some(why) = too_bad(rules, &trials.ended, u64::from(rules.half_open_calls)) {
            self.open(&mut state, now, format!("{why} to try"));
        } else if trials.ended.calls >= u64::from(rules.half_open_calls) {
            self.close(&mut state);
        }
    }

    fn open(&self, state: &mut State, now: Moment, why: String) {
        self.metrics.opened.inc();
        self.enter(state, State::Open { since: now, why });
    }

    fn close(&self, state: &mut State) {
        self.window.clear();
        self.enter(state, State::Closed);
    }

    fn enter(&self, state: &mut State, next: State) {
        let mode = match next {
            State::Closed => CLOSED,
            State::HalfOpen(_) => HALF_OPEN,
            State::Open { .. } => OPEN,
        };
        *state = next;
        self.mode.store(mode, Ordering::Relaxed);
        self.metrics.state.set(i64::from(mode));
    }
}

impl State {
    fn refusal(&self, rules: &Rules, now: Moment) -> Option<Refusal> {
        match self {
            State::Open { since, why } => {
                let left = open_for(rules).saturating_sub(now.since(*since));
                let why = why.clone();
                (!left.is_zero()).then_some(Refusal::Open { left, why })
            }
            State::HalfOpen(trials) => {
                (!trials.has_room(rules) && trials.under_way > 0).then_some(Refusal::Trying)
            }
            State::Closed => None,
        }
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        self.metrics.state.set(i64::from(CLOSED));
    }
}

impl Trials {
    fn has_room(&self, rules: &Rules) -> bool {
        self.under_way + self.ended.calls < u64::from(rules.half_open_calls)
    }
}

/// Which share of `calls` is over its limit, in words.
fn too_bad(rules: &Rules, counts: &Counts, calls: u64) -> Option<String> {
    if counts.errors * 100 >= u64::from(rules.error_percent) * calls && counts.errors > 0 {
        return Some(format!("{} of {calls} calls failed", counts.errors));
    }
    let limit = rules.slow_call_ms?;
    (counts.slow * 100 >= u64::from(rules.slow_percent) * calls && counts.slow > 0)
        .then(|| format!("{} of {calls} calls took {limit} ms or longer", counts.slow))
}

fn open_for(rules: &Rules) -> Duration {
    Duration::from_millis(rules.open_ms)
}

fn window_of(rules: &Rules) -> Duration {
    Duration::from_millis(rules.window_ms)
}

#[cfg(test)]
mod tests;
