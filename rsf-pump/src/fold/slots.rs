//! Which parts of a list changed: a set of the 256 slots that instances stand in.

use rsf_registry::directory::{shard_of, slot};

/// A set of slots, 0 to 255 ([`slot`]). A shard is a run of slots, so that it tells for any number of shards which of them changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slots([u64; 4]);

impl Slots {
    /// Every slot.
    pub const ALL: Slots = Slots([u64::MAX; 4]);

    /// The slot of one instance.
    pub fn of(instance: &str) -> Self {
        let mut slots = Slots::default();
        slots.insert(slot(instance));
        slots
    }

    /// Adds a slot.
    pub fn insert(&mut self, slot: u8) {
        self.0[usize::from(slot) / 64] |= 1 << (slot % 64);
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: Slots) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
    }

    /// The shards, of `shards` (a power of two, 1 to 256), that have a slot of this set; rising, from 0.
    pub fn shards(self, shards: usize) -> impl Iterator<Item = usize> {
        let mut last = None;
        let slots = (0..=255u8).filter(move |slot| self.0[usize::from(*slot) / 64] >> (slot % 64) & 1 == 1);
        slots.filter_map(move |slot| {
            let shard = shard_of(slot, shards);
            (last.replace(shard) != Some(shard)).then_some(shard)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_slots_is_a_set_of_shards() {
        let mut slots = Slots::default();
        assert_eq!(slots.shards(8).count(), 0);
        for slot in [255, 0, 31, 32, 64] {
            slots.insert(slot);
        }
        assert_eq!(slots.shards(8).collect::<Vec<_>>(), [0, 1, 2, 7]);
        assert_eq!(slots.shards(1).collect::<Vec<_>>(), [0]);
        assert_eq!(slots.shards(256).collect::<Vec<_>>(), [0, 31, 32, 64, 255]);
        slots.extend(Slots::of("member/1"));
        assert_eq!(slots.shards(256).count(), 6);
        assert!(Slots::ALL.shards(64).eq(0..64));
    }
}
