//! The node breaker: leaves an instance alone that fails again and again.
//!
//! closed → (failures, timeouts or refusals in a row) → open for a time → half-open: one trial → closed, or open for
//! longer. Each ejection lasts a step longer than the last one, and a time without one takes a step off again (Envoy's
//! outlier detection, gRFC A50): an instance that fails, recovers for a moment and fails again is left alone for longer.
//! At most a share of the instances is open at once; beyond it the others serve (Envoy's and Finagle's panic mode).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::moment::Moment;
use crate::policy::NodeBreakerRules as Rules;

/// One instance's breaker. The word that every choice and every call reads stands first.
#[repr(C)]
pub(crate) struct NodeBreaker {
    /// Whether the instance is open or has failed since its last success. Calls to a well instance read this word and
    /// take no lock; written under the lock.
    ///
    /// 0 or 1: what a choice adds up with other such words.
    troubled: AtomicU8,
    state: Mutex<State>,
    group: Arc<BreakerGroup>,
}

/// What the breakers of one service share.
pub(crate) struct BreakerGroup {
    /// Whether policy wants breakers at all; beside the rules, because each look at an open instance asks.
    enabled: AtomicBool,
    shared: Mutex<Group>,
    opened: prometheus::IntCounter,
}

struct Group {
    rules: Rules,
    members: usize,
    open: usize,
}

#[derive(Default)]
struct State {
    streak: Streak,
    /// Steps that the last ejection was long; each time without one takes one off.
    steps: u32,
    /// When it closed last; the steps decay from then on.
    closed_at: Option<Moment>,
    /// Open until then; `None`: closed.
    open_until: Option<Moment>,
    /// Half-open: the one trial is under way.
    trial: bool,
}

/// What has gone wrong since the last success.
#[derive(Default)]
struct Streak {
    /// Failures, timeouts among them.
    failures: u32,
    timeouts: u32,
    busy: u32,
}

/// How an attempt has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// An error that counts against the instance.
    Error,
    /// Silence for as long as it had.
    Timeout,
    /// Refused by the instance's threshold or queue.
    Busy,
}

/// How an instance stands, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Closed,
    HalfOpen,
    Open,
}

/// An attempt's pass through the breaker; settled once.
#[derive(Debug, Default)]
pub(super) struct Admission {
    settled: bool,
    /// The one trial of a half-open instance.
    trial: bool,
    /// Admitted while open, because there was no better instance.
    while_open: bool,
}

impl Admission {
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }
}

impl BreakerGroup {
    pub(super) fn new(rules: Rules, opened: prometheus::IntCounter) -> Arc<Self> {
        Arc::new(BreakerGroup {
            enabled: AtomicBool::new(rules.enabled),
            shared: Mutex::new(Group {
                rules,
                members: 0,
                open: 0,
            }),
            opened,
        })
    }

    /// Live policy and the present number of instances.
    pub(super) fn update(&self, rules: Rules, members: usize) {
        let mut shared = self.shared.lock();
        shared.rules = rules;
        shared.members = members;
        self.enabled.store(rules.enabled, Ordering::Relaxed);
    }

    /// Takes a place among the open ones, unless the share is used up.
    fn try_open(&self) -> bool {
        let mut shared = self.shared.lock();
        let room = shared.open < most_open(shared.members, shared.rules.max_ejected_percent);
        if room {
            shared.open += 1;
            self.opened.inc();
        }
        room
    }

    fn close(&self) {
        self.shared.lock().open -= 1;
    }

    fn rules(&self) -> Rules {
        self.shared.lock().rules
    }
}

/// How many of `members` may be open: the share rounded down, but one of two or more wherever there is a share at all
/// (5 % of ten is no reason to keep a dead instance), and never the last one.
fn most_open(members: usize, percent: u32) -> usize {
    let share = members * percent as usize / 100;
    share.max(usize::from(percent > 0)).min(members.saturating_sub(1))
}

impl NodeBreaker {
    pub(super) fn new(group: Arc<BreakerGroup>) -> Self {
        NodeBreaker {
            troubled: AtomicU8::new(0),
            state: Mutex::default(),
            group,
        }
    }

    /// Whether the instance is open, or has failed since its last success.
    #[inline(always)]
    pub(super) fn is_troubled(&self) -> bool {
        self.trouble() != 0
    }

    /// The same as a number: 0 where it is not.
    #[inline(always)]
    pub(super) fn trouble(&self) -> u8 {
        self.troubled.load(Ordering::Relaxed)
    }

    pub(super) fn standing(&self, now: Moment) -> Standing {
        if !self.is_troubled() {
            return Standing::Closed;
        }
        let state = self.state.lock();
        match state.open_until {
            None => Standing::Closed,
            // Policy has switched breakers off since: nobody stays ejected.
            Some(_) if !self.group.enabled.load(Ordering::Relaxed) => Standing::Closed,
            Some(until) if now >= until && !state.trial => Standing::HalfOpen,
            Some(_) => Standing::Open,
        }
    }

