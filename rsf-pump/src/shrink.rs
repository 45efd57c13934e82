//! Rule R: how much of a list may be lost without a word, and for how long the pump distrusts its source.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The numbers of rule R.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShrinkConfig {
    /// `false` lets every loss through at once: for drills and negative controls only.
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

/// Why the pump distrusts what its source has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discontinuity {
    /// The pump has just started and does not know what the source lost before.
    Started,
    /// The source says of itself that it is another, or was restarted or emptied.
    SourceChanged,
    /// The source failed or stalled, and is back.
    Interrupted,
    /// Many leases vanished long before their deadlines.
    Vanished,
    /// The pump itself stood still.
    Paused,
}

impl Discontinuity {
    /// All reasons.
    pub const ALL: [Discontinuity; 5] = [
        Discontinuity::Started,
        Discontinuity::SourceChanged,
        Discontinuity::Interrupted,
        Discontinuity::Vanished,
        Discontinuity::Paused,
    ];

    /// The label of metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Discontinuity::Started => "started",
            Discontinuity::SourceChanged => "source_changed",
            Discontinuity::Interrupted => "interrupted",
            Discontinuity::Vanished => "vanished",
            Discontinuity::Paused => "paused",
        }
    }
}

/// A service whose list keeps instances that the source no longer has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The service key.
    pub service: String,
    /// How many instances are listed only because of the hold.
    pub held: usize,
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
    distrust: Option<Distrust>,
    services: BTreeMap<String, Guard>,
    holds_begun: u64,
}

#[derive(Debug)]
struct Distrust {
    chain_began: Duration,
    /// The last one that counted.
    since: Duration,
    /// The last one at all.
    last: Duration,
    reason: Discontinuity,
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
}

impl ShrinkRule {
    /// A rule that has seen nothing yet.
    pub fn new(config: ShrinkConfig) -> Self {
        ShrinkRule {
            config,
            distrust: None,
            services: BTreeMap::new(),
            holds_begun: 0,
        }
    }

    /// Notes a discontinuity of the source: from `now` on no lease expires for one full TTL.
    ///
    /// A source that merely keeps failing now and then cannot extend this for ever: interruptions in an unbroken
    /// chain count for `max_hold` at most. Answers whether it counts.
    pub fn discontinuity(&mut self, now: Duration, reason: Discontinuity) -> bool {
        let chain_began = match &mut self.distrust {
            Some(distrust) if now < distrust.last + self.config.lease_ttl => {
                distrust.last = now;
                distrust.chain_began
            }
            _ => now,
        };
        let limited = matches!(reason, Discontinuity::Interrupted | Discontinuity::Paused);
        if limited && now.saturating_sub(chain_began) > self.config.max_hold {
            return false;
        }
        self.distrust = Some(Distrust {
            chain_began,
            since: now,
            last: now,
            reason,
        });
        true
    }

    /// Whether so many of `alive` leases at once are too many to have been lost one by one.
    pub fn too_many(&self, alive: usize, lost: usize) -> bool {
        lost > percent_floor(alive, self.config.share_percent).max(1)
    }

    /// Whether a lease with this TTL may not expire now because of a discontinuity.
    pub fn distrusted(&self, now: Duration, ttl: Duration) -> bool {
        let ttl = ttl.max(self.config.lease_ttl);
        self.config.enforced
            && self
                .distrust
                .as_ref()
                .is_some_and(|distrust| now < distrust.since + ttl)
    }

    /// When the last discontinuity was noticed and why, while it still counts.
    pub fn distrust(&self, now: Duration) -> Option<(Duration, Discontinuity)> {
        let distrust = self.distrust.as_ref()?;
        (now < distrust.since + self.config.lease_ttl).then_some((distrust.since, distrust.reason))
    }

