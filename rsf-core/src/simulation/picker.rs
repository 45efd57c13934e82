//! One pool for those who count nanoseconds.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::endpoints;
use crate::client::simulated::{Endpoint, Pool, pool};
use crate::policy::CallRules;

/// A consumer's pool whose calls never end by themselves.
pub struct Picker {
    pool: Pool,
    endpoints: Vec<Arc<Endpoint>>,
    weights: Vec<u32>,
    rules: CallRules,
    under_way: VecDeque<Arc<Endpoint>>,
}

impl Picker {
    /// A pool of instances with these weights (1 to 10 000).
    pub fn new(weights: Vec<u32>, rules: CallRules) -> Self {
        let endpoints = endpoints(weights.len());
        let members = endpoints.iter().cloned().zip(weights.iter().copied());
        Picker {
            pool: pool(members.collect(), &rules),
            endpoints,
            weights,
            rules,
            under_way: VecDeque::new(),
        }
    }

    /// One choice, nothing else.
    pub fn pick(&self, key: Option<u64>, now: Instant) -> bool {
        self.pool.pick(key, &[], now.into()).is_some()
    }

    /// A call begins; where more than `most` are under way, the oldest ends.
    pub fn call(&mut self, key: Option<u64>, now: Instant, most: usize) {
        if let Some(endpoint) = self.pool.pick(key, &[], now.into()) {
            endpoint.vitals.enter();
            self.under_way.push_back(endpoint);
        }
        if self.under_way.len() > most
            && let Some(oldest) = self.under_way.pop_front()
        {
            oldest.vitals.leave();
        }
    }

    /// The control plane changes weights: the pool is built anew.
    pub fn reweigh(&mut self, change: impl FnOnce(&mut Vec<u32>)) {
        change(&mut self.weights);
        let members = self.endpoints.iter().cloned().zip(self.weights.iter().copied());
        self.pool = pool(members.collect(), &self.rules);
    }

    /// For each instance its calls under way per weight, over what an even spread would have.
    pub fn spreads(&self) -> impl Iterator<Item = f64> {
        let total: f64 = self.weights.iter().map(|weight| f64::from(*weight)).sum();
        let each = self.under_way.len() as f64 / total;
        let spread = move |(endpoint, weight): (&Arc<Endpoint>, &u32)| {
            f64::from(endpoint.vitals.pending()) / (each * f64::from(*weight))
        };
        self.endpoints.iter().zip(&self.weights).map(spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Balance;

    #[test]
    fn odd_weights_and_lengths_leave_nobody_without_an_instance() {
        fastrand::seed(9);
        let odd = [1, 10_000, 1, 1, 9_999, 7];
        for balance in [
            Balance::LeastPending,
            Balance::PeakEwma,
            Balance::Random,
            Balance::RoundRobin,
            Balance::ConsistentHash,
            Balance::Custom("nobodys".into()),
        ] {
            for count in [1, 2, 3, 15, 16, 17, 700] {
                let rules = CallRules {
                    balance: balance.clone(),
                    ..CallRules::default()
                };
                let weights = odd.iter().copied().cycle().take(count).collect();
                let mut picker = Picker::new(weights, rules);
                for turn in 0..300 {
                    let key = (turn % 2 == 0).then(|| fastrand::u64(..));
                    picker.call(key, Instant::now(), 50);
                    assert!(picker.pick(key, Instant::now()), "{balance} among {count}");
                }
                assert_eq!(picker.under_way.len(), 50);
                picker.reweigh(|weights| weights.reverse());
                assert!(picker.pick(None, Instant::now()), "{balance} among {count}");
            }
        }
        assert!(!Picker::new(Vec::new(), CallRules::default()).pick(None, Instant::now()));
    }
}
