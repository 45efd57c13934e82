//! The members of one service and who left it last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rsf_registry::record::{Removal, RemovalCause};

use super::places::Place;

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
    /// Whether it was ever a list: others are only named by leases that stand nowhere.
    pub(super) exists: bool,
    /// By slot, so that a shard is a run of them.
    instances: BTreeSet<Member>,
    removed: VecDeque<Gone>,
    /// Why they left, by instance and incarnation.
    gone: BTreeMap<(Arc<str>, u64), RemovalCause>,
    /// The bytes of all removals.
    bytes: usize,
}

/// Who stands in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) slot: u8,
    pub(super) place: Place,
}

/// Who left a list: a [`Removal`] whose name is shared with everything else that names the instance. A fleet that is
/// released as a whole leaves millions of them within a minute.
#[derive(Debug)]
struct Gone {
    instance: Arc<str>,
    incarnation: u64,
    at_unix_ms: u64,
    cause: RemovalCause,
}

impl Gone {
    fn removal(&self) -> Removal {
        Removal {
            instance: self.instance.to_string(),
            incarnation: self.incarnation,
            cause: self.cause.into(),
            at_unix_ms: self.at_unix_ms,
        }
    }

    /// The most bytes that it takes in a list.
    fn bytes(&self) -> usize {
        // Its name, three numbers, and what tells them apart.
        self.instance.len() + 32
    }
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.instances.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Place> {
        self.instances.iter().map(|member| member.place)
    }

    /// The instances of one shard; its cost is the shard's.
    pub(super) fn shard(&self, index: usize, shards: usize) -> impl Iterator<Item = Place> {
        let run = 256 / shards.clamp(1, 256);
        let within = move |member: &&Member| usize::from(member.slot) < (index + 1) * run;
        let first = u8::try_from(index * run).ok().map(|slot| Member {
            slot,
            place: Place::FIRST,
        });
        let here = first.map(|first| self.instances.range(first..).take_while(within));
        here.into_iter().flatten().map(|member| member.place)
    }

    pub(super) fn removed(&self) -> Vec<Removal> {
        self.removed.iter().map(Gone::removal).collect()
    }

    /// Adds an instance, whose incarnation is no longer one that left.
    pub(super) fn put(&mut self, member: Member, id: &Arc<str>, incarnation: u64) {
        self.instances.insert(member);
        // Only few lists are being left, and hardly anybody comes back as the same.
        if !self.gone.is_empty() && self.gone.remove(&(id.clone(), incarnation)).is_some() {
            let left = &mut self.bytes;
            self.removed.retain(|gone| {
                let other = gone.incarnation != incarnation || gone.instance != *id;
                if !other {
                    *left -= gone.bytes();
                }
                other
            });
        }
    }

    /// Takes an instance off; answers whether it stood there.
    pub(super) fn remove(&mut self, member: Member) -> bool {
        self.instances.remove(&member)
    }

    /// Whether this or a later incarnation left this list for good, as far as it remembers: by its word, or because
    /// another took its place.
    pub(super) fn has_left(&self, id: &Arc<str>, incarnation: u64) -> bool {
        let later = (id.clone(), incarnation)..=(id.clone(), u64::MAX);
        let mut causes = self.gone.range(later).map(|(_, cause)| *cause);
        causes.any(|cause| cause != RemovalCause::Expired)
    }

    /// Whether this incarnation was taken from this list because its lease ran out.
    pub(super) fn has_expired(&self, id: &Arc<str>, incarnation: u64) -> bool {
        self.gone.get(&(id.clone(), incarnation)) == Some(&RemovalCause::Expired)
    }

    /// Adds what an earlier pump published about who left; `listed` says of an instance which incarnation is listed.
    pub(super) fn remember(&mut self, removed: &[Removal], listed: impl Fn(&str) -> Option<u64>) {
        for removal in removed {
            let back = listed(&removal.instance) == Some(removal.incarnation);
            let instance: Arc<str> = removal.instance.as_str().into();
            let key = (instance.clone(), removal.incarnation);
            if !back && !self.gone.contains_key(&key) {
                self.gone.insert(key, removal.cause());
                let gone = Gone {
                    instance,
                    incarnation: removal.incarnation,
                    at_unix_ms: removal.at_unix_ms,
                    cause: removal.cause(),
                };
                self.bytes += gone.bytes();
                self.removed.push_back(gone);
            }
        }
        self.removed.make_contiguous().sort_by_key(|gone| gone.at_unix_ms);
        self.trim(0);
    }

    /// Notes that an incarnation left.
    pub(super) fn note(
        &mut self,
        instance: &Arc<str>,
        incarnation: u64,
        cause: RemovalCause,
        at_unix_ms: u64,
    ) -> Removal {
        let gone = Gone {
            instance: instance.clone(),
            incarnation,
            at_unix_ms,
            cause,
        };
        let removal = gone.removal();
        self.bytes += gone.bytes();
        self.gone.insert((instance.clone(), incarnation), cause);
        self.removed.push_back(gone);
        self.trim(at_unix_ms);
        removal
    }

    /// Forgets the oldest removals; at `unix_ms` 0 none by its age.
    fn trim(&mut self, unix_ms: u64) {
        let recent = |gone: &Gone| gone.at_unix_ms.saturating_add(REMOVALS_KEPT_MS) > unix_ms;
        while self.bytes > MOST_BYTES
            || (self.removed.len() > REMOVALS_KEPT && !self.removed.front().is_some_and(recent))
        {
            let Some(oldest) = self.removed.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
            self.gone.remove(&(oldest.instance, oldest.incarnation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Arc<str> {
        format!("a/{number}").into()
    }

    #[test]
    fn all_that_leave_at_once_are_told_and_forgotten_later() {
        let mut members = Members::default();
        for number in 0..999 {
            members.note(&id(number), 1, RemovalCause::Deregistered, 1_000);
        }
        assert_eq!(members.removed().len(), 999);
        let mut restored = Members::default();
        restored.remember(&members.removed(), |_| None);
        assert_eq!(restored.removed().len(), 999, "a new leader tells them too");
        members.note(&id(999), 1, RemovalCause::Expired, 1_000 + REMOVALS_KEPT_MS);
        let removed = members.removed();
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
        members.remember(&published, |_| None);
        let kept = members.removed();
        assert!(kept.len() > 10_000, "{}", kept.len());
        assert!(members.removed.iter().map(Gone::bytes).sum::<usize>() <= MOST_BYTES);
        assert_eq!(kept.last().map(|gone| &*gone.instance), Some("a/19999"));
    }

    #[test]
    fn who_comes_back_is_not_gone() {
        let mut members = Members::default();
        for number in 0..3 {
            members.note(&id(number), 1, RemovalCause::Expired, 1_000);
        }
        let member = Member {
            slot: 7,
            place: Place::FIRST,
        };
        members.put(member, &id(1), 1);
        assert!(!members.has_expired(&id(1), 1) && members.has_expired(&id(2), 1));
        assert!(!members.has_left(&id(2), 1), "it may come back");
        assert_eq!(members.removed().len(), 2);
        let again = members.removed();
        members.remember(&again, |_| None);
        assert_eq!(members.removed().len(), 2, "each once");
        assert!(members.remove(member) && !members.remove(member));
    }
}
