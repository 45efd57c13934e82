//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): a key's instance serves it until that
//! instance has more than its share under way; then the next on the ring does.

use std::sync::Arc;

use super::{Member, Tier, tier};
use crate::client::endpoint::Endpoint;
use crate::client::key::{STEP, hash, mix};
use crate::moment::Moment;

/// Points of a member of average weight in a short list; they spread the keys to within some percent.
const POINTS: usize = 160;
/// Points of all members together, about.
const MOST_POINTS: usize = 1 << 16;
/// Of longer lists so many members stand for all when the fair share is computed.
const LOOKED_AT: usize = 64;

/// Where keys belong.
pub(super) struct Ring {
    /// In order; the second is the member's place.
    points: Vec<(u64, u32)>,
    total_weight: f64,
}

impl Ring {
    pub(super) fn new(members: &[Member]) -> Self {
        let total_weight: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
        let average = total_weight / members.len().max(1) as f64;
        let each = (MOST_POINTS / members.len().max(1)).clamp(4, POINTS) as f64;
        let mut points = Vec::new();
        for (place, member) in members.iter().enumerate() {
            // Of its id alone, so that all consumers agree, and keys stay where they are when others come and go.
            let own = hash(member.endpoint.instance.id.as_bytes());
            let count = (each * f64::from(member.weight) / average).round().max(1.0) as u64;
            points.extend((0..count).map(|number| (mixed(own, number), place as u32)));
        }
        points.sort_unstable();
        Ring { points, total_weight }
    }

    /// The member that serves `key`: the first from its point on that `may` take it, is well and has room for one more.
    /// `None` where there is none. `may` is asked in the ring's order, up to the one that serves.
    pub(super) fn pick<'a>(
        &self,
        members: &'a [Member],
        key: u64,
        percent: u32,
        now: Moment,
        may: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<&'a Member> {
        let per_weight = self.fair(members) * f64::from(percent) / 100.0;
        let from = self.points.partition_point(|(point, _)| *point < key);
        let (before, after) = self.points.split_at(from);
        let mut last = u32::MAX;
        for (_, place) in after.iter().chain(before) {
            if std::mem::replace(&mut last, *place) == *place {
                continue;
            }
            let member = &members[*place as usize];
            if !may(&member.endpoint) {
                continue;
            }
            match tier(&member.endpoint, now) {
                Tier::Trial => return Some(member),
                Tier::Well => {}
                _ => continue,
            }
            let room = (per_weight * f64::from(member.weight)).ceil().max(1.0);
            if f64::from(member.endpoint.pending()) < room {
                return Some(member);
            }
        }
        None
    }

    /// Calls under way per weight, this one included.
    fn fair(&self, members: &[Member]) -> f64 {
        if members.len() <= LOOKED_AT {
            let pending: u64 = members.iter().map(|m| u64::from(m.endpoint.pending())).sum();
            return (pending + 1) as f64 / self.total_weight;
        }
        let step = members.len() / LOOKED_AT;
        let first = fastrand::usize(..step);
        let (mut pending, mut weight) = (0.0, 0.0);
        for member in members.iter().skip(first).step_by(step) {
            pending += f64::from(member.endpoint.pending());
            weight += f64::from(member.weight);
        }
        pending / f64::max(weight, 1.0) + 1.0 / self.total_weight
    }
}

/// A point of its own for each number.
fn mixed(own: u64, number: u64) -> u64 {
    mix(own.wrapping_add((number + 1).wrapping_mul(STEP)))
}
