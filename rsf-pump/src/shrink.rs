//! Rule R: how much of a list may be lost without a word, and for how long the pump distrusts a source.

mod distrust;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rsf_registry::world;
use serde::{Deserialize, Serialize};

pub use distrust::Discontinuity;
use distrust::Sources;

/// The numbers of rule R.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShrinkConfig {
    /// `false` lets every loss through at once: for negative controls only.
    pub enforced: bool,
    /// The TTL of leases, where none longer was seen.
    pub lease_ttl: Duration,
    /// The share of a service that may be lost in one window, percent; always at least one instance.
    pub share_percent: u8,
    /// The window of that share.
    pub window: Duration,
    /// The share of a service that stays listed while a hold lasts, percent, rounded up.
    pub floor_percent: u8,
    /// How long the floor is kept without evidence; after it the rest leaves at the window's rate.
    pub max_hold: Duration,
}

/// A service whose list keeps instances that the source no longer has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The service key.
    pub service: String,
    /// How many instances are listed only because of the hold.
    pub held: usize,
    /// How many of them answer when they are probed.
    #[serde(default)]
    pub answering: usize,
    /// How many were listed before it.
    pub before: usize,
    /// How long it has lasted, milliseconds.
    pub age_ms: u64,
    /// Whether its time is over, so that the rest leaves at a bounded rate.
    pub releasing: bool,
}

/// The state of rule R over all services. Pure: the caller passes the time since its start.
#[derive(Debug)]
pub struct ShrinkRule {
    config: ShrinkConfig,
    sources: Sources,
    services: BTreeMap<String, Guard>,
    holds_begun: u64,
}

#[derive(Debug, Default)]
struct Guard {
    losses: VecDeque<Loss>,
    hold: Option<Held>,
    released: bool,
}

#[derive(Debug)]
struct Loss {
    at: Duration,
    count: usize,
    listed_before: usize,
}

#[derive(Debug)]
struct Held {
    since: Duration,
    before: usize,
    held: usize,
    answering: usize,
}

impl ShrinkRule {
    /// A rule over so many lease sources that has heard of none yet.
    pub fn new(config: ShrinkConfig, sources: usize) -> Self {
        ShrinkRule {
            config,
            sources: Sources::new(sources),
            services: BTreeMap::new(),
            holds_begun: 0,
        }
    }

    /// Notes that a source does not answer: nobody whose lease it had last leaves while that lasts.
    pub fn silent(&mut self, source: usize) {
        self.sources.set_silent(source, true);
    }

    /// Notes that a source has told all it has.
    pub fn answered(&mut self, source: usize) {
        self.sources.set_silent(source, false);
    }

    /// Whether a source does not answer.
    pub fn is_silent(&self, source: usize) -> bool {
        self.sources.is_silent(source)
    }

    /// Notes a discontinuity of a source, which answers: from `now` on no lease of it expires for one full TTL.
    ///
    /// A source that merely keeps failing now and then cannot extend this for ever: interruptions in an unbroken
    /// chain count for `max_hold` at most. Answers whether it counts.
    pub fn discontinuity(&mut self, source: usize, now: Duration, reason: Discontinuity) -> bool {
        self.sources.discontinuity(source, now, reason, &self.config)
    }

    /// Whether so many of `alive` leases of one source at once are too many to have been lost one by one.
    pub fn too_many(&self, alive: usize, lost: usize) -> bool {
        lost > percent_floor(alive, self.config.share_percent).max(1)
    }

    /// Whether a source is believed when it says that a lease with this TTL is gone.
    pub fn trusts(&self, source: usize, now: Duration, ttl: Duration) -> bool {
        let ttl = ttl.max(self.config.lease_ttl);
        let doubts = self.config.enforced && world::Guard::Distrust.stands();
        let distrusted = doubts && self.sources.distrust(source, now, ttl).is_some();
        !self.sources.is_silent(source) && !distrusted
    }

    /// Whether every source is believed when none has a lease with this TTL.
    pub fn trusts_all(&self, now: Duration, ttl: Duration) -> bool {
        (0..self.sources.count()).all(|source| self.trusts(source, now, ttl))
    }

    /// When the last discontinuity of a source was noticed and why, while it still counts.
    pub fn distrust(&self, source: usize, now: Duration) -> Option<(Duration, Discontinuity)> {
        self.sources.distrust(source, now, self.config.lease_ttl)
    }

