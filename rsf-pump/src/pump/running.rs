//! What a running pump knows, when it may write, and what it hands on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rsf_registry::record::RemovalCause;
use rsf_registry::world::{self, Guard};
use tokio::sync::watch;
use tokio::time::Instant;

use super::lane::Lane;
use super::pause::Pause;
use crate::config::PumpConfig;
use crate::evidence::Suspect;
use crate::fold::{Fold, Moment, Slots};
use crate::leader::Lost;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::shrink::ShrinkRule;
use crate::status::{PumpStatus, Role};

/// So many entries that leave lists by one event are logged one by one; of more, as in a release of the whole fleet, how
/// many there were.
const TOLD_APART: usize = 100;

/// Everything a running pump knows.
pub(super) struct Running {
    pub(super) config: PumpConfig,
    pub(super) start: Instant,
    pub(super) fold: Fold,
    pub(super) rule: ShrinkRule,
    /// One for each source.
    pub(super) lanes: Vec<Lane>,
    pub(super) pause: Pause,
    pub(super) publisher: Publisher,
    pub(super) metrics: Metrics,
    pub(super) status: watch::Sender<Arc<PumpStatus>>,
    pub(super) role: Role,
    pub(super) epoch: Option<u64>,
    /// Since when a view read back from the directory wants to be covered by renewals.
    pub(super) restored: Option<Duration>,
    /// What the directory had lost when this term began.
    pub(super) lost: Option<Lost>,
    pub(super) last_write: Option<u64>,
    pub(super) last_error: Option<String>,
    /// Of whom evidence is wanted after a sweep, and who certainly lives.
    pub(super) wanted: Option<Wanted>,
    /// When the unconfirmed were last counted, and how many there were.
    pub(super) counted: Option<(Duration, usize)>,
}

/// What the evidence is asked for.
pub(super) struct Wanted {
    pub(super) suspects: Vec<Suspect>,
    pub(super) living: Vec<Suspect>,
}

impl Running {
    pub(super) fn new(
        config: &PumpConfig,
        sources: Vec<String>,
        metrics: Metrics,
        publisher: Publisher,
        status: watch::Sender<Arc<PumpStatus>>,
    ) -> Self {
        Running {
            start: Instant::now(),
            fold: Fold::new(),
            rule: ShrinkRule::new(config.shrink.clone(), sources.len()),
            lanes: sources.into_iter().map(|name| Lane::new(name, config)).collect(),
            pause: Pause::default(),
            publisher,
            metrics,
            status,
            role: Role::Standby,
            epoch: None,
            restored: None,
            lost: None,
            last_write: None,
            last_error: None,
            wanted: None,
            counted: None,
            config: config.clone(),
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    pub(super) fn moment(&self, at: Instant) -> Moment {
        let unix_ms = u64::try_from(world::unix_now().as_millis()).unwrap_or(u64::MAX);
        Moment {
            elapsed: at.saturating_duration_since(self.start),
            unix_ms,
        }
    }

    /// Nothing is published before the sources have told all they have once. One that does not answer holds up no
    /// other: whoever may be on it stays as the published lists have it.
    pub(super) fn may_write(&self) -> bool {
        self.role == Role::Leading && self.is_loaded() && !self.is_blind(self.now().elapsed)
    }

    fn is_loaded(&self) -> bool {
        self.lanes.iter().any(|lane| lane.trust.loaded()) && self.lanes.iter().all(Lane::is_asked)
    }

    /// Whether the last published view is unknown: the directory lost it, and instances had less than one TTL to show up
    /// in this fold. While a source is away or not believed, or the pump stood still, they had no chance to; that
    /// counts for the time of a hold at most, for a source may be gone for good.
    pub(super) fn is_blind(&self, now: Duration) -> bool {
        self.lost.is_some() && Guard::Blind.stands() && self.is_gathering(now)
    }

    /// Whether instances had less than one TTL to show up in this fold, or had no chance to for the time of a hold.
    pub(super) fn is_gathering(&self, now: Duration) -> bool {
        let Some(loaded) = self.lanes.iter().filter_map(|lane| lane.loaded).min() else {
            return true;
        };
        let ttl = self.config.lease_ttl;
        let known = now.saturating_sub(loaded);
        let doubt = self.pause.missed() || !self.rule.trusts_all(now, ttl);
        known < ttl || doubt && known < self.config.shrink.max_hold
    }

    /// Whether every source is believed, and instances had one TTL to show up in this fold: it knows who lives.
    pub(super) fn is_settled(&self, now: Duration) -> bool {
        let ttl = self.config.lease_ttl;
        let settled = |lane: &Lane| lane.loaded.is_some_and(|loaded| loaded + ttl <= now);
        self.lanes.iter().all(settled) && !self.pause.missed() && self.rule.trusts_all(now, ttl)
    }

    /// Hands what the last event changed to the publisher, the log and the metrics.
    pub(super) fn note_changes(&mut self) {
        let changes = self.fold.take_changes();
        let holds = self.rule.take_changed_holds();
        if changes.services.is_empty() && changes.removed.is_empty() && holds.is_empty() {
            return;
        }
        let now = self.now().elapsed;
        for service in holds {
            self.publisher.touch(service, Slots::default(), now);
        }
        for (service, slots) in changes.services {
            self.publisher.touch(service, slots, now);
        }
        let told = changes.removed.len() <= TOLD_APART;
        let mut causes: BTreeMap<&str, u64> = BTreeMap::new();
        for (service, removal) in changes.removed {
            let cause = cause(removal.cause());
            *causes.entry(cause).or_default() += 1;
            if told {
                tracing::info!(
                    service,
                    instance = removal.instance,
                    incarnation = removal.incarnation,
                    cause,
                    "left"
                );
            }
        }
        for (cause, count) in causes {
            self.metrics.removed.with_label_values(&[cause]).inc_by(count);
            if !told {
                tracing::info!(cause, count, "entries left the lists, which name them");
            }
        }
    }
}

pub(super) fn cause(cause: RemovalCause) -> &'static str {
    match cause {
        RemovalCause::Deregistered => "deregistered",
        RemovalCause::Expired => "expired",
        RemovalCause::Evicted => "evicted",
        RemovalCause::Unspecified => "unspecified",
    }
}
