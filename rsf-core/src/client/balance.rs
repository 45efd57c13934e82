//! The choice of an endpoint.
//!
//! Endpoints that are connected and not broken come first, then the others in order of hope; an ejected one whose time
//! is over gets one trial. Among the best tier,
//! *least pending* compares pending calls per weight: of all below 16 endpoints, else of two that are drawn by weight
//! from an alias table (Vose 1991; "the power of two choices", Mitzenmacher 2001). Ties go by weight, so that an idle
//! service still spreads its calls as the weights say.

use std::sync::Arc;

use tokio::time::Instant;

use super::breaker::Standing;
use super::endpoint::Endpoint;
use crate::policy::Balance;

/// From this many endpoints on, two candidates are drawn instead of looking at all.
const SCAN_BELOW: usize = 16;

/// The endpoints that a call may go to, with their weights.
pub(crate) struct Pool {
    members: Vec<Member>,
    alias: Alias,
}

/// An endpoint and its share.
pub(crate) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
}

/// Order of hope, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// Its time of ejection is over: one trial is due. Before the well ones, or it would never come back; while the
    /// trial runs, nobody else sees it as due.
    Trial,
    /// Connected, and not broken.
    Well,
    /// Not connected yet.
    Unknown,
    /// The last attempt to connect failed.
    Unreachable,
    /// Ejected.
    Broken,
}

impl Pool {
    pub(super) fn new(members: Vec<Member>) -> Self {
        let weights: Vec<_> = members.iter().map(|member| member.weight).collect();
        Pool {
            alias: Alias::new(&weights),
            members,
        }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Chooses an endpoint, one that is not in `tried` where there is one.
    pub(super) fn pick(
        &self,
        balance: Balance,
        tried: &[Arc<Endpoint>],
        now: Instant,
    ) -> Option<Arc<Endpoint>> {
        let quick = self.members.len() >= SCAN_BELOW && tried.is_empty();
        quick
            .then(|| self.draw(balance, now))
            .flatten()
            .or_else(|| self.scan(balance, tried, now))
            .or_else(|| self.scan(balance, &[], now))
            .cloned()
    }

    /// Two candidates by weight; `None` where either is not well.
    fn draw(&self, balance: Balance, now: Instant) -> Option<&Arc<Endpoint>> {
        let first = self.drawn(now)?;
        if balance == Balance::Random {
            return Some(&first.endpoint);
        }
        let second = self.drawn(now)?;
        let lesser = if load(second).is_less(load(first)) {
            second
        } else {
            first
        };
        Some(&lesser.endpoint)
    }

    fn drawn(&self, now: Instant) -> Option<&Member> {
        let member = &self.members[self.alias.draw()];
        // Only the first of a long list are connected ahead. The others join as soon as it is their turn: this call
        // goes elsewhere meanwhile, the next ones find the connection.
        member.endpoint.keep_connected();
        (tier(&member.endpoint, now) == Tier::Well).then_some(member)
    }

    fn scan(&self, balance: Balance, tried: &[Arc<Endpoint>], now: Instant) -> Option<&Arc<Endpoint>> {
        let mut best: Option<(Tier, Load, &Member)> = None;
        let mut tied = 0u64;
        for member in &self.members {
            if tried.iter().any(|tried| Arc::ptr_eq(tried, &member.endpoint)) {
                continue;
            }
            let tier = tier(&member.endpoint, now);
            if tier == Tier::Unknown && self.members.len() < SCAN_BELOW {
                // Above the floor they are connected by the calls that could go there; see `drawn` for long lists.
                member.endpoint.keep_connected();
            }
            let load = if balance == Balance::Random {
                Load::EQUAL
            } else {
                load(member)
            };
            let weight = u64::from(member.weight);
            let better = match &best {
                None => true,
                Some((best_tier, best_load, _)) => {
                    tier < *best_tier || tier == *best_tier && load.is_less(*best_load)
                }
            };
            let equal = best.as_ref().is_some_and(|(best_tier, best_load, _)| {
                tier == *best_tier && !load.is_less(*best_load) && !best_load.is_less(load)
            });
            if better {
                tied = weight;
                best = Some((tier, load, member));
            } else if equal {
                // One of the equals, each as likely as its weight: a weighted reservoir of one.
                tied += weight;
                if fastrand::u64(..tied.max(1)) < weight {
                    best = Some((tier, load, member));
                }
            }
        }
        best.map(|(_, _, member)| &member.endpoint)
    }
}

fn tier(endpoint: &Endpoint, now: Instant) -> Tier {
    match endpoint.breaker.standing(now) {
        Standing::Open => Tier::Broken,
        Standing::HalfOpen if endpoint.is_connected() => Tier::Trial,
        Standing::Closed if endpoint.is_connected() => Tier::Well,
        _ if endpoint.is_unreachable() => Tier::Unreachable,
        _ => Tier::Unknown,
    }
}

/// Pending calls per weight, compared without dividing.
#[derive(Debug, Clone, Copy)]
struct Load {
    pending: u64,
    weight: u64,
}

impl Load {
    const EQUAL: Load = Load {
        pending: 0,
        weight: 1,
    };

    fn is_less(self, other: Load) -> bool {
        self.pending * other.weight < other.pending * self.weight
    }
}

fn load(member: &Member) -> Load {
    Load {
        pending: u64::from(member.endpoint.pending()),
        weight: u64::from(member.weight),
    }
}

/// Draws places in proportion to their weights in constant time.
struct Alias {
    slots: Vec<(u64, usize)>,
    total: u64,
}

impl Alias {
    fn new(weights: &[u32]) -> Self {
        let count = weights.len() as u64;
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        // Scaled by the number of places, so that the average share is exactly `total`.
        let mut share: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) * count).collect();
        let mut slots: Vec<(u64, usize)> = (0..weights.len()).map(|place| (total, place)).collect();
        let (mut small, mut large): (Vec<_>, Vec<_>) =
            (0..weights.len()).partition(|place| share[*place] < total);
        while let (Some(less), Some(more)) = (small.pop(), large.pop()) {
            slots[less] = (share[less], more);
            share[more] -= total - share[less];
            if share[more] < total {
                small.push(more);
            } else {
                large.push(more);
            }
        }
        Alias { slots, total }
    }

    fn draw(&self) -> usize {
        let place = fastrand::usize(..self.slots.len());
        let (share, other) = self.slots[place];
        if fastrand::u64(..self.total.max(1)) < share {
            place
        } else {
            other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        fastrand::seed(7);
        let weights = [1, 2, 3, 4, 0, 10];
        let alias = Alias::new(&weights);
        let mut drawn = [0u32; 6];
        for _ in 0..200_000 {
            drawn[alias.draw()] += 1;
        }
        assert_eq!(drawn[4], 0);
        for (place, weight) in weights.iter().enumerate() {
            let expected = f64::from(*weight) / 20.0;
            let share = f64::from(drawn[place]) / 200_000.0;
            assert!(
                (share - expected).abs() < 0.01,
                "place {place}: {share} instead of {expected}"
            );
        }
    }

    #[test]
    fn loads_compare_by_weight() {
        let load = |pending, weight| Load { pending, weight };
        assert!(load(1, 100).is_less(load(1, 50)));
        assert!(!load(2, 100).is_less(load(1, 50)));
        assert!(load(0, 1).is_less(load(1, 10_000)));
    }
}
