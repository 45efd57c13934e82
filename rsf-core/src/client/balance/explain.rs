//! What the balancer knows of each candidate, for people.

use std::sync::Arc;

use serde::Serialize;

use super::score::{Measure, Score};
use super::{Chooser, Member, Pool, SCAN_BELOW, Tier, tier};
use crate::moment::Moment;

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

const BETTER_OF_TWO: &str = "two are drawn by weight, the lesser score serves";

/// Which candidates a call's first attempt would go to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirstPick {
    /// Their ids: one where that is certain, several where the balancer draws among them, none where there are none.
    pub among: Vec<Arc<str>>,
    /// How it is chosen among them.
    pub because: &'static str,
}

impl Pool {
    /// All members as a call would find them now.
    pub(crate) fn explain(&self, now: Moment) -> Vec<CandidateView> {
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
                score: self.score(&measure, member).value,
            }
        };
        self.members.iter().map(view).collect()
    }

    fn score(&self, measure: &Measure, member: &Member) -> Score {
        match self.chooser {
            Chooser::PeakEwma => measure.peak(member),
            _ => measure.pending(member),
        }
    }

    /// Whom [`pick`](Pool::pick) would choose for a first attempt now. Nothing is drawn, no turn is taken, nobody is
    /// connected for it.
    pub(crate) fn first_pick(&self, key: Option<u64>, now: Moment) -> FirstPick {
        let measure = self.measure(now);
        let drawn = match (&self.chooser, key) {
            (Chooser::ConsistentHash(ring), Some(key)) => {
                let owner = ring.pick(&self.members, key, self.bounded_load_percent, now, |_| true);
                (owner.into_iter().collect(), "the key's place on the ring")
            }
            (Chooser::RoundRobin(stride), _) => {
                let turns = stride.coming().take(self.members.len().min(SCAN_BELOW));
                (self.takers(turns, &measure), "its turn")
            }
            (Chooser::LeastPending, _) if self.members.len() >= SCAN_BELOW => (self.fit(now), BETTER_OF_TWO),
            (Chooser::PeakEwma, _) if self.members.len() > 2 => (self.fit(now), BETTER_OF_TWO),
            (Chooser::LeastPending | Chooser::PeakEwma, _) => (Vec::new(), ""),
            (Chooser::Random | Chooser::ConsistentHash(_), _) => (self.fit(now), "drawn by weight"),
            (Chooser::Custom(_), _) => (self.fit(now), "the application's balancer decides"),
        };
        let (among, because) = match drawn {
            (among, because) if !among.is_empty() => (among, because),
            // What `pick` does as well where the balancer finds none.
            _ => (
                self.best(&measure),
                "the least score of the best tier, equals by lot",
            ),
        };
        FirstPick {
            among: among
                .into_iter()
                .map(|member: &Member| member.endpoint.instance.id.clone())
                .collect(),
            because,
        }
    }

    /// All that are well or due for their trial.
    fn fit(&self, now: Moment) -> Vec<&Member> {
        let fit = |member: &&Member| tier(&member.endpoint, now) <= Tier::Well;
        self.members.iter().filter(fit).collect()
    }

    /// Those of the best tier whose score is the least.
    fn best(&self, measure: &Measure) -> Vec<&Member> {
        let mut best: Option<(Tier, f32)> = None;
        let mut members = Vec::new();
        for member in &self.members {
            let worth = (
                tier(&member.endpoint, measure.now),
                self.score(measure, member).value,
            );
            if best.is_none_or(|best| worth < best) {
                members.clear();
                best = Some(worth);
            }
            if best == Some(worth) {
                members.push(member);
            }
        }
        members
    }

    /// Those whose turns come, up to the first that takes its turn for certain: a loaded or new one may pass.
    fn takers(&self, turns: impl Iterator<Item = usize>, measure: &Measure) -> Vec<&Member> {
        let mut takers: Vec<&Member> = Vec::new();
        for member in turns.map(|place| &self.members[place]) {
            let vitals = &member.endpoint.vitals;
            let certain = match tier(&member.endpoint, measure.now) {
                Tier::Trial => true,
                Tier::Well if measure.is_failing(vitals) => continue,
                Tier::Well => measure.quality(vitals) >= 1.0,
                _ => continue,
            };
            if !takers.iter().any(|taker| std::ptr::eq(*taker, member)) {
                takers.push(member);
            }
            if certain {
                break;
            }
        }
        takers
    }
}
