//! Choosing by score: all members of the best tier, or two that are drawn by weight.

use std::sync::Arc;

use super::score::{Measure, Score};
use super::vitals::Glance;
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
    /// The better of two candidates drawn by weight ("the power of two choices", Mitzenmacher 2001).
    #[inline(always)]
    pub(super) fn lesser_of_two(&self, measure: &Measure) -> Drawn<'_> {
        // Its own: the thread's takes longer to find than to ask.
        let mut lots = fastrand::Rng::with_seed(fastrand::u64(..));
        let places = [self.alias.draw(lots.u64(..)), self.alias.draw(lots.u64(..))];
        let [one, other] = places.map(|place| &self.members[place]);
        // In long lists each look is a miss, so all that may be needed is asked for at once: the holders' count of whichever
        // is chosen, too.
        let _fetched = (
            Arc::strong_count(&one.endpoint),
            Arc::strong_count(&other.endpoint),
        );
        let glances = [one, other].map(|member| measure.glance(&member.endpoint));
        if places[0] != places[1] && glances.iter().all(|glance| measure.is_plain(glance)) {
            let less = glances[1].pending() * u64::from(other.per_call)
                < glances[0].pending() * u64::from(one.per_call);
            return Drawn::Chosen(std::hint::select_unpredictable(less, other, one));
        }
        self.better_of_two(measure.now, places, |member| measure.pending_by_lot(member))
    }

    /// The same by any score, whatever is known of the two; the first draws may have been made.
    pub(super) fn better_of_two<const MADE: usize>(
        &self,
        now: Moment,
        made: [usize; MADE],
        score: impl Fn(&Member) -> Score,
    ) -> Drawn<'_> {
        let mut made = made.into_iter();
        let first = match self.drawn(now, made.next(), None) {
            Some((Tier::Trial, member)) => return Drawn::Chosen(member),
            Some((_, member)) => member,
            None => return Drawn::Unwell,
        };
        let second = match self.drawn(now, made.next(), Some(first)) {
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

    /// A member that is well or due for its trial, other than `but`; the one at the place that has been `made` out first.
    pub(super) fn drawn(
        &self,
        now: Moment,
        made: Option<usize>,
        but: Option<&Member>,
    ) -> Option<(Tier, &Member)> {
        let draws = std::iter::repeat_with(|| self.alias.draw(fastrand::u64(..)));
        for place in made.into_iter().chain(draws).take(DRAWS) {
            let member = &self.members[place];
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
        let (mut best, mut least, mut tied) = (None, u64::MAX, 0);
        // What keeps any of them from being plain is gathered on the way and asked for once.
        let mut all = Glance::default();
        for member in &self.members {
            let glance = measure.glance(&member.endpoint);
            all.add(&glance);
            let value = glance.pending().wrapping_mul(u64::from(member.per_call));
            if value < least {
                (best, least, tied) = (Some(member), value, member.weight);
            } else if value == least {
                // One of the equals, each as likely as its share: a weighted reservoir of one.
                tied += member.weight;
                // Not `u32(..tied)`: what that draws again, to be fair to a four-thousand-millionth, costs each call.
                let lot = (u64::from(fastrand::u32(..)) * u64::from(tied)) >> 32;
                if lot < u64::from(member.weight) {
                    best = Some(member);
                }
            }
        }
        best.filter(|_| measure.is_plain(&all))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::balance::{Balancers, Observed};
    use crate::client::breaker::Failure;
    use crate::policy::CallRules;
    use crate::simulation::endpoints;

    fn pool(weights: &[u32]) -> Pool {
        let members = endpoints(weights.len()).into_iter().zip(weights);
        let members = members.map(|(endpoint, weight)| Member::new(endpoint, *weight));
        Pool::new(members.collect(), &CallRules::default(), &Balancers::new())
    }

    fn value(member: &Member) -> f32 {
        member.endpoint.pending() as f32 / member.weight as f32
    }

    #[test]
    fn the_short_way_chooses_as_the_long_one_does() {
        for seed in 0..200 {
            let mut lots = fastrand::Rng::with_seed(seed);
            let weights: Vec<_> = (0..lots.usize(1..SCAN_BELOW)).map(|_| lots.u32(1..5)).collect();
            let pool = pool(&weights);
            for member in &pool.members {
                (0..lots.u32(..6)).for_each(|_| member.endpoint.enter());
            }
            let measure = pool.measure(Moment::now());
            let score = |member: &Member| measure.pending_by_lot(member);
            let least = pool.members.iter().map(value).fold(f32::INFINITY, f32::min);
            for _ in 0..20 {
                let short = pool.least_of_plain(&measure).unwrap();
                let long = pool.best_of_all(&[], measure.now, score).unwrap();
                assert_eq!((value(short), value(long)), (least, least), "seed {seed}");
            }
        }
    }

    #[test]
    fn equals_are_drawn_by_their_weights() {
        let pool = pool(&[1, 2, 7]);
        let measure = pool.measure(Moment::now());
        let mut drawn = [0; 3];
        for _ in 0..10_000 {
            let chosen = pool.least_of_plain(&measure).unwrap();
            let place = pool
                .members
                .iter()
                .position(|member| std::ptr::eq(member, chosen))
                .unwrap();
            drawn[place] += 1;
        }
        // Six standard deviations.
        for (drawn, wanted) in drawn.into_iter().zip([1000_i32, 2000, 7000]) {
            assert!((drawn - wanted).abs() < 280, "{drawn} instead of {wanted}");
        }
    }

    #[test]
    fn whatever_is_known_of_one_member_takes_the_long_way() {
        let now = Moment::now();
        type Happens = fn(&Endpoint, Moment);
        let known: [(&str, Happens); 5] = [
            ("not connected", |endpoint, _| {
                endpoint.vitals.set_connected(false)
            }),
            ("it has failed", |endpoint, now| {
                let mut admission = endpoint.breaker.admit(now);
                endpoint.breaker.failed(&mut admission, Failure::Error, now);
            }),
            ("its failures fade", |endpoint, now| {
                endpoint.observe(now, Duration::ZERO, Observed::Failed);
            }),
            ("it is loaded", |endpoint, now| {
                endpoint.vitals.report_load(now, 0.5)
            }),
            ("it is new", |endpoint, now| {
                endpoint.vitals.begin_warm_up(now, Duration::ZERO);
            }),
        ];
        for (what, happens) in known {
            let pool = pool(&[1, 1, 1]);
            assert!(pool.least_of_plain(&pool.measure(now)).is_some(), "{what}");
            happens(&pool.members[1].endpoint, now);
            assert!(pool.least_of_plain(&pool.measure(now)).is_none(), "{what}");
        }
    }
}
