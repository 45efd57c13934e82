//! Draws places in proportion to their weights in constant time (Walker's alias method as in Vose 1991).

/// A table of places and their weights.
pub(super) struct Alias(Vec<Slot>);

/// With a chance of `share` in 2³² its own place, else the other. Eight bytes: in long lists each slot that is drawn is a cache
/// miss, unless the table is small.
struct Slot {
    share: u32,
    other: u32,
}

impl Alias {
    pub(super) fn new(weights: &[u32]) -> Self {
        let count = weights.len() as u64;
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        // Scaled by the number of places, so that the average share is exactly `total`.
        let mut share: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) * count).collect();
        // Whole, or at least so in what a slot keeps of it: either way the place is its own.
        let own = |place| Slot {
            share: u32::MAX,
            other: place as u32,
        };
        let mut slots: Vec<Slot> = (0..weights.len()).map(own).collect();
        let (mut small, mut large): (Vec<_>, Vec<_>) =
            (0..weights.len()).partition(|place| share[*place] < total);
        while let (Some(less), Some(more)) = (small.pop(), large.pop()) {
            slots[less] = Slot {
                share: ((u128::from(share[less]) << 32) / u128::from(total.max(1))) as u32,
                other: more as u32,
            };
            share[more] -= total - share[less];
            if share[more] < total {
                small.push(more);
            } else {
                large.push(more);
            }
        }
        Alias(slots)
    }

    /// The place that a random number falls on. There must be one.
    #[inline(always)]
    pub(super) fn draw(&self, lot: u64) -> usize {
        // The whole part of so many places is one of them, and what is left is a lot within it.
        let drawn = u128::from(lot) * self.0.len() as u128;
        let place = (drawn >> 64) as usize;
        let Slot { share, other } = self.0[place];
        // Chosen without a branch, which nobody could predict: meanwhile the processor fetches what stands at either place.
        std::hint::select_unpredictable(((drawn as u64 >> 32) as u32) < share, place, other as usize)
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
            drawn[alias.draw(fastrand::u64(..))] += 1;
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
}
