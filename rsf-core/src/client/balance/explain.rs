//! What the balancer knows of each candidate, for people.

use serde::Serialize;
use tokio::time::Instant;

use super::{Member, Pool, tier};

/// How one instance stands in the eyes of the balancer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateView {
    /// Its id.
    pub instance: String,
    /// `trial`, `well`, `unknown`, `unreachable` or `broken`; only the best tier that is there gets calls.
    pub tier: &'static str,
    /// Its share after policy.
    pub weight: u32,
    /// Calls under way to it from here.
    pub pending: u32,
    /// The load that it reported within the last ten seconds, 1 is full; 0 where it reported none.
    pub load: f32,
    /// The share of failures and refusals among its latest answers, 0 to 1.
    pub failures: f32,
    /// Its mean latency in milliseconds; 0 where nothing was measured.
    pub latency_ms: f32,
    /// The part of its share that it has by now: below 1 while it is new.
    pub warm_up: f32,
    /// closed, open or half-open.
    pub breaker: &'static str,
    /// The lesser the better: pending calls per weight, with what load, failures, slowness and warm-up add.
    pub score: f32,
}

impl Pool {
    /// All members as a call would find them now.
    pub(crate) fn explain(&self, now: Instant) -> Vec<CandidateView> {
        let measure = self.measure(now);
        let view = |member: &Member| {
            let (endpoint, vitals) = (&member.endpoint, &member.endpoint.vitals);
            CandidateView {
                instance: endpoint.instance.id.to_string(),
                tier: tier(endpoint, now).name(),
                weight: member.weight,
                pending: endpoint.pending(),
                load: vitals.load(now),
                failures: vitals.failures(now),
                latency_ms: vitals.mean() / 1e3,
                warm_up: measure.warm_up(vitals),
                breaker: endpoint.breaker.state_name(),
                score: match self.chooser {
                    super::Chooser::PeakEwma => measure.peak(member).value,
                    _ => measure.pending(member).value,
                },
            }
        };
        self.members.iter().map(view).collect()
    }
}
