//! The members of one service and who left it last.

use std::collections::{BTreeMap, VecDeque};

use rsf_registry::directory::slot;
use rsf_registry::record::{ListedInstance, Removal, RemovalCause};

use super::slots::Slots;

/// How many removals a list carries.
const REMOVALS_KEPT: usize = 64;

/// One list in the making. No incarnation stands in it both as listed and as removed.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// By slot, so that a shard is a run of them.
    instances: BTreeMap<(u8, String), ListedInstance>,
    removed: VecDeque<Removal>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.instances.len()
    }

    pub(super) fn list(&self) -> (Vec<ListedInstance>, Vec<Removal>) {
        let mut instances: Vec<_> = self.instances.values().cloned().collect();
        instances.sort_unstable_by(|a, b| a.instance.cmp(&b.instance));
        (instances, self.removed())
    }

    /// The instances of one shard; its cost is the shard's.
    pub(super) fn shard(&self, index: usize, shards: usize) -> Vec<ListedInstance> {
        let run = 256 / shards.clamp(1, 256);
        let bound = |slot: usize| u8::try_from(slot).ok().map(|slot| (slot, String::new()));
        let Some(first) = bound(index * run) else {
            return Vec::new();
        };
        let here = match bound((index + 1) * run) {
            Some(end) => self.instances.range(first..end),
            None => self.instances.range(first..),
        };
        here.map(|(_, listed)| listed.clone()).collect()
    }

    pub(super) fn removed(&self) -> Vec<Removal> {
        self.removed.iter().cloned().collect()
    }

    /// Adds or replaces an entry, and names the service in `changed` if that made a difference. Answers the removal
    /// of an older incarnation that it replaced.
    pub(super) fn put(
        &mut self,
        entry: ListedInstance,
        at_unix_ms: u64,
        changed: &mut BTreeMap<String, Slots>,
        service: &str,
    ) -> Option<Removal> {
        let key = (slot(&entry.instance), entry.instance.clone());
        if self.instances.get(&key) == Some(&entry) {
            return None;
        }
        self.removed
            .retain(|gone| gone.instance != entry.instance || gone.incarnation != entry.incarnation);
        changed.entry(service.to_owned()).or_default().insert(key.0);
        let incarnation = entry.incarnation;
        let old = self.instances.insert(key, entry)?;
        (old.incarnation != incarnation).then(|| self.note(&old, RemovalCause::Evicted, at_unix_ms))
    }

    pub(super) fn remove(&mut self, instance: &str, cause: RemovalCause, at_unix_ms: u64) -> Option<Removal> {
        let old = self.instances.remove(&(slot(instance), instance.to_owned()))?;
        Some(self.note(&old, cause, at_unix_ms))
    }

    /// Whether this or a later incarnation left this list, as far as it remembers.
    pub(super) fn has_removed(&self, instance: &str, incarnation: u64) -> bool {
        self.removed
            .iter()
            .any(|gone| gone.instance == instance && gone.incarnation >= incarnation)
    }

    /// Adds what an earlier pump published about who left.
    pub(super) fn remember(&mut self, removed: &[Removal]) {
        for removal in removed {
            let same = |gone: &Removal| {
                (&gone.instance, gone.incarnation) == (&removal.instance, removal.incarnation)
            };
            let listed = self
                .instances
                .get(&(slot(&removal.instance), removal.instance.clone()));
            let back = listed.is_some_and(|entry| entry.incarnation == removal.incarnation);
            if !back && !self.removed.iter().any(same) {
                self.removed.push_back(removal.clone());
            }
        }
        self.removed
            .make_contiguous()
            .sort_by_key(|removal| removal.at_unix_ms);
        self.trim();
    }

    fn note(&mut self, old: &ListedInstance, cause: RemovalCause, at_unix_ms: u64) -> Removal {
        let removal = Removal {
            instance: old.instance.clone(),
            incarnation: old.incarnation,
            cause: cause.into(),
            at_unix_ms,
        };
        self.removed.push_back(removal.clone());
        self.trim();
        removal
    }

    fn trim(&mut self) {
        while self.removed.len() > REMOVALS_KEPT {
            self.removed.pop_front();
        }
    }
}
