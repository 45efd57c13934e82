//! The pump's report about itself: status and gauges.

use std::sync::Arc;
use std::time::Duration;

use rsf_registry::record::RemovalCause;

use super::running::{Running, cause};
use crate::shrink::Discontinuity;
use crate::status::{Counters, PumpStatus, Role, SourceStatus};

impl Running {
    /// Publishes the status and sets the gauges.
    pub(super) fn report(&mut self) {
        let now = self.now().elapsed;
        let unconfirmed = self.unconfirmed(now);
        let not_ready = self.not_ready(now, unconfirmed);
        let status = PumpStatus {
            pump: self.config.pump.clone(),
            role: self.role,
            epoch: self.epoch,
            ready: not_ready.is_none(),
            not_ready,
            source: SourceStatus {
                up: self.trust.loaded() && self.trust.error().is_none(),
                identity: self.trust.identity().map(str::to_owned),
                swept_ms_ago: self.swept.map(|swept| millis(now.saturating_sub(swept))),
                distrusted: self.rule.distrust(now).map(|(_, reason)| reason),
                error: self.trust.error().map(str::to_owned),
            },
            services: self.fold.services().count(),
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

    /// Listed instances that the source has not confirmed since the last discontinuity or takeover; after one TTL
    /// they count as judged.
    fn unconfirmed(&self, now: Duration) -> usize {
        let ttl = self.config.lease_ttl;
        let distrusted = self.rule.distrust(now).map(|(since, _)| since);
        let restored = self.restored.filter(|restored| now < *restored + ttl);
        match (distrusted, restored) {
            (Some(since), _) => self.fold.unconfirmed(since),
            // A warm fold need not be confirmed anew by a takeover: only who stands in the lists alone is open.
            (None, Some(_)) => self.fold.unconfirmed(Duration::ZERO),
            (None, None) => 0,
        }
    }

    fn not_ready(&self, now: Duration, unconfirmed: usize) -> Option<String> {
        if !self.trust.loaded() {
            let error = self.trust.error().unwrap_or("it has not been asked yet");
            return Some(format!("the lease source has not answered: {error}"));
        }
        if let Some(error) = self.trust.error() {
            return Some(format!("the lease source does not answer: {error}"));
        }
        if self.role == Role::TakingOver {
            return Some("the published lists are being read".into());
        }
        if self.role == Role::Leading && self.is_blind(now) {
            return Some(
                "the directory was wiped: renewals are gathered for one TTL before lists are written".into(),
            );
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
        m.source_up.set(status.source.up.into());
        m.distrusted.set(status.source.distrusted.is_some().into());
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