    /// How many instances, of `listed` in all, may be taken from the list now: of `leaving` nothing is known, `answering`
    /// are missing and live. Those of whom nothing is known go first, and who answers goes only when an operator ends
    /// the hold.
    ///
    /// What is admitted counts as lost. What is not begins or continues a hold.
    pub fn admit(
        &mut self,
        now: Duration,
        service: &str,
        listed: usize,
        leaving: usize,
        answering: usize,
    ) -> usize {
        let missing = leaving + answering;
        if !self.config.enforced || !world::Guard::ShrinkLimit.stands() || missing == 0 {
            return missing;
        }
        let guard = self.services.entry(service.to_owned()).or_default();
        guard.forget(now, self.config.window);
        if std::mem::take(&mut guard.released) {
            guard.hold = None;
            return missing;
        }
        let before = guard.losses.front().map_or(listed, |loss| loss.listed_before);
        let lost: usize = guard.losses.iter().map(|loss| loss.count).sum();
        let allowed = (percent_floor(before, self.config.share_percent))
            .max(1)
            .saturating_sub(lost);
        let mut admitted = leaving.min(allowed);
        if admitted < missing && guard.hold.is_none() {
            guard.hold = Some(Held {
                since: now,
                before,
                held: 0,
                answering: 0,
            });
            self.holds_begun += 1;
            tracing::warn!(
                service,
                listed = before,
                missing,
                "list would shrink too fast: instances are held"
            );
        }
        if let Some(hold) = &mut guard.hold {
            if now < hold.since + self.config.max_hold {
                let floor = percent_ceil(hold.before, self.config.floor_percent);
                admitted = admitted.min(listed.saturating_sub(floor));
            }
            hold.held = missing - admitted;
            hold.answering = answering;
        }
        if admitted > 0 {
            guard.losses.push_back(Loss {
                at: now,
                count: admitted,
                listed_before: listed,
            });
        }
        admitted
    }

    /// Takes over what an earlier leader let go of a service: `ages` says how long ago, the newest last, of a list that
    /// has `listed` now. The window goes on over a change of leaders; where more is known here already, that counts.
    pub fn inherit(&mut self, now: Duration, service: &str, listed: usize, ages: &[Duration]) {
        let guard = self.services.entry(service.to_owned()).or_default();
        guard.forget(now, self.config.window);
        let loss = |(age, later): (&Duration, usize)| Loss {
            at: now.saturating_sub(*age),
            count: 1,
            listed_before: listed + later,
        };
        let inherited = ages.iter().zip((1..=ages.len()).rev()).map(loss);
        let inherited: VecDeque<Loss> = inherited
            .filter(|loss| loss.at + self.config.window > now)
            .collect();
        if inherited.len() >= guard.losses.iter().map(|loss| loss.count).sum() {
            guard.losses = inherited;
        }
    }

    /// Whether a hold lasts on this service.
    pub fn is_held(&self, service: &str) -> bool {
        self.services
            .get(service)
            .is_some_and(|guard| guard.hold.is_some())
    }

    /// Ends the holds of services that no longer miss anything; `missing` says which still do.
    pub fn settle(&mut self, now: Duration, missing: impl Fn(&str) -> bool) {
        let window = self.config.window;
        self.services.retain(|service, guard| {
            guard.forget(now, window);
            let over = guard.hold.as_ref().is_some_and(|hold| hold.held == 0) || !missing(service);
            if over {
                guard.released = false;
                if guard.hold.take().is_some() {
                    tracing::info!(service, "hold ended: no instance is held any more");
                }
            }
            guard.hold.is_some() || !guard.losses.is_empty()
        });
    }

    /// Lets everything go that is held of one service, or of all; takes effect with the next sweep. Answers how many
    /// holds this ends.
    pub fn end_hold(&mut self, service: Option<&str>) -> usize {
        let mut ended = 0;
        for (name, guard) in &mut self.services {
            if guard.hold.is_some() && service.is_none_or(|service| service == name) {
                tracing::warn!(service = name, "hold ended by an operator");
                guard.released = true;
                ended += 1;
            }
        }
        ended
    }

    /// The holds that last, by service.
    pub fn holds(&self, now: Duration) -> Vec<Hold> {
        let hold = |(service, guard): (&String, &Guard)| {
            let held = guard.hold.as_ref()?;
            let age = now.saturating_sub(held.since);
            Some(Hold {
                service: service.clone(),
                held: held.held,
                answering: held.answering,
                before: held.before,
                age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                releasing: age >= self.config.max_hold,
            })
        };
        self.services.iter().filter_map(hold).collect()
    }

    /// How many holds have begun so far.
    pub fn holds_begun(&self) -> u64 {
        self.holds_begun
    }
}

impl Guard {
    fn forget(&mut self, now: Duration, window: Duration) {
        while self.losses.front().is_some_and(|loss| loss.at + window <= now) {
            self.losses.pop_front();
        }
    }
}

fn percent_floor(count: usize, percent: u8) -> usize {
    count.saturating_mul(percent.into()) / 100
}

