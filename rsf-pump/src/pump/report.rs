//! The pump's report about itself: status and gauges.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rsf_registry::record::RemovalCause;

use super::REPORT;
use super::lane::Lane;
use super::running::{Running, cause};
use crate::evidence::{Finding, Kind};
use crate::leader::Lost;
use crate::shrink::Discontinuity;
use crate::status::{Counters, PumpStatus, Role, SourceStatus};

/// The unconfirmed among so many instances are counted for every report.
const COUNTED_ALWAYS: usize = 10_000;

impl Running {
    /// Publishes the status and sets the gauges.
    pub(super) fn report(&mut self) {
        let now = self.now().elapsed;
        let unconfirmed = self.count_unconfirmed(now);
        let not_ready = self.not_ready(now, unconfirmed);
        let status = PumpStatus {
            pump: self.config.pump.clone(),
            role: self.role,
            epoch: self.epoch,
            ready: not_ready.is_none(),
            not_ready,
            sources: (0..self.lanes.len())
                .map(|source| self.source_status(source, now))
                .collect(),
            services: self.fold.service_count(),
            leases: self.fold.len(),
            unconfirmed,
            lists_waiting: self.publisher.waiting(),
            lag_ms: self
                .publisher
                .waiting_since()
                .map_or(0, |since| millis(now.saturating_sub(since))),
            holds: self.rule.holds(now),
            last_write_unix_ms: self.last_write,
            last_error: self.last_error.clone(),
            counters: self.counters(),
        };
        self.gauge(&status);
        self.status.send_if_modified(|current| {
            let news = **current != status;
            if news {
                *current = Arc::new(status);
            }
            news
        });
    }

    fn source_status(&self, source: usize, now: Duration) -> SourceStatus {
        let lane = &self.lanes[source];
        SourceStatus {
            name: lane.name.clone(),
            up: lane.is_up(),
            identity: lane.trust.identity().map(str::to_owned),
            leases: lane.leases,
            swept_ms_ago: lane.swept.map(|swept| millis(now.saturating_sub(swept))),
            distrusted: self.rule.distrust(source, now).map(|(_, reason)| reason),
            error: lane.trust.error().map(str::to_owned),
        }
    }

    /// Counts them, those of a large fleet not more often than a report is due: each round of writes has a report too.
    fn count_unconfirmed(&mut self, now: Duration) -> usize {
        let recent = self.counted.filter(|(at, _)| now < *at + REPORT);
        if let Some((_, count)) = recent.filter(|_| self.fold.len() > COUNTED_ALWAYS) {
            return count;
        }
        let count = self.unconfirmed(now);
        self.counted = Some((now, count));
        count
    }

    /// Listed instances that no source has confirmed since its last discontinuity or since it fell silent, or since a
    /// takeover; after one TTL they count as judged.
    fn unconfirmed(&self, now: Duration) -> usize {
        let ttl = self.config.lease_ttl;
        let in_grace = |source: usize| {
            let silent = self.lanes[source].silent.filter(|silent| now < *silent + ttl);
            let distrusted = self.rule.distrust(source, now).map(|(since, _)| since);
            silent.max(distrusted)
        };
        let since: Vec<_> = (0..self.lanes.len()).map(in_grace).collect();
        let restored = self.restored.is_some_and(|restored| now < restored + ttl);
        if restored || since.iter().any(Option::is_some) {
            // A warm fold need not be confirmed anew by a takeover: only who stands in the lists alone is open.
            self.fold
                .unconfirmed(|source| since.get(source).copied().flatten().unwrap_or_default())
        } else {
            0
        }
    }

    fn not_ready(&self, now: Duration, unconfirmed: usize) -> Option<String> {
        let unasked = self.lanes.iter().find(|lane| !lane.is_asked());
        if let Some(lane) = unasked {
            return Some(format!("the lease source {} has not been asked yet", lane.name));
        }
        if !self.lanes.iter().any(Lane::is_up) {
            let silent =
                |lane: &Lane| format!("{}: {}", lane.name, lane.trust.error().unwrap_or("no answer"));
            let silent: Vec<_> = self.lanes.iter().map(silent).collect();
            return Some(format!("no lease source answers: {}", silent.join("; ")));
        }
        if self.role == Role::TakingOver {
            return Some("the published lists are being read".into());
        }
        if let (Role::Leading, Some(lost), true) = (self.role, self.lost, self.is_blind(now)) {
            let lost = match lost {
                Lost::All => "was wiped",
                Lost::Newest => "went back to a backup",
            };
            return Some(format!(
                "the directory {lost}: renewals are gathered for one TTL before lists are written"
            ));
        }
        (unconfirmed > 0).then(|| format!("{unconfirmed} published instances have not renewed yet"))
    }

    fn counters(&self) -> Counters {
        let m = &self.metrics;
        let causes = [
            RemovalCause::Deregistered,
            RemovalCause::Expired,
            RemovalCause::Evicted,
        ]
        .map(cause);
        let removed = causes.map(|cause| (cause.to_owned(), m.removed.with_label_values(&[cause]).get()));
        Counters {
            terms: m.terms.get(),
            fenced: m.fenced.get(),
            hints: m.hints.get(),
            deadline_checks: m.deadline_checks.get(),
            sweeps: m.sweeps.get(),
            source_errors: m.source_errors.get(),
            discontinuities: Discontinuity::ALL
                .iter()
                .map(|reason| m.discontinuities.with_label_values(&[reason.as_str()]).get())
                .sum(),
            holds: self.rule.holds_begun(),
            lists_written: m.lists_written.get(),
            write_errors: m.write_errors.get(),
            removed: removed.into_iter().collect(),
            probes: by_finding(|finding| m.probes.with_label_values(&[finding]).get()),
            evidence: Kind::ALL
                .iter()
                .filter(|kind| self.config.evidence.contains(kind))
                .map(|kind| {
                    let of = |finding: &str| m.evidence.with_label_values(&[kind.as_str(), finding]).get();
                    (kind.as_str().to_owned(), by_finding(of))
                })
                .collect(),
        }
    }

    fn gauge(&self, status: &PumpStatus) {
        let m = &self.metrics;
        for role in Role::ALL {
            m.role
                .with_label_values(&[role.as_str()])
                .set((role == status.role).into());
        }
        m.epoch.set(
            status
                .epoch
                .and_then(|epoch| i64::try_from(epoch).ok())
                .unwrap_or(0),
        );
        m.ready.set(status.ready.into());
        for source in &status.sources {
            let name = [source.name.as_str()];
            m.source_up.with_label_values(&name).set(source.up.into());
            m.distrusted
                .with_label_values(&name)
                .set(source.distrusted.is_some().into());
            m.source_leases.with_label_values(&name).set(count(source.leases));
        }
        m.services.set(count(status.services));
        m.leases.set(count(status.leases));
        m.unconfirmed.set(count(status.unconfirmed));
        m.holds.set(count(status.holds.len()));
        m.held.set(count(status.holds.iter().map(|hold| hold.held).sum()));
        m.waiting.set(count(status.lists_waiting));
        m.holds_begun
            .inc_by(status.counters.holds.saturating_sub(m.holds_begun.get()));
    }
}

fn by_finding(count: impl Fn(&str) -> u64) -> BTreeMap<String, u64> {
    let findings = Finding::ALL.iter().map(|finding| finding.as_str());
    findings
        .map(|finding| (finding.to_owned(), count(finding)))
        .collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
