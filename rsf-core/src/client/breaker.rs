//! The node breaker: leaves an instance alone that fails again and again.
//!
//! closed → (failures in a row) → open for a growing time → half-open: one trial → closed, or open for longer.
//! At most a share of the instances is open at once; beyond it all serve (Envoy's and Finagle's panic mode).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::policy::NodeBreakerRules as Rules;

/// One instance's breaker.
pub(crate) struct NodeBreaker {
    /// Whether `state` differs from that of a breaker that has seen nothing bad. Calls to a well instance read this word
    /// and take no lock; written under the lock.
    troubled: AtomicBool,
    state: Mutex<State>,
    group: Arc<BreakerGroup>,
}

/// What the breakers of one service share.
pub(crate) struct BreakerGroup {
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
    failures: u32,
    /// Ejections since the instance last proved well.
    ejections: u32,
    /// Open until then; `None`: closed.
    open_until: Option<Instant>,
    /// Half-open: the one trial is under way.
    trial: bool,
}

/// How an instance stands, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Closed,
    HalfOpen,
    Open,
}

/// An attempt's pass through the breaker; settled once.
#[derive(Debug)]
pub(super) struct Admission {
    settled: bool,
    trial: bool,
}

impl Admission {
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }
}

impl BreakerGroup {
    pub(super) fn new(rules: Rules, opened: prometheus::IntCounter) -> Arc<Self> {
        Arc::new(BreakerGroup {
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
    }

    /// Takes a place among the open ones, unless the share is used up.
    fn try_open(&self) -> bool {
        let mut shared = self.shared.lock();
        let most = shared.members * shared.rules.max_ejected_percent as usize / 100;
        let room = shared.open < most;
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

impl NodeBreaker {
    pub(super) fn new(group: Arc<BreakerGroup>) -> Self {
        NodeBreaker {
            troubled: AtomicBool::new(false),
            state: Mutex::default(),
            group,
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        if !self.troubled.load(Ordering::Relaxed) {
            return Standing::Closed;
        }
        let state = self.state.lock();
        match state.open_until {
            None => Standing::Closed,
            // Policy has switched breakers off since: nobody stays ejected.
            Some(_) if !self.group.rules().enabled => Standing::Closed,
            Some(until) if now >= until && !state.trial => Standing::HalfOpen,
            Some(_) => Standing::Open,
        }
    }

    /// Lets an attempt through. Which instance serves is the balancer's choice; where it takes an open one because
    /// there is no better, the attempt passes as well.
    pub(super) fn admit(&self, now: Instant) -> Admission {
        if !self.troubled.load(Ordering::Relaxed) {
            return Admission {
                settled: false,
                trial: false,
            };
        }
        let mut state = self.state.lock();
        let half_open = state.open_until.is_some_and(|until| now >= until) && !state.trial;
        state.trial |= half_open;
        Admission {
            settled: false,
            trial: half_open,
        }
    }

    pub(super) fn succeeded(&self, admission: &mut Admission) {
        if std::mem::replace(&mut admission.settled, true) || !self.troubled.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        if state.failures != 0 || state.open_until.is_some() {
            let was_open = state.open_until.is_some();
            *state = State::default();
            self.troubled.store(false, Ordering::Relaxed);
            drop(state);
            if was_open {
                self.group.close();
            }
        }
    }

    pub(super) fn failed(&self, admission: &mut Admission, now: Instant) {
        if std::mem::replace(&mut admission.settled, true) {
            return;
        }
        let rules = self.group.rules();
        let mut state = self.state.lock();
        self.troubled.store(true, Ordering::Relaxed);
        state.failures = state.failures.saturating_add(1);
        if state.open_until.is_some() {
            if admission.trial {
                state.trial = false;
                Self::open(&mut state, &rules, now);
            }
        } else if rules.enabled && state.failures >= rules.consecutive_failures && self.group.try_open() {
            Self::open(&mut state, &rules, now);
        }
    }

    /// The attempt was refused before the handler: no failure, but no proof of health either. A trial comes again only
    /// after another ejection of the first length, or a refusing instance would draw every next call.
    pub(super) fn refused(&self, admission: &mut Admission, now: Instant) {
        if std::mem::replace(&mut admission.settled, true) || !admission.trial {
            return;
        }
        let ejection = Duration::from_millis(self.group.rules().ejection_ms);
        let mut state = self.state.lock();
        state.trial = false;
        state.open_until = Some(now + ejection);
    }

    /// The attempt ended without saying anything about the instance.
    pub(super) fn release(&self, admission: &mut Admission) {
        if !std::mem::replace(&mut admission.settled, true) && admission.trial {
            self.state.lock().trial = false;
        }
    }

    pub(super) fn state_name(&self) -> &'static str {
        match self.standing(Instant::now()) {
            Standing::Closed => "closed",
            Standing::HalfOpen => "half-open",
            Standing::Open => "open",
        }
    }

    fn open(state: &mut State, rules: &Rules, now: Instant) {
        state.ejections = state.ejections.saturating_add(1);
        let grown = rules
            .ejection_ms
            .saturating_mul(u64::from(state.ejections))
            .min(rules.max_ejection_ms);
        let jitter = 0.8 + 0.4 * fastrand::f64();
        state.open_until = Some(
            now + Duration::from_millis(grown)
                .mul_f64(jitter)
                .max(Duration::from_millis(1)),
        );
    }
}

impl Drop for NodeBreaker {
    fn drop(&mut self) {
        if self.state.get_mut().open_until.is_some() {
            self.group.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(members: usize) -> Arc<BreakerGroup> {
        let group = BreakerGroup::new(
            Rules::default(),
            prometheus::IntCounter::new("opened", "opened").unwrap(),
        );
        group.update(Rules::default(), members);
        group
    }

    fn fail(breaker: &NodeBreaker, times: u32) {
        for _ in 0..times {
            let now = Instant::now();
            breaker.failed(&mut breaker.admit(now), now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row_and_closes_after_a_good_trial() {
        let breaker = NodeBreaker::new(group(3));
        fail(&breaker, 4);
        breaker.succeeded(&mut breaker.admit(Instant::now()));
        fail(&breaker, 4);
        assert_eq!(breaker.standing(Instant::now()), Standing::Closed);
        fail(&breaker, 1);
        assert_eq!(breaker.standing(Instant::now()), Standing::Open);
        tokio::time::advance(Duration::from_millis(6001)).await;
        assert_eq!(breaker.standing(Instant::now()), Standing::HalfOpen);
        let mut trial = breaker.admit(Instant::now());
        assert_eq!(breaker.standing(Instant::now()), Standing::Open);
        breaker.succeeded(&mut trial);
        assert_eq!(breaker.standing(Instant::now()), Standing::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_trial_opens_for_longer_and_a_neutral_one_lets_the_next_try() {
        let breaker = NodeBreaker::new(group(3));
        fail(&breaker, 5);
        tokio::time::advance(Duration::from_millis(6001)).await;
        breaker.release(&mut breaker.admit(Instant::now()));
        assert_eq!(breaker.standing(Instant::now()), Standing::HalfOpen);
        fail(&breaker, 1);
        tokio::time::advance(Duration::from_millis(6001)).await;
        assert_eq!(breaker.standing(Instant::now()), Standing::Open);
        tokio::time::advance(Duration::from_millis(6000)).await;
        assert_eq!(breaker.standing(Instant::now()), Standing::HalfOpen);
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_a_share_is_open() {
        let group = group(4);
        let breakers: Vec<_> = (0..4).map(|_| NodeBreaker::new(group.clone())).collect();
        breakers.iter().for_each(|breaker| fail(breaker, 10));
        let open = |breakers: &[NodeBreaker]| {
            breakers
                .iter()
                .filter(|b| b.standing(Instant::now()) == Standing::Open)
                .count()
        };
        assert_eq!(open(&breakers), 2);
        let kept: Vec<_> = breakers.into_iter().skip(2).collect();
        kept.iter().for_each(|breaker| fail(breaker, 1));
        assert_eq!(open(&kept), 2, "an instance that leaves the list frees its place");
    }
}