fn percent_ceil(count: usize, percent: u8) -> usize {
    count.saturating_mul(percent.into()).div_ceil(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> ShrinkRule {
        let config = ShrinkConfig {
            enforced: true,
            lease_ttl: secs(15),
            share_percent: 20,
            window: secs(10),
            floor_percent: 50,
            max_hold: secs(300),
        };
        ShrinkRule::new(config, 2)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_an_earlier_leader_let_go_counts_in_the_window() {
        let mut rule = rule();
        rule.inherit(secs(100), "s", 17, &[secs(30), secs(6), secs(5), secs(5)]);
        assert_eq!(rule.admit(secs(100), "s", 17, 5, 0), 1, "4 of 20, 3 are gone");
        rule.inherit(secs(100), "s", 16, &[]);
        assert_eq!(rule.admit(secs(100), "s", 16, 4, 0), 0, "it knows better");
        assert_eq!(rule.admit(secs(105), "s", 16, 4, 0), 2);
    }

    #[test]
    fn a_fifth_goes_at_once_and_the_rest_is_held_at_half() {
        let mut rule = rule();
        assert_eq!(rule.admit(secs(0), "s", 20, 12, 0), 4);
        assert_eq!(rule.admit(secs(5), "s", 16, 8, 0), 0);
        assert_eq!(rule.admit(secs(10), "s", 16, 8, 0), 3);
        assert_eq!(rule.admit(secs(20), "s", 13, 5, 0), 2);
        assert_eq!(rule.admit(secs(30), "s", 11, 3, 0), 1, "half of 20 stays");
        assert_eq!(rule.admit(secs(299), "s", 10, 2, 0), 0);
        let holds = rule.holds(secs(299));
        assert_eq!(
            (holds[0].held, holds[0].before, holds[0].releasing),
            (2, 20, false)
        );
        assert_eq!(
            rule.admit(secs(300), "s", 10, 2, 0),
            2,
            "its time is over: 20 % of 10 a window"
        );
    }

    #[test]
    fn one_instance_may_always_go() {
        let mut rule = rule();
        for (second, listed) in [(0, 3), (10, 2), (20, 1)] {
            assert_eq!(rule.admit(secs(second), "s", listed, 1, 0), 1);
        }
        assert!(rule.holds(secs(20)).is_empty());
    }

    #[test]
    fn an_operator_ends_a_hold_at_once() {
        let mut rule = rule();
        rule.admit(secs(0), "s", 20, 20, 0);
        assert_eq!(rule.end_hold(Some("other")), 0);
        assert_eq!(rule.end_hold(None), 1);
        assert_eq!(rule.admit(secs(1), "s", 16, 16, 0), 16);
        assert!(rule.holds(secs(1)).is_empty());
    }

    #[test]
    fn who_answers_is_kept_until_an_operator_says_otherwise() {
        let mut rule = rule();
        assert_eq!(rule.admit(secs(0), "s", 20, 12, 0), 4);
        assert_eq!(rule.admit(secs(10), "s", 16, 5, 3), 3);
        assert_eq!(
            rule.admit(secs(400), "s", 13, 0, 5),
            0,
            "its time is over, and it answers"
        );
        rule.settle(secs(400), |_| true);
        let holds = rule.holds(secs(400));
        assert_eq!((holds[0].held, holds[0].answering), (5, 5));
        assert_eq!(rule.end_hold(None), 1);
        assert_eq!(rule.admit(secs(401), "s", 13, 0, 5), 5);
    }

    #[test]
    fn a_hold_ends_when_nothing_is_missing() {
        let mut rule = rule();
        rule.admit(secs(0), "s", 20, 20, 0);
        rule.settle(secs(1), |_| true);
        assert_eq!(rule.holds(secs(1)).len(), 1);
        rule.settle(secs(2), |_| false);
        assert!(rule.holds(secs(2)).is_empty());
        assert_eq!(rule.holds_begun(), 1);
    }

    #[test]
    fn interruptions_cannot_stop_expiry_for_ever() {
        let mut rule = rule();
        let mut refused = false;
        for second in (0..400).step_by(10) {
            refused |= !rule.discontinuity(1, secs(second), Discontinuity::Interrupted);
        }
        assert!(refused);
        assert!(rule.trusts(1, secs(400), secs(15)));
        assert!(rule.discontinuity(1, secs(400), Discontinuity::SourceChanged));
        assert!(!rule.trusts(1, secs(414), secs(15)));
        assert!(
            !rule.trusts(1, secs(429), secs(30)),
            "a longer lease has a longer grace"
        );
        assert!(rule.trusts(1, secs(415), secs(15)));
    }

    #[test]
    fn one_sources_fault_is_not_anothers() {
        let mut rule = rule();
        assert!(!rule.trusts(0, secs(0), secs(15)), "it was never read");
        for source in [0, 1] {
            rule.discontinuity(source, secs(0), Discontinuity::Started);
        }
        rule.silent(1);
        assert!(rule.trusts(0, secs(15), secs(15)) && !rule.trusts(1, secs(15), secs(15)));
        assert!(!rule.trusts_all(secs(15), secs(15)));
        rule.answered(1);
        rule.discontinuity(0, secs(15), Discontinuity::Vanished);
        assert!(!rule.trusts(0, secs(29), secs(15)) && rule.trusts(1, secs(29), secs(15)));
        assert!(rule.trusts_all(secs(30), secs(15)));
    }
}
