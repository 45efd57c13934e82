//! What a pump does with what its sources and its evidence say.

use std::time::Duration;

use rsf_registry::lease::LiveLease;
use tokio::time::Instant;

use super::lane::Lane;
use super::running::{Running, Wanted};
use crate::evidence::Found;
use crate::fold::{FindingAges, Moment, Place, Sweeping};
use crate::intake::{Intake, Intakes};
use crate::shrink::Discontinuity;

/// Of leases whose deadlines came together a tenth of the fleet is read one by one, within these bounds; more are swept.
const ONE_BY_ONE: std::ops::RangeInclusive<usize> = 100..=1_000;

impl Running {
    /// When the next lease of any source wants to be checked. While a source is swept none of it is: the sweep asks for all
    /// of them, and where it is slow, reading them one by one beside it would make it slower still.
    pub(super) fn next_deadline(&self, intake: &Intakes) -> Option<Duration> {
        let lanes = self.lanes.iter().enumerate();
        let waiting = lanes.filter(|(source, _)| !intake.is_sweeping(*source));
        waiting.filter_map(|(_, lane)| lane.deadlines.next()).min()
    }

    pub(super) fn check_deadlines(&mut self, intake: &mut Intakes) {
        let now = self.now().elapsed;
        for (source, lane) in self.lanes.iter_mut().enumerate() {
            if intake.is_sweeping(source) {
                continue;
            }
            let due = lane.deadlines.due(now, |place| self.fold.deadline(source, place));
            self.metrics.deadline_checks.inc_by(due.len() as u64);
            let few = (lane.leases / 10).clamp(*ONE_BY_ONE.start(), *ONE_BY_ONE.end());
            if due.len() > few {
                // The last sweep took so long that its word on them is old already.
                intake.sweep_one_soon(source);
                continue;
            }
            let due = due.into_iter().map(|place| self.fold.id(place).to_string());
            intake.want(source, due.collect());
        }
    }

    pub(super) fn schedule(&mut self, source: usize, place: Place) {
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
        let again = self.config.inquiry.interval;
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
        let Found {
            suspect,
            finding,
            said,
        } = found;
        self.metrics.probes.with_label_values(&[finding.as_str()]).inc();
        for (kind, finding) in said {
            let labels = [kind.as_str(), finding.as_str()];
            self.metrics.evidence.with_label_values(&labels).inc();
        }
        tracing::debug!(
            instance = suspect.instance,
            address = suspect.address,
            finding = finding.as_str(),
            ?said,
            "evidence"
        );
        self.fold.take_evidence(self.now(), &self.rule, found);
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
}
