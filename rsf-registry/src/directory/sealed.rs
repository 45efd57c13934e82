//! A list as it is stored: sealed bytes, whole or a head with its shards.

use std::collections::BTreeMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::record::{ListVersion, ShardReference};

/// The most shards of one list.
pub const MAX_SHARDS: usize = 256;

/// One list in sealed bytes: what a pump hands to a writer, and what a writer hands back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealedList {
    /// Its key.
    pub service: String,
    /// Epoch and sequence, as its writer says.
    pub version: (u64, u64),
    /// The whole list, or the head that names its shards.
    pub head: Bytes,
    /// The names of all its shards, in order; none where the list is whole.
    pub names: Vec<String>,
    /// Shards by name: those that are new in a write, all that are there in what is read.
    pub shards: BTreeMap<String, Bytes>,
}

impl SealedList {
    /// This list over the one that was `stored` before it: shards that it names and does not bring stay as they are.
    pub fn over(mut self, stored: Option<&SealedList>) -> SealedList {
        if let Some(stored) = stored {
            for name in &self.names {
                if let (false, Some(kept)) = (self.shards.contains_key(name), stored.shards.get(name)) {
                    self.shards.insert(name.clone(), kept.clone());
                }
            }
        }
        let names = &self.names;
        self.shards.retain(|name, _| names.contains(name));
        self
    }
}

/// Where an instance stands among 256 slots: the first byte of the SHA-256 of its id. Each shard of a list has an equal
/// run of slots.
pub fn slot(instance: &str) -> u8 {
    Sha256::digest(instance.as_bytes())[0]
}

/// The shard that has a slot, of `shards` (a power of two, at most 256).
pub fn shard_of(slot: u8, shards: usize) -> usize {
    usize::from(slot) * shards.clamp(1, MAX_SHARDS) / 256
}

/// A shard's name: unlike that of any other shard ever written of the list.
pub(crate) fn shard_name(index: usize, version: ListVersion) -> String {
    format!("{index}-{}-{}", version.epoch, version.sequence)
}

/// The names of a head's shards.
pub(crate) fn shard_names(shards: &[ShardReference]) -> Vec<String> {
    let name =
        |(index, shard): (usize, &ShardReference)| shard_name(index, shard.version.unwrap_or_default());
    shards.iter().enumerate().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_in_one_shard_and_doubling_splits_each_shard_in_two() {
        for shards in [1usize, 2, 4, 64, 256] {
            let mut sizes = vec![0; shards];
            for slot in 0..=255 {
                sizes[shard_of(slot, shards)] += 1;
                if shards > 1 {
                    assert_eq!(shard_of(slot, shards) / 2, shard_of(slot, shards / 2));
                }
            }
            assert!(sizes.iter().all(|size| *size == 256 / shards), "{sizes:?}");
        }
        let mut slots = [0; 256];
        (0..25_600)
            .for_each(|n| slots[usize::from(slot(&format!("member/10.0.{}.{}", n / 200, n % 200)))] += 1);
        assert!(slots.iter().all(|count| (40..170).contains(count)), "{slots:?}");
        assert_eq!(slot("member/1"), 0xb6, "as documented, for ever");
    }
}
