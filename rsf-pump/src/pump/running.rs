//! What a running pump knows, and what it does with each event.

use std::sync::Arc;
use std::time::Duration;

use rsf_registry::lease::LiveLease;
use rsf_registry::record::{Removal, RemovalCause};
use rsf_registry::world::{self, Guard};
use tokio::sync::watch;
use tokio::time::Instant;

use super::lane::Lane;
use super::pause::Pause;
use crate::config::PumpConfig;
use crate::evidence::{Found, Suspect};
use crate::fold::{FindingAges, Fold, Moment, Place, Sweeping};
use crate::intake::{Intake, Intakes};
use crate::leader::{Leadership, Takeover};
use crate::metrics::Metrics;
use crate::publish::{Publisher, Round};
use crate::shrink::{Discontinuity, ShrinkRule};
use crate::status::{PumpStatus, Role};

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
    /// The directory was wiped when this term began.
    pub(super) wiped: bool,
    pub(super) last_write: Option<u64>,
    pub(super) last_error: Option<String>,
    /// Of whom evidence is wanted after a sweep, and who certainly lives.
    pub(super) wanted: Option<Wanted>,
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
            wiped: false,
            last_write: None,
            last_error: None,
            wanted: None,
            config: config.clone(),
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.moment(Instant::now())
    }

    fn moment(&self, at: Instant) -> Moment {
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

    /// Whether the last published view is unknown: the directory was wiped, and instances had less than one TTL to
    /// show up in this fold. While a source is away or not believed, or the pump stood still, they had no chance to; that
    /// counts for the time of a hold at most, for a source may be gone for good.
    pub(super) fn is_blind(&self, now: Duration) -> bool {
        self.wiped && Guard::Blind.stands() && self.is_gathering(now)
    }

    /// Whether instances had less than one TTL to show up in this fold, or had no chance to for the time of a hold.
    fn is_gathering(&self, now: Duration) -> bool {
        let Some(loaded) = self.lanes.iter().filter_map(|lane| lane.loaded).min() else {
            return true;
        };
        let ttl = self.config.lease_ttl;
        let known = now.saturating_sub(loaded);
        let doubt = self.pause.missed() || !self.rule.trusts_all(now, ttl);
        known < ttl || doubt && known < self.config.shrink.max_hold
    }

    /// Takes in what became of the leadership; answers whether all sources have to be read anew.
    pub(super) fn on_leadership(&mut self, event: Leadership) -> bool {
        let mut anew = false;
        match event {
            Leadership::Won { epoch } => {
                tracing::info!(epoch, "won a term");
                self.role = Role::TakingOver;
                self.epoch = Some(epoch);
                self.last_error = None;
            }
            Leadership::Begun(takeover) => anew = self.take_over(takeover),
            Leadership::Lost { epoch } => {
                tracing::warn!(epoch, "the term ended; back to standby");
                self.stand_by();
            }
            Leadership::Failed { reason } => {
                tracing::warn!(reason, "no leadership yet");
                self.stand_by();
                self.last_error = Some(reason);
            }
        }
        self.report();
        anew
    }

    fn take_over(&mut self, takeover: Takeover) -> bool {
        let now = self.now();
        self.pause.turn(now.elapsed);
        self.role = Role::Leading;
        self.metrics.terms.inc();
        let silent = self.lanes.iter().any(|lane| lane.silent.is_some());
        let anew = (silent || self.pause.missed()) && !takeover.wiped;
        if anew {
            // Another leader published what changed meanwhile: a pump that stood still, or could not ask a source, knows no
            // more than one that starts.
            self.fold = Fold::new();
            self.lanes
                .iter_mut()
                .for_each(|lane| lane.begin_anew(now.elapsed));
        }
        if Guard::LastView.stands() {
            self.fold.restore(now, &takeover.lists, self.config.lease_ttl);
        }
        for list in &takeover.lists {
            let expired = |removal: &&Removal| removal.cause() == RemovalCause::Expired;
            let age =
                |removal: &Removal| Duration::from_millis(now.unix_ms.saturating_sub(removal.at_unix_ms));
            let ages: Vec<Duration> = list.removed.iter().filter(expired).map(age).collect();
            self.rule
                .inherit(now.elapsed, &list.service, list.instances.len(), &ages);
        }
        let restored = takeover.lists.iter().flat_map(|list| &list.instances);
        for instance in restored {
            if let Some(place) = self.fold.place(&instance.instance) {
                (0..self.lanes.len()).for_each(|source| self.schedule(source, place));
            }
        }
        self.restored = Some(now.elapsed);
        self.wiped = takeover.wiped;
        if takeover.wiped {
            tracing::warn!(
                "the directory is empty although lists were published before: all of them are written anew"
            );
        }
        tracing::info!(
            epoch = takeover.term.epoch,
            lists = takeover.lists.len(),
            "leading"
        );
        self.publisher.begin(takeover, &self.fold, now.elapsed);
        anew
    }

    /// Lets lists be written that could not be read back, once instances had time to show up.
    pub(super) fn release_unread(&mut self) {
        let now = self.now().elapsed;
        if !self.is_gathering(now) {
            self.publisher.release_unread(now);
        }
    }

    fn stand_by(&mut self) {
        self.publisher.end();
        self.role = Role::Standby;
        self.epoch = None;
    }

    /// Closes a round of writes; answers whether the term is over.
    pub(super) fn on_round(&mut self, round: Round) -> bool {
        if !round.lags.is_empty() {
            self.last_write = Some(self.now().unix_ms);
        }
        for lag in &round.lags {
            self.metrics.lag_seconds.observe(lag.as_secs_f64());
        }
        self.metrics.lists_written.inc_by(round.lags.len() as u64);
        self.metrics.write_errors.inc_by(round.failed as u64);
        self.metrics.lists_removed.inc_by(round.removed.len() as u64);
        for service in &round.removed {
            tracing::info!(service, "nobody has provided it for long: its list is deleted");
        }
        if let Some(error) = &round.error {
            tracing::warn!(error, lists = round.failed, "lists could not be written");
        }
        self.last_error = round.error;
        if round.fenced {
            tracing::warn!(
                epoch = self.epoch,
                "a write was refused because another term began; back to standby"
            );
            self.metrics.fenced.inc();
            self.stand_by();
        }
        self.report();
        round.fenced
    }

    /// When the next lease of any source wants to be checked.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.lanes.iter().filter_map(|lane| lane.deadlines.next()).min()
    }

    pub(super) fn check_deadlines(&mut self, intake: &mut Intakes) {
        let now = self.now().elapsed;
        for (source, lane) in self.lanes.iter_mut().enumerate() {
            let due = lane.deadlines.due(now, |place| self.fold.deadline(source, place));
            self.metrics.deadline_checks.inc_by(due.len() as u64);
            let due = due.into_iter().map(|place| self.fold.id(place).to_string());
            intake.want(source, due.collect());
        }
    }

    fn schedule(&mut self, source: usize, place: Place) {
        if let Some(deadline) = self.fold.deadline(source, place)
            && let Some(lane) = self.lanes.get_mut(source)
        {
            lane.deadlines.schedule(place, deadline);
        }
    }

    pub(super) fn on_intake(&mut self, source: usize, event: Intake, intake: &mut Intakes) {
        match event {
            Intake::Hinted(count) => self.metrics.hints.inc_by(count),
            Intake::Read {
                asked,
                instances,
                answer: Ok(leases),
            } => {
                if self.on_read(source, asked, instances, leases) {
                    intake.sweep_one_soon(source);
                }
            }
            Intake::Page { asked, leases } => self.on_page(source, asked, leases),
            Intake::Swept {
                asked,
                answer: Ok(identity),
            } => {
                if !self.on_sweep(source, asked, &identity) {
                    intake.sweep_one_soon(source);
                }
            }
            Intake::Read {
                answer: Err(error), ..
            } => self.on_failure(source, error),
            Intake::Swept {
                answer: Err(error), ..
            } => {
                if let Some(lane) = self.lanes.get_mut(source) {
                    lane.sweeping = None;
                }
                self.on_failure(source, error);
            }
        }
    }

    fn on_failure(&mut self, source: usize, error: String) {
        self.metrics.source_errors.inc();
        let now = self.now().elapsed;
        let Some(lane) = self.lanes.get_mut(source) else {
            return;
        };
        lane.silent.get_or_insert(now);
        self.rule.silent(source);
        if lane.trust.failed(error.clone()) {
            tracing::warn!(
                source = lane.name,
                error,
                "the lease source does not answer; whoever it had last stays listed"
            );
        }
        self.report();
    }

    /// A lease that is gone only raises a doubt: one lost node looks the same as an emptied source, so a sweep has to
    /// tell the two apart before anything leaves a list. Answers whether there is a doubt.
    fn on_read(
        &mut self,
        source: usize,
        asked: Instant,
        instances: Vec<String>,
        leases: Vec<Option<LiveLease>>,
    ) -> bool {
        let (now, asked) = (self.now(), self.moment(asked).elapsed);
        if let Some(lane) = self.lanes.get_mut(source) {
            lane.trust.read(now.elapsed);
        }
        let mut doubt = false;
        for (instance, lease) in instances.into_iter().zip(leases) {
            match lease {
                Some(live) if live.lease.instance == instance => {
                    if let Some(place) = self.fold.observe(now, source, asked, live) {
                        self.schedule(source, place);
                    }
                }
                Some(live) => tracing::warn!(
                    instance,
                    named = live.lease.instance,
                    "a lease under another's key"
                ),
                None => {
                    self.fold.missing(source, asked, &instance);
                    doubt |= self.fold.is_listed(&instance);
                }
            }
        }
        doubt
    }

    fn on_page(&mut self, source: usize, asked: Instant, leases: Vec<LiveLease>) {
        let (now, asked) = (self.now(), self.moment(asked).elapsed);
        self.sweeping(source, asked, leases.len());
        for live in leases {
            if let Some(place) = self.fold.observe(now, source, asked, live) {
                self.schedule(source, place);
            }
        }
    }

    /// The sweep that a source is telling, begun if this is its first word; `more` leases of it come now.
    fn sweeping(&mut self, source: usize, asked: Duration, more: usize) -> Option<(Sweeping, usize)> {
        let lane = self.lanes.get_mut(source)?;
        let fold = &mut self.fold;
        let sweeping = lane
            .sweeping
            .get_or_insert_with(|| (fold.begin_sweep(source, asked), 0));
        sweeping.1 += more;
        Some(*sweeping)
    }

    /// Answers whether the fold took in all that the sweep told.
    fn on_sweep(&mut self, source: usize, asked: Instant, identity: &str) -> bool {
        let (now, asked) = (self.now(), self.moment(asked).elapsed);
        self.metrics.sweeps.inc();
        self.metrics
            .sweep_seconds
            .observe(now.elapsed.saturating_sub(asked).as_secs_f64());
        let sweeping = self.sweeping(source, asked, 0);
        let (Some(lane), Some((sweeping, leases))) = (self.lanes.get_mut(source), sweeping) else {
            return true;
        };
        lane.sweeping = None;
        if !lane.is_whole(asked) {
            return false;
        }
        let discontinuity = lane.trust.swept(asked, now.elapsed, identity);
        lane.silent = None;
        lane.swept = Some(now.elapsed);
        let loading = lane.loaded.is_none();
        lane.loaded.get_or_insert(now.elapsed);
        lane.asked = Some(asked);
        let all = self.lanes.iter().map(|lane| lane.asked).min().flatten();
        all.into_iter().for_each(|all| self.pause.made_up(all));
        let Some(lane) = self.lanes.get_mut(source) else {
            return true;
        };
        self.rule.answered(source);
        lane.leases = leases;
        let swept = self.fold.end_sweep(now, sweeping);
        let vanished = self
            .rule
            .too_many(swept.alive_before, swept.vanished)
            .then_some(Discontinuity::Vanished);
        if let Some(reason) = discontinuity.or(vanished) {
            self.distrust(source, now.elapsed, reason);
        }
        self.wanted = Some(self.reap(now));
        if loading {
            tracing::info!(
                source = self.lanes.get(source).map(|lane| lane.name.as_str()),
                leases,
                "the leases are read"
            );
        }
        self.report();
        true
    }

    fn reap(&mut self, now: Moment) -> Wanted {
        let silent = |lane: &Lane| {
            lane.silent
                .is_some_and(|silent| silent + self.config.lease_ttl <= now.elapsed)
        };
        if self.lanes.iter().any(silent) {
            self.fold.suspect_silent(now.elapsed, &self.rule);
        }
        let again = self.config.probe.clone().unwrap_or_default().interval;
        let ages = FindingAges {
            again,
            life: again * 3,
        };
        let suspects = self.fold.reap(now, &mut self.rule, ages);
        let living = match suspects.is_empty() {
            true => Vec::new(),
            false => self.fold.living(now.elapsed, &self.rule, ages),
        };
        Wanted { suspects, living }
    }

    pub(super) fn on_evidence(&mut self, found: &Found) {
        let Found { suspect, finding } = found;
        self.metrics.probes.with_label_values(&[finding.as_str()]).inc();
        tracing::debug!(
            instance = suspect.instance,
            address = suspect.address,
            finding = finding.as_str(),
            "evidence"
        );
        self.fold.take_evidence(self.now(), &self.rule, found);
    }

    /// Whether lists have been published that this pump would know again: had the directory none later, it was wiped.
    pub(super) fn knows_a_view(&self) -> bool {
        let ttl = self.config.lease_ttl;
        let now = self.now().elapsed;
        let settled = |lane: &Lane| lane.loaded.is_some_and(|loaded| loaded + ttl <= now);
        self.role == Role::Standby && self.lanes.iter().any(settled) && self.fold.service_count() > 0
    }

    fn distrust(&mut self, source: usize, now: Duration, reason: Discontinuity) {
        self.metrics
            .discontinuities
            .with_label_values(&[reason.as_str()])
            .inc();
        let counts = self.rule.discontinuity(source, now, reason);
        if reason != Discontinuity::Started {
            tracing::warn!(
                source = self.lanes.get(source).map(|lane| lane.name.as_str()),
                reason = reason.as_str(),
                counts,
                "the lease source was discontinued: no lease of it expires for one TTL"
            );
        }
    }

    /// Hands what the last event changed to the publisher, the log and the metrics.
    pub(super) fn note_changes(&mut self) {
        let changes = self.fold.take_changes();
        if changes.services.is_empty() && changes.removed.is_empty() {
            return;
        }
        let now = self.now().elapsed;
        for (service, slots) in changes.services {
            self.publisher.touch(service, slots, now);
        }
        for (service, removal) in changes.removed {
            let cause = cause(removal.cause());
            self.metrics.removed.with_label_values(&[cause]).inc();
            tracing::info!(
                service,
                instance = removal.instance,
                incarnation = removal.incarnation,
                cause,
                "left"
            );
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
