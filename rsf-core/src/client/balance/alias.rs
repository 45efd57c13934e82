//! Draws places in proportion to their weights in constant time (Walker's alias method as in Vose 1991).

/// A table of places and their weights.
pub(super) struct Alias {
    slots: Vec<Slot>,
    total: u64,
}

/// With a chance of `share` of the total its own place, else the other.
struct Slot {
    share: u64,
    other: u32,
}

impl Alias {
    pub(super) fn new(weights: &[u32]) -> Self {
        let count = weights.len() as u64;
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        // Scaled by the number of places, so that the average share is exactly `total`.
        let mut share: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) * count).collect();
        let own = |place| Slot {
            share: total,
            other: place as u32,
        };
        let mut slots: Vec<Slot> = (0..weights.len()).map(own).collect();
        let (mut small, mut large): (Vec<_>, Vec<_>) =
            (0..weights.len()).partition(|place| share[*place] < total);
        while let (Some(less), Some(more)) = (small.pop(), large.pop()) {
            slots[less] = Slot {
                share: share[less],
                other: more as u32,
            };
            share[more] -= total - share[less];
            if share[more] < total {
                small.push(more);
            } else {
                large.push(more);
            }
        }
        Alias { slots, total }
    }

    /// A place. There must be one.
    pub(super) fn draw(&self) -> usize {
        let place = fastrand::usize(..self.slots.len());
        let Slot { share, other } = self.slots[place];
        if fastrand::u64(..self.total.max(1)) < share {
            place
        } else {
            other as usize
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
}
