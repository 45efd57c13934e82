//! Round robin by weight: gRFC A58's static stride scheduler, which needs one counter and no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An order in which each place comes as often as its weight says, evenly spread.
pub(super) struct Stride {
    /// Scaled so that the greatest is [`GREATEST`].
    weights: Vec<u32>,
    turn: AtomicU64,
}

const GREATEST: u64 = 0xffff;

impl Stride {
    pub(super) fn new(weights: &[u32]) -> Self {
        let most = u64::from(weights.iter().copied().max().unwrap_or(1).max(1));
        let scaled = |weight: &u32| (u64::from(*weight) * GREATEST / most).max(1) as u32;
        Stride {
            weights: weights.iter().map(scaled).collect(),
            // Each process begins elsewhere, or all of them would go round together.
            turn: AtomicU64::new(fastrand::u64(..1 << 32)),
        }
    }

    /// The next place. There must be one.
    pub(super) fn next(&self) -> usize {
        // The greatest weight ends the loop within one round.
        loop {
            if let Some(place) = self.place_at(self.turn.fetch_add(1, Relaxed)) {
                return place;
            }
        }
    }

    /// The places that come next, without end. Looking takes no turn. There must be one.
    pub(super) fn coming(&self) -> impl Iterator<Item = usize> + '_ {
        let turn = self.turn.load(Relaxed);
        (turn..).filter_map(|turn| self.place_at(turn))
    }

    /// The place that serves at `turn`, unless it passes.
    fn place_at(&self, turn: u64) -> Option<usize> {
        let count = self.weights.len() as u64;
        let (place, round) = ((turn % count) as usize, turn / count);
        let weight = u64::from(self.weights[place]);
        // Half a turn apart from its neighbour, so that equal weights do not skip together.
        let offset = place as u64 * (GREATEST / 2);
        // In `weight` of each GREATEST rounds this place serves.
        ((weight * round + offset) % GREATEST >= GREATEST - weight).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_as_often_as_its_weight_says_and_evenly() {
        let stride = Stride::new(&[100, 200, 50, 400]);
        let turns: Vec<_> = (0..7500).map(|_| stride.next()).collect();
        for (place, wanted) in [1000.0_f64, 2000.0, 500.0, 4000.0].into_iter().enumerate() {
            let came = turns.iter().filter(|turn| **turn == place).count() as f64;
            assert!((came - wanted).abs() <= 3.0, "{place}: {came} of {wanted}");
        }
        // The heaviest never has a long run, as it would if its turns were not spread.
        let runs = turns.chunk_by(|a, b| a == b).filter(|run| run[0] == 3);
        assert!(runs.map(<[usize]>::len).max().unwrap() <= 2);
    }

    #[test]
    fn equal_weights_take_turns() {
        let stride = Stride::new(&[70, 70, 70]);
        let turns: Vec<_> = (0..30).map(|_| stride.next()).collect();
        for three in turns.chunks(3) {
            let mut three = three.to_vec();
            three.sort_unstable();
            assert_eq!(three, [0, 1, 2]);
        }
    }
}
