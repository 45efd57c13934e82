//! Which instances one consumer uses, where policy lets each use a part of them.
//!
//! Every consumer ranks the instances by a hash of its own name and theirs and takes the first ones (rendezvous hashing,
//! Thaler and Ravishankar 1998; by weight as Efraimidis and Spirakis 2006). No two need to know of each other, a consumer
//! comes back to the same instances, and an instance that comes or goes changes at most its own place in a subset.
//!
//! An instance of twice the weight is in twice as many subsets, so within a subset it must not count twice again: a
//! member's weight is divided by its chance to be a member (the bottom-k estimator, Cohen and Kaplan 2007). Whatever
//! the weights and zones, all consumers together then load the instances as if each used all of them.

use super::Shared;
use super::balance::Member;
use super::key::{STEP, hash, mix};
use crate::control::Instance;
use crate::policy::ConnectionsRules;

/// The largest weight of a member; only the proportions count.
const MAX_WEIGHT: f64 = 10_000.0;

/// The members that this process uses of a pool, with the weights that they have in it. Each pool is cut down by itself,
/// so that a shard's or zone's pool is never emptied by the others.
pub(super) fn subset(members: Vec<Member>, shared: &Shared, rules: &ConnectionsRules) -> Vec<Member> {
    let most = rules.subset as usize;
    if most == 0 || members.len() <= most {
        return members;
    }
    let candidates = candidates(&members, shared, rules);
    let chosen = choose(candidates, most, rules.subset_zone_percent);
    let mut members: Vec<_> = members.into_iter().map(Some).collect();
    let kept = chosen.into_iter().filter_map(|chosen| {
        let member = members.get_mut(chosen.place)?.take()?;
        Some(Member::new(member.endpoint, chosen.weight))
    });
    kept.collect()
}

/// The places of the members that are connected to ahead of calls.
pub(super) fn floor(members: &[Member], shared: &Shared, rules: &ConnectionsRules) -> Vec<usize> {
    let most = rules.floor as usize;
    if members.len() <= most {
        return (0..members.len()).collect();
    }
    let candidates = candidates(members, shared, rules);
    let chosen = choose(candidates, most, rules.subset_zone_percent);
    chosen.iter().map(|chosen| chosen.place).collect()
}

fn candidates(members: &[Member], shared: &Shared, rules: &ConnectionsRules) -> Vec<Candidate> {
    let zones = rules.subset_zone_percent > 0 && !shared.zone.is_empty();
    let candidate = |(place, member): (usize, &Member)| {
        let instance: &Instance = &member.endpoint.instance;
        let own_zone = zones && *instance.zone == *shared.zone;
        Candidate::new(shared.seed, place, &instance.id, member.weight, own_zone)
    };
    members.iter().enumerate().map(candidate).collect()
}

/// An instance as the choice sees it.
struct Candidate {
    place: usize,
    weight: f64,
    own_zone: bool,
    /// An exponential variable of rate `weight`: the smaller, the sooner chosen.
    rank: f64,
}

/// An instance that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Chosen {
    place: usize,
    weight: u32,
}

impl Candidate {
    fn new(seed: u64, place: usize, id: &str, weight: u32, own_zone: bool) -> Candidate {
        let weight = f64::from(weight.max(1));
        let drawn = mix_both(seed, hash(id.as_bytes()));
        // 53 bits, over 0 and at most 1.
        let uniform = ((drawn >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        Candidate {
            place,
            weight,
            own_zone,
            rank: -uniform.ln() / weight,
        }
    }
}

/// One number of two.
fn mix_both(seed: u64, instance: u64) -> u64 {
    mix(mix(seed.wrapping_add(STEP)) ^ instance)
}

/// The first `most` of each part, in the order of their places.
fn choose(candidates: Vec<Candidate>, most: usize, zone_percent: u32) -> Vec<Chosen> {
    let (own, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|candidate| candidate.own_zone);
    // Where either side has too few, the other fills the places.
    let own_most = (most * zone_percent.min(100) as usize).div_ceil(100);
    let own_most = own_most.max(most.saturating_sub(others.len())).min(own.len());
    let mut members = first(own, own_most);
    members.extend(first(others, most - own_most));
    let likeliest = members.iter().map(|(_, _, chance)| *chance).fold(0.0, f64::max);
    // By the chance relative to the likeliest, so that equal weights stay what they are.
    let weights = members
        .iter()
        .map(|(_, weight, chance)| weight * likeliest / chance);
    let weights: Vec<f64> = weights.collect();
    let scale = (MAX_WEIGHT / weights.iter().copied().fold(1.0, f64::max)).min(1.0);
    let mut chosen: Vec<_> = members
        .iter()
        .zip(weights)
        .map(|((place, ..), weight)| Chosen {
            place: *place,
            weight: (weight * scale).round().max(1.0) as u32,
        })
        .collect();
    chosen.sort_unstable_by_key(|chosen| chosen.place);
    chosen
}

/// The `most` candidates of the least rank, as place, weight, and the chance that each had to be among them.
fn first(mut candidates: Vec<Candidate>, most: usize) -> Vec<(usize, f64, f64)> {
    let mut threshold = f64::INFINITY;
    if most < candidates.len() {
        candidates.select_nth_unstable_by(most, |a, b| a.rank.total_cmp(&b.rank));
        // The first one that is left out: whoever ranks before it is a member.
        threshold = candidates[most].rank;
        candidates.truncate(most);
    }
    let chance = |weight: f64| -(-weight * threshold).exp_m1();
    candidates
        .iter()
        .map(|candidate| {
            let weight = candidate.weight;
            (candidate.place, weight, chance(weight).max(f64::MIN_POSITIVE))
        })
        .collect()
}

#[cfg(test)]
mod tests;
