//! Rule R: how much of a list may be lost without a word, and for how long the pump distrusts a source.

mod distrust;
mod inherit;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// How many of them answer, by a probe or by a consumer's report.
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
    /// Services whose holds have begun or ended since that was last asked for.
    changed: BTreeSet<String>,
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
    /// When it counts no more: it may be older than this process.
    until: Duration,
    count: usize,
    /// How many were listed before it, at least and at most: of an earlier leader's losses nobody knows who came since.
    listed: (usize, usize),
}

#[derive(Debug)]
struct Held {
    since: Duration,
    /// How old it was then: an earlier leader began it.
    inherited: Duration,
    before: usize,
    held: usize,
    answering: usize,
}

impl Held {
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since) + self.inherited
    }
}

impl ShrinkRule {
    /// A rule over so many lease sources that has heard of none yet.
    pub fn new(config: ShrinkConfig, sources: usize) -> Self {
        ShrinkRule {
            config,
            sources: Sources::new(sources),
            services: BTreeMap::new(),
            changed: BTreeSet::new(),
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
    /// chain count for `max_hold` at most, from the last time on that it changed or lost something. Answers whether it
    /// counts.
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
        guard.forget(now);
        if std::mem::take(&mut guard.released) {
            if guard.hold.take().is_some() {
                self.changed.insert(service.to_owned());
            }
            return missing;
        }
        let (least, most) = guard.losses.front().map_or((listed, listed), |loss| loss.listed);
        let lost: usize = guard.losses.iter().map(|loss| loss.count).sum();
        let allowed = (percent_floor(least, self.config.share_percent))
            .max(1)
            .saturating_sub(lost);
        let mut admitted = leaving.min(allowed);
        if admitted < missing && guard.hold.is_none() {
            guard.hold = Some(Held {
                since: now,
                inherited: Duration::ZERO,
                before: most,
                held: 0,
                answering: 0,
            });
            self.changed.insert(service.to_owned());
            self.holds_begun += 1;
            tracing::warn!(
                service,
                listed = most,
                missing,
                "list would shrink too fast: instances are held"
            );
        }
        if let Some(hold) = &mut guard.hold {
            if hold.age(now) < self.config.max_hold {
                let floor = percent_ceil(hold.before, self.config.floor_percent);
                admitted = admitted.min(listed.saturating_sub(floor));
            }
            hold.held = missing - admitted;
            hold.answering = answering;
        }
        if admitted > 0 {
            guard.losses.push_back(Loss {
                until: now + self.config.window,
                count: admitted,
                listed: (listed, listed),
            });
        }
        admitted
    }

    /// The services whose holds have begun or ended since the last call.
    pub fn take_changed_holds(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Whether a hold lasts on this service.
    pub fn is_held(&self, service: &str) -> bool {
        self.services
            .get(service)
            .is_some_and(|guard| guard.hold.is_some())
    }

    /// Ends the holds of services that no longer miss anybody; `missing` says which still do, or may: who cannot be judged
    /// yet counts.
    pub fn settle(&mut self, now: Duration, missing: impl Fn(&str) -> bool) {
        let changed = &mut self.changed;
        self.services.retain(|service, guard| {
            guard.forget(now);
            if !missing(service) {
                guard.released = false;
                if guard.hold.take().is_some() {
                    changed.insert(service.clone());
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
            let age = held.age(now);
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
    fn forget(&mut self, now: Duration) {
        while self.losses.front().is_some_and(|loss| loss.until <= now) {
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
mod tests;