    /// Lets an attempt through. Which instance serves is the balancer's choice; where it takes an open one because
    /// there is no better, the attempt passes as well.
    #[inline(always)]
    pub(super) fn admit(&self, now: Moment) -> Admission {
        if !self.is_troubled() {
            return Admission::default();
        }
        let mut state = self.state.lock();
        let half_open = state.open_until.is_some_and(|until| now >= until) && !state.trial;
        state.trial |= half_open;
        Admission {
            settled: false,
            trial: half_open,
            while_open: state.open_until.is_some(),
        }
    }

    /// The instance did its work. An attempt that was admitted before the instance was ejected proves nothing about
    /// what came after.
    #[inline(always)]
    pub(super) fn succeeded(&self, admission: &mut Admission) {
        if std::mem::replace(&mut admission.settled, true) || !self.is_troubled() {
            return;
        }
        let mut state = self.state.lock();
        let was_open = state.open_until.is_some();
        if was_open && !admission.while_open {
            return;
        }
        state.streak = Streak::default();
        state.open_until = None;
        state.trial = false;
        self.troubled.store(0, Ordering::Relaxed);
        if was_open {
            state.closed_at = Some(Moment::now());
            drop(state);
            self.group.close();
        }
    }

    pub(super) fn failed(&self, admission: &mut Admission, failure: Failure, now: Moment) {
        if std::mem::replace(&mut admission.settled, true) {
            return;
        }
        let rules = self.group.rules();
        if failure == Failure::Busy && rules.consecutive_busy.is_none() && !admission.trial {
            return;
        }
        let mut state = self.state.lock();
        self.troubled.store(1, Ordering::Relaxed);
        state.streak.count(failure);
        if state.open_until.is_none() {
            if rules.enabled && state.streak.is_over(&rules) && self.group.try_open() {
                state.open(&rules, now);
            }
        } else if admission.trial {
            state.trial = false;
            match failure {
                // It answered, and it may be busy for reasons of the moment: no longer ejection, but no proof of health
                // either. Without a pause a refusing instance would draw every next call as its trial.
                Failure::Busy => {
                    state.open_until = Some(now + jittered(rules.ejection_ms));
                }
                Failure::Error | Failure::Timeout => state.open(&rules, now),
            }
        }
    }

    /// The attempt was refused before the handler, for other reasons than load: no failure, but no proof of health
    /// either.
    pub(super) fn refused(&self, admission: &mut Admission, now: Moment) {
        if !admission.trial {
            admission.settled = true;
            return;
        }
        self.failed(admission, Failure::Busy, now);
    }

    /// The attempt ended without saying anything about the instance.
    #[inline(always)]
    pub(super) fn release(&self, admission: &mut Admission) {
        if !std::mem::replace(&mut admission.settled, true) && admission.trial {
            self.state.lock().trial = false;
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.standing(Moment::now()), Standing::Closed)
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self.standing(Moment::now()) {
            Standing::Closed => "closed",
            Standing::HalfOpen => "half-open",
            Standing::Open => "open",
        }
    }
}

impl Streak {
    fn count(&mut self, failure: Failure) {
        let (failures, timeouts, busy) = match failure {
            Failure::Error => (1, 0, 0),
            Failure::Timeout => (1, 1, 0),
            Failure::Busy => (0, 0, 1),
        };
        self.failures = self.failures.saturating_add(failures);
        self.timeouts = self.timeouts.saturating_add(timeouts);
        self.busy = self.busy.saturating_add(busy);
    }

    fn is_over(&self, rules: &Rules) -> bool {
        self.failures >= rules.consecutive_failures
            || self.timeouts >= rules.consecutive_timeouts
            || rules.consecutive_busy.is_some_and(|most| self.busy >= most)
    }
}

impl State {
    fn open(&mut self, rules: &Rules, now: Moment) {
        let well = self
            .closed_at
            .take()
            .map_or(Duration::ZERO, |since| now.since(since));
        let decayed = well.as_millis() as u64 / rules.ejection_decay_ms.max(1);
        let steps = self.steps.saturating_sub(decayed.min(u64::from(u32::MAX)) as u32);
        // Steps beyond the longest ejection would take as long to decay again.
        let most = rules.max_ejection_ms.div_ceil(rules.ejection_ms).max(1);
        self.steps = u64::from(steps.saturating_add(1)).min(most) as u32;
        let length = rules.ejection_ms.saturating_mul(u64::from(self.steps));
        self.open_until = Some(now + jittered(length.min(rules.max_ejection_ms)));
    }
}

/// ±20 %, so that the trials of many consumers do not come at once.
fn jittered(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
        .mul_f64(0.8 + 0.4 * fastrand::f64())
        .max(Duration::from_millis(1))
}

impl Drop for NodeBreaker {
    fn drop(&mut self) {
        if self.state.get_mut().open_until.is_some() {
            self.group.close();
        }
    }
}

#[cfg(test)]
mod tests;
