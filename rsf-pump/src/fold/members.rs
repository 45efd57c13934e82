//! The members of one service and who left it last.

use std::collections::{BTreeMap, VecDeque};

use rsf_registry::directory::slot;
use rsf_registry::record::{ListedInstance, Removal, RemovalCause};

use super::slots::Slots;

/// How many removals a list carries however old they are.
const REMOVALS_KEPT: usize = 64;
/// How long a list carries all of them. A consumer that was away for less can tell why each instance is gone, and lets
/// go of its last good list even where all left at once.
const REMOVALS_KEPT_MS: u64 = 60_000;
/// How many bytes they are at most: they fit the list's head even where they do not compress. That is six thousand
/// removals of ids of 40 characters, eleven thousand of short ones.
const MOST_BYTES: usize = 448 << 10;

/// One list in the making. No incarnation stands in it both as listed and as removed.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// By slot, so that a shard is a run of them.
    instances: BTreeMap<(u8, String), ListedInstance>,
    removed: VecDeque<Removal>,
    /// Why they left, by instance and incarnation.
    gone: BTreeMap<(String, u64), RemovalCause>,
    /// The bytes of all removals.
    bytes: usize,
}

/// The most bytes that a removal takes in a list.
fn bytes(removal: &Removal) -> usize {
    // Its name, three numbers, and what tells them apart.
    removal.instance.len() + 32
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
        if self
            .gone
            .remove(&(entry.instance.clone(), entry.incarnation))
            .is_some()
        {
            let left = &mut self.bytes;
            self.removed.retain(|gone| {
                let other = gone.instance != entry.instance || gone.incarnation != entry.incarnation;
                if !other {
                    *left -= bytes(gone);
                }
                other
            });
        }
        changed.entry(service.to_owned()).or_default().insert(key.0);
        let incarnation = entry.incarnation;
        let old = self.instances.insert(key, entry)?;
        (old.incarnation != incarnation).then(|| self.note(&old, RemovalCause::Evicted, at_unix_ms))
    }

    pub(super) fn remove(&mut self, instance: &str, cause: RemovalCause, at_unix_ms: u64) -> Option<Removal> {
        let old = self.instances.remove(&(slot(instance), instance.to_owned()))?;
        Some(self.note(&old, cause, at_unix_ms))
    }

    /// Whether this or a later incarnation left this list for good, as far as it remembers: by its word, or because
    /// another took its place.
    pub(super) fn has_left(&self, instance: &str, incarnation: u64) -> bool {
        let later = (instance.to_owned(), incarnation)..=(instance.to_owned(), u64::MAX);
        let mut causes = self.gone.range(later).map(|(_, cause)| *cause);
        causes.any(|cause| cause != RemovalCause::Expired)
    }

    /// Whether this incarnation was taken from this list because its lease ran out.
    pub(super) fn has_expired(&self, instance: &str, incarnation: u64) -> bool {
        self.gone.get(&(instance.to_owned(), incarnation)) == Some(&RemovalCause::Expired)
    }

    /// Adds what an earlier pump published about who left.
    pub(super) fn remember(&mut self, removed: &[Removal]) {
        for removal in removed {
            let listed = self
                .instances
                .get(&(slot(&removal.instance), removal.instance.clone()));
            let back = listed.is_some_and(|entry| entry.incarnation == removal.incarnation);
            let key = (removal.instance.clone(), removal.incarnation);
            if !back && !self.gone.contains_key(&key) {
                self.gone.insert(key, removal.cause());
                self.bytes += bytes(removal);
                self.removed.push_back(removal.clone());
            }
        }
        self.removed
            .make_contiguous()
            .sort_by_key(|removal| removal.at_unix_ms);
        self.trim(0);
    }

    /// Notes who is in the list no more.
    pub(super) fn note(&mut self, old: &ListedInstance, cause: RemovalCause, at_unix_ms: u64) -> Removal {
        let removal = Removal {
            instance: old.instance.clone(),
            incarnation: old.incarnation,
            cause: cause.into(),
            at_unix_ms,
        };
        self.bytes += bytes(&removal);
        self.gone
            .insert((removal.instance.clone(), removal.incarnation), cause);
        self.removed.push_back(removal.clone());
        self.trim(at_unix_ms);
        removal
    }

    /// Forgets the oldest removals; at `unix_ms` 0 none by its age.
    fn trim(&mut self, unix_ms: u64) {
        let recent = |removal: &Removal| removal.at_unix_ms.saturating_add(REMOVALS_KEPT_MS) > unix_ms;
        while self.bytes > MOST_BYTES
            || (self.removed.len() > REMOVALS_KEPT && !self.removed.front().is_some_and(recent))
        {
            let Some(oldest) = self.removed.pop_front() else {
                return;
            };
            self.bytes -= bytes(&oldest);
            self.gone.remove(&(oldest.instance, oldest.incarnation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize, incarnation: u64) -> ListedInstance {
        ListedInstance {
            instance: format!("a/{number}"),
            incarnation,
            ..ListedInstance::default()
        }
    }

    #[test]
    fn all_that_leave_at_once_are_told_and_forgotten_later() {
        let (mut members, mut changed) = (Members::default(), BTreeMap::new());
        for number in 0..1_000 {
            members.put(entry(number, 1), 1, &mut changed, "s.S");
        }
        for number in 0..999 {
            members.remove(&format!("a/{number}"), RemovalCause::Deregistered, 1_000);
        }
        assert_eq!(members.list().1.len(), 999);
        let mut restored = Members::default();
        restored.remember(&members.list().1);
        assert_eq!(restored.list().1.len(), 999, "a new leader tells them too");
        members.remove("a/999", RemovalCause::Expired, 1_000 + REMOVALS_KEPT_MS);
        let removed = members.list().1;
        assert_eq!(removed.len(), REMOVALS_KEPT);
        assert_eq!(removed[REMOVALS_KEPT - 1].instance, "a/999", "the newest stay");
    }

    #[test]
    fn what_a_list_carries_is_bounded() {
        let removal = |number| Removal {
            instance: format!("a/{number}"),
            at_unix_ms: 1_000,
            ..Removal::default()
        };
        let published: Vec<_> = (0..20_000).map(removal).collect();
        let mut members = Members::default();
        members.remember(&published);
        let kept = members.list().1;
        assert!(kept.len() > 10_000, "{}", kept.len());
        assert!(kept.iter().map(bytes).sum::<usize>() <= MOST_BYTES);
        assert_eq!(kept.last().map(|gone| &*gone.instance), Some("a/19999"));
    }
}
