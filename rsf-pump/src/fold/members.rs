//! The members of one service and who left it last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rsf_registry::record::{ListedInstance, Removal, RemovalCause};

/// How many removals a list carries.
const REMOVALS_KEPT: usize = 64;

/// One list in the making. No incarnation stands in it both as listed and as removed.
#[derive(Debug, Default)]
pub(super) struct Members {
    instances: BTreeMap<String, ListedInstance>,
    removed: VecDeque<Removal>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.instances.len()
    }

    pub(super) fn list(&self) -> (Vec<ListedInstance>, Vec<Removal>) {
        (
            self.instances.values().cloned().collect(),
            self.removed.iter().cloned().collect(),
        )
    }

    /// Adds or replaces an entry, and names the service in `changed` if that made a difference. Answers the removal
    /// of an older incarnation that it replaced.
    pub(super) fn put(
        &mut self,
        entry: ListedInstance,
        at_unix_ms: u64,
        changed: &mut BTreeSet<String>,
        service: &str,
    ) -> Option<Removal> {
        if self.instances.get(&entry.instance) == Some(&entry) {
            return None;
        }
        self.removed
            .retain(|gone| gone.instance != entry.instance || gone.incarnation != entry.incarnation);
        changed.insert(service.to_owned());
        let incarnation = entry.incarnation;
        let old = self.instances.insert(entry.instance.clone(), entry)?;
        (old.incarnation != incarnation).then(|| self.note(&old, RemovalCause::Evicted, at_unix_ms))
    }

    pub(super) fn remove(&mut self, instance: &str, cause: RemovalCause, at_unix_ms: u64) -> Option<Removal> {
        let old = self.instances.remove(instance)?;
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
            let listed = self.instances.get(&removal.instance);
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
