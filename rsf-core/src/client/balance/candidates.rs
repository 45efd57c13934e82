//! Choosing by score: all members of the best tier, or two that are drawn by weight.

use std::sync::Arc;

use super::score::{Measure, Score};
use super::{Member, Pool, SCAN_BELOW, Tier, tier};
use crate::client::endpoint::Endpoint;
use crate::moment::Moment;

/// Draws of a candidate before the whole list is looked at.
const DRAWS: usize = 4;

/// What a draw of two came to.
pub(super) enum Drawn<'a> {
    /// This one serves.
    Chosen(&'a Member),
    /// Too many that were drawn cannot take calls now: look at all.
    Unwell,
}

impl Pool {
    /// Two candidates drawn by weight ("the power of two choices", Mitzenmacher 2001); the better one serves.
    pub(super) fn better_of_two(&self, now: Moment, score: impl Fn(&Member) -> Score) -> Drawn<'_> {
        let first = match self.drawn(now, None) {
            Some((Tier::Trial, member)) => return Drawn::Chosen(member),
            Some((_, member)) => member,
            None => return Drawn::Unwell,
        };
        let second = match self.drawn(now, Some(first)) {
            Some((Tier::Trial, member)) => return Drawn::Chosen(member),
            Some((_, member)) => member,
            // The others are drawn rarely, or are not well.
            None if self.members.len() < 3 => return Drawn::Unwell,
            None => return Drawn::Chosen(first),
        };
        let (one, other) = (score(first), score(second));
        let second_serves = if one.value == other.value && one.quality != other.quality {
            // Drawn by their weights already: what is left is the part of it that each is to have.
            fastrand::f32() * (one.quality + other.quality) < other.quality
        } else {
            other.value < one.value
        };
        Drawn::Chosen(if second_serves { second } else { first })
    }

    /// A member that is well or due for its trial, other than `but`.
    pub(super) fn drawn(&self, now: Moment, but: Option<&Member>) -> Option<(Tier, &Member)> {
        for _ in 0..DRAWS {
            let member = &self.members[self.alias.draw()];
            if but.is_some_and(|but| std::ptr::eq(but, member)) {
                continue;
            }
            // Only the first of a long list are connected ahead. The others join as soon as it is their turn: this
            // call goes elsewhere meanwhile, the next ones find the connection.
            member.endpoint.keep_connected();
            let tier = tier(&member.endpoint, now);
            if tier <= Tier::Well {
                return Some((tier, member));
            }
        }
        None
    }

    /// The one with the fewest pending calls per weight, then by lot, where all are well and nothing else counts.
    #[inline(always)]
    pub(super) fn least_of_plain(&self, measure: &Measure) -> Option<&Member> {
        let (mut best, mut least, mut tied) = (None, f32::INFINITY, 0);
        // Its own, once there is a tie: the thread's takes longer to find than to ask.
        let mut lots: Option<fastrand::Rng> = None;
        for member in &self.members {
            let endpoint = &*member.endpoint;
            if !(endpoint.is_well() && measure.is_plain(&endpoint.vitals)) {
                return None;
            }
            let value = endpoint.vitals.pending() as f32 * member.per_call;
            if value < least {
                (best, least, tied) = (Some(member), value, member.weight);
            } else if value == least {
                // One of the equals, each as likely as its share: a weighted reservoir of one.
                tied += member.weight;
                let lots = lots.get_or_insert_with(|| fastrand::Rng::with_seed(fastrand::u64(..)));
                if lots.u32(..tied) < member.weight {
                    best = Some(member);
                }
            }
        }
        best
    }

    /// The best of all members that are not in `tried`: by tier, then by score, then by lot.
    pub(super) fn best_of_all(
        &self,
        tried: &[Arc<Endpoint>],
        now: Moment,
        score: impl Fn(&Member) -> Score,
    ) -> Option<&Member> {
        let mut best: Option<(Tier, f32, &Member)> = None;
        let mut tied = 0.0;
        for member in &self.members {
            if is_tried(member, tried) {
                continue;
            }
            let tier = tier(&member.endpoint, now);
            if tier == Tier::Unknown && self.members.len() < SCAN_BELOW {
                // Who was not connected ahead is by the calls that could go there; in long lists by draws.
                member.endpoint.keep_connected();
            }
            if best.as_ref().is_some_and(|(best, ..)| *best < tier) {
                continue;
            }
            let Score { value, quality } = score(member);
            let share = member.weight as f32 * quality;
            match &best {
                Some((best_tier, least, _)) if *best_tier == tier && *least < value => {}
                Some((best_tier, least, _)) if *best_tier == tier && *least == value => {
                    // One of the equals, each as likely as its share: a weighted reservoir of one.
                    tied += share;
                    if fastrand::f32() * tied < share {
                        best = Some((tier, value, member));
                    }
                }
                _ => {
                    tied = share;
                    best = Some((tier, value, member));
                }
            }
        }
        best.map(|(_, _, member)| member)
    }
}

pub(super) fn is_tried(member: &Member, tried: &[Arc<Endpoint>]) -> bool {
    tried.iter().any(|tried| Arc::ptr_eq(tried, &member.endpoint))
}