    /// How many of the `leaving` instances, of `listed` in all, may be taken from the list now.
    ///
    /// What is admitted counts as lost. What is not begins or continues a hold.
    pub fn admit(&mut self, now: Duration, service: &str, listed: usize, leaving: usize) -> usize {
        if !self.config.enforced || leaving == 0 {
            return leaving;
        }
        let guard = self.services.entry(service.to_owned()).or_default();
        guard.forget(now, self.config.window);
        if std::mem::take(&mut guard.released) {
            guard.hold = None;
            return leaving;
        }
        let before = guard.losses.front().map_or(listed, |loss| loss.listed_before);
        let lost: usize = guard.losses.iter().map(|loss| loss.count).sum();
        let allowed = (percent_floor(before, self.config.share_percent))
            .max(1)
            .saturating_sub(lost);
        let mut admitted = leaving.min(allowed);
        if admitted < leaving && guard.hold.is_none() {
            guard.hold = Some(Held {
                since: now,
                before,
                held: 0,
            });
            self.holds_begun += 1;
            tracing::warn!(
                service,
                listed = before,
                leaving,
                "list would shrink too fast: instances are held"
            );
        }
        if let Some(hold) = &mut guard.hold {
            if now < hold.since + self.config.max_hold {
                let floor = percent_ceil(hold.before, self.config.floor_percent);
                admitted = admitted.min(listed.saturating_sub(floor));
            }
            hold.held = leaving - admitted;
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
        ShrinkRule::new(ShrinkConfig {
            enforced: true,
            lease_ttl: secs(15),
            share_percent: 20,
            window: secs(10),
            floor_percent: 50,
            max_hold: secs(300),
        })
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_fifth_goes_at_once_and_the_rest_is_held_at_half() {
        let mut rule = rule();
        assert_eq!(rule.admit(secs(0), "s", 20, 12), 4);
        assert_eq!(rule.admit(secs(5), "s", 16, 8), 0);
        assert_eq!(rule.admit(secs(10), "s", 16, 8), 3);
        assert_eq!(rule.admit(secs(20), "s", 13, 5), 2);
        assert_eq!(rule.admit(secs(30), "s", 11, 3), 1, "half of 20 stays");
        assert_eq!(rule.admit(secs(299), "s", 10, 2), 0);
        let holds = rule.holds(secs(299));
        assert_eq!(
            (holds[0].held, holds[0].before, holds[0].releasing),
            (2, 20, false)
        );
        assert_eq!(
            rule.admit(secs(300), "s", 10, 2),
            2,
            "its time is over: 20 % of 10 a window"
        );
    }

    #[test]
    fn one_instance_may_always_go() {
        let mut rule = rule();
        for (second, listed) in [(0, 3), (10, 2), (20, 1)] {
            assert_eq!(rule.admit(secs(second), "s", listed, 1), 1);
        }
        assert!(rule.holds(secs(20)).is_empty());
    }

    #[test]
    fn an_operator_ends_a_hold_at_once() {
        let mut rule = rule();
        rule.admit(secs(0), "s", 20, 20);
        assert_eq!(rule.end_hold(Some("other")), 0);
        assert_eq!(rule.end_hold(None), 1);
        assert_eq!(rule.admit(secs(1), "s", 16, 16), 16);
        assert!(rule.holds(secs(1)).is_empty());
    }

    #[test]
    fn a_hold_ends_when_nothing_is_missing() {
        let mut rule = rule();
        rule.admit(secs(0), "s", 20, 20);
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
            refused |= !rule.discontinuity(secs(second), Discontinuity::Interrupted);
        }
        assert!(refused);
        assert!(!rule.distrusted(secs(400), secs(15)));
        assert!(rule.discontinuity(secs(400), Discontinuity::SourceChanged));
        assert!(rule.distrusted(secs(414), secs(15)));
        assert!(
            rule.distrusted(secs(429), secs(30)),
            "a longer lease has a longer grace"
        );
        assert!(!rule.distrusted(secs(415), secs(15)));
    }
}
