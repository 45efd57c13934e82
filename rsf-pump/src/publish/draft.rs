//! What of a list is to be written: compares it, shard by shard, with what the directory is known to have, and seals
//! what differs.

use std::borrow::Borrow;
use std::hash::{DefaultHasher, Hash, Hasher};

use rsf_registry::StoreError;
use rsf_registry::directory::seal::{is_grown, is_shrunk, plain_bytes};
use rsf_registry::directory::{ListSealer, MAX_SHARDS, SealedList, shard_of, slot};
use rsf_registry::record::{
    ListHead, ListHold, ListVersion, ListedInstance, Removal, ServiceList, ShardReference,
};

use crate::fold::{Fold, Slots};

/// How far apart two times of a hold's beginning may be that are the same one: it is reckoned anew from two clocks.
const SAME_BEGINNING_MS: u64 = 1_000;

/// What the directory is known to have of one list. It keeps no instances: a fleet's lists are large.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Published {
    /// A digest of each shard's instances; one for a list that is stored whole.
    digests: Vec<u64>,
    /// What each shard's instances have before they are compressed, in bytes; readers bound the sum.
    plain: Vec<usize>,
    /// What its head says of the shards; nothing where it is stored whole.
    references: Vec<ShardReference>,
    instances: usize,
    hold: Option<ListHold>,
    /// Whether it was cut as a whole and no shard was written alone since: to cut it again would change nothing.
    cut_whole: bool,
}

impl Published {
    /// A list as it was read back.
    pub(crate) fn read(
        instances: &[ListedInstance],
        references: Vec<ShardReference>,
        hold: Option<ListHold>,
    ) -> Self {
        let parts = parts(instances.iter(), references.len().max(1));
        let plain = parts.iter().map(|part| plain_bytes(part.iter().copied()));
        Published {
            plain: plain.collect(),
            digests: parts.into_iter().map(digest).collect(),
            references,
            instances: instances.len(),
            hold,
            cut_whole: true,
        }
    }

    /// Whether nobody stands in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.instances == 0
    }

    /// Whether it says the same of a hold, as far as clocks can tell.
    fn says(&self, hold: Option<&ListHold>) -> bool {
        match (&self.hold, hold) {
            (None, None) => true,
            (Some(mine), Some(other)) => {
                let apart = mine.since_unix_ms.abs_diff(other.since_unix_ms);
                mine.before == other.before && apart <= SAME_BEGINNING_MS
            }
            _ => false,
        }
    }

    /// Whether it is stored in shards.
    pub(crate) fn is_sharded(&self) -> bool {
        !self.references.is_empty()
    }

    /// Whether its shards have grown too large or too small, and it is to be cut anew. Between the two lies a factor of
    /// six, so that a list that goes up and down a little is not cut again and again.
    pub(crate) fn is_out_of_shape(&self) -> bool {
        if self.cut_whole {
            return false;
        }
        let sizes = self.references.iter().map(|shard| shard.bytes as usize);
        let (total, most) = sizes.fold((0, 0), |(total, most), size| (total + size, size.max(most)));
        match is_grown(most) {
            // No cut is finer than the finest.
            true => self.references.len() < MAX_SHARDS,
            false => is_shrunk(total, self.references.len()),
        }
    }
}

/// A list that is to be written in one round.
#[derive(Debug)]
pub(crate) struct Draft {
    key: String,
    version: ListVersion,
    written_unix_ms: u64,
    removed: Vec<Removal>,
    hold: Option<ListHold>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// All of it, in as many shards as its size asks for.
    Whole(Vec<ListedInstance>),
    /// The shards that changed with their digests, and what is known of all of them.
    /// None of them where only what the head says is another.
    Shards(Vec<(usize, Vec<ListedInstance>, u64)>, Published),
}

impl Draft {
    /// What is to be written of a list as it is now, after a change in `slots`, with the hold that lasts on it; nothing where
    /// the directory has it already. For a list in shards the cost is that of the shards that changed.
    pub(crate) fn of(
        key: &str,
        fold: &Fold,
        slots: Slots,
        published: Option<&Published>,
        hold: Option<ListHold>,
    ) -> Option<Draft> {
        let (content, removed) = match published {
            Some(published) if published.is_sharded() && !published.is_out_of_shape() => {
                let shards = published.digests.len();
                let changed: Vec<_> = slots
                    .shards(shards)
                    .map(|index| {
                        let part = fold.shard(key, index, shards);
                        let digest = digest(&part);
                        (index, part, digest)
                    })
                    .filter(|(index, _, digest)| published.digests[*index] != *digest)
                    .collect();
                if changed.is_empty() && published.says(hold.as_ref()) {
                    return None;
                }
                (Content::Shards(changed, published.clone()), fold.removed(key))
            }
            published => {
                let (instances, removed) = fold.list(key);
                let same = match published {
                    None => instances.is_empty() && removed.is_empty() && hold.is_none(),
                    Some(published) => {
                        let content = !published.is_sharded() && published.digests == [digest(&instances)];
                        content && published.says(hold.as_ref())
                    }
                };
                if same {
                    return None;
                }
                (Content::Whole(instances), removed)
            }
        };
        Some(Draft {
            key: key.to_owned(),
            version: ListVersion::default(),
            written_unix_ms: 0,
            removed,
            hold,
            content,
        })
    }

    /// How many instances it holds.
    pub(crate) fn instances(&self) -> usize {
        match &self.content {
            Content::Whole(instances) => instances.len(),
            Content::Shards(changed, _) => changed.iter().map(|(_, part, _)| part.len()).sum(),
        }
    }

    /// Sets what every write has anew.
    pub(crate) fn at(mut self, version: ListVersion, written_unix_ms: u64) -> Self {
        (self.version, self.written_unix_ms) = (version, written_unix_ms);
        self
    }

    /// Seals it; `Published` is what the directory has once it is written.
    pub(crate) fn seal(self, sealer: &ListSealer) -> Result<(SealedList, Published), StoreError> {
        match self.content {
            Content::Whole(instances) => {
                let list = ServiceList {
                    service: self.key,
                    version: Some(self.version),
                    written_unix_ms: self.written_unix_ms,
                    instances,
                    removed: self.removed,
                    hold: self.hold,
                };
                let (sealed, references) = sealer.seal_with_references(&list)?;
                let published = Published::read(&list.instances, references, list.hold);
                Ok((sealed, published))
            }
            Content::Shards(changed, mut published) => {
                published.cut_whole &= changed.is_empty();
                published.hold = self.hold;
                let mut new = Vec::with_capacity(changed.len());
                for (index, instances, digest) in changed {
                    published.digests[index] = digest;
                    let shard = sealer.shard(&self.key, index, self.version, instances)?;
                    published.references[index] = shard.reference.clone();
                    published.plain[index] = shard.plain;
                    new.push(shard);
                }
                let listed = published.references.iter().map(|shard| shard.instances as usize);
                published.instances = listed.sum();
                let head = ListHead {
                    service: self.key,
                    version: Some(self.version),
                    written_unix_ms: self.written_unix_ms,
                    removed: self.removed,
                    shards: published.references.clone(),
                    hold: self.hold,
                };
                Ok((sealer.head(&head, new, published.plain.iter().sum())?, published))
            }
        }
    }
}

/// The instances of each shard, in their order.
fn parts<T: Borrow<ListedInstance>>(instances: impl Iterator<Item = T>, shards: usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = (0..shards).map(|_| Vec::new()).collect();
    for listed in instances {
        parts[shard_of(slot(&listed.borrow().instance), shards)].push(listed);
    }
    parts
}

/// Tells contents apart within this process. Neither instances nor tags have an order.
fn digest<T: Borrow<ListedInstance>>(instances: impl IntoIterator<Item = T>) -> u64 {
    let of = |listed: T| {
        let listed = listed.borrow();
        let mut tags: Vec<_> = listed.tags.iter().collect();
        tags.sort_unstable();
        let names = (
            &listed.instance,
            &listed.application,
            &listed.address,
            &listed.admin_address,
            &listed.zone,
            &listed.schema_hash,
        );
        let mut hasher = DefaultHasher::new();
        (names, listed.incarnation, listed.weight, listed.state, tags).hash(&mut hasher);
        hasher.finish()
    };
    instances.into_iter().map(of).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use rsf_registry::directory::ListOpener;
    use rsf_registry::directory::seal::{AIM, GROWN};

    use super::*;
    use crate::fold::Moment;

    /// Instances whose addresses do not compress.
    fn instances(count: usize) -> Vec<ListedInstance> {
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            random >> 16
        };
        let mut instance = |n: usize| ListedInstance {
            instance: format!("member/{n:05}"),
            incarnation: next(),
            address: format!("h{:x}{:x}{:x}:1", next(), next(), next()),
            state: rsf_registry::record::LeaseState::Up.into(),
            weight: 100,
            tags: HashMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
            ..ListedInstance::default()
        };
        (0..count).map(&mut instance).collect()
    }

    fn version(sequence: u64) -> ListVersion {
        ListVersion { epoch: 1, sequence }
    }

    /// A fold that has read them back.
    fn folded(instances: &[ListedInstance]) -> Fold {
        let (mut fold, second) = (Fold::new(), Duration::from_secs(1));
        let at = Moment {
            elapsed: second,
            unix_ms: 1,
        };
        let list = ServiceList {
            service: "s".into(),
            instances: instances.to_vec(),
            ..ServiceList::default()
        };
        fold.restore(at, [list].into_iter().collect(), second);
        fold
    }

    fn draft(
        instances: &[ListedInstance],
        published: Option<&Published>,
        sequence: u64,
    ) -> Option<(SealedList, Published)> {
        let draft = Draft::of("s", &folded(instances), Slots::ALL, published, None)?;
        let sealed = draft.at(version(sequence), 1).seal(&ListSealer::unsigned());
        Some(sealed.expect("good instances"))
    }

    #[test]
    fn a_small_list_is_written_whole_and_only_when_it_differs() {
        let mut small = instances(50);
        let (sealed, published) = draft(&small, None, 1).expect("new");
        assert!(sealed.names.is_empty() && !published.is_out_of_shape());
        assert!(draft(&small, Some(&published), 2).is_none(), "the same");
        small[7].tags = HashMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]);
        assert!(draft(&small, Some(&published), 2).is_none(), "tags have no order");
        small[7].tags.insert("c".into(), String::new());
        assert!(draft(&small, Some(&published), 2).is_some());
        assert!(draft(&[], None, 1).is_none(), "nothing where nothing was");
        assert!(draft(&[], Some(&published), 2).is_some(), "emptied");
    }

    #[test]
    fn a_hold_is_written_when_it_begins_and_when_it_ends() {
        let at = |since_unix_ms| {
            Some(ListHold {
                before: 9,
                since_unix_ms,
            })
        };
        for count in [5, 20_000] {
            let (many, mut published) = (instances(count), None);
            let fold = folded(&many);
            let mut write = |hold: Option<ListHold>, what: &str| {
                let slots = if published.is_some() {
                    Slots::default()
                } else {
                    Slots::ALL
                };
                let draft = Draft::of("s", &fold, slots, published.as_ref(), hold)?;
                let sealed = draft.at(version(1), 1).seal(&ListSealer::unsigned());
                let (sealed, now) = sealed.expect(what);
                let first = published.replace(now).is_none();
                assert!(first || sealed.shards.is_empty(), "{what}: its head alone");
                Some(sealed)
            };
            let whole = write(None, "new").expect("new");
            let held = write(at(7_000), "held").expect("it began").over(Some(&whole));
            let read = ListOpener::unverified().open(&held).expect("good").list;
            assert_eq!((read.hold, read.instances.len()), (at(7_000), count));
            assert!(write(at(7_001), "the clock's grain").is_none());
            assert!(write(at(60_000), "another").is_some());
            let free = write(None, "over").expect("it ended").over(Some(&whole));
            assert_eq!(
                ListOpener::unverified().open(&free).expect("good").list.hold,
                None
            );
            assert!(write(None, "nothing new").is_none());
        }
    }

    #[test]
    fn a_change_of_one_in_twenty_thousand_writes_one_shard() {
        let mut many = instances(20_000);
        let (first, published) = draft(&many, None, 1).expect("new");
        let shards = first.names.len();
        assert!(
            shards >= 2 && first.shards.values().all(|shard| shard.len() <= GROWN),
            "{shards}"
        );
        let read = ListOpener::unverified().open(&first).expect("whole");
        assert_eq!(
            Published::read(&many, read.shards, None),
            published,
            "a new leader goes on where the former ended"
        );

        many[123].weight = 50;
        many.remove(4_000);
        let (second, published) = draft(&many, Some(&published), 2).expect("changed");
        assert!((1..=2).contains(&second.shards.len()) && second.names.len() == shards);
        let opened = ListOpener::unverified().open(&second.over(Some(&first)));
        let mut opened = opened.expect("whole").list.instances;
        opened.sort_by(|a, b| a.instance.cmp(&b.instance));
        assert!(opened == many);
        assert!(draft(&many, Some(&published), 3).is_none());

        // Only the shards that are said to have changed are looked at.
        many[7].weight = 1;
        let fold = folded(&many);
        let elsewhere = Slots::of(
            &many
                .iter()
                .find(|listed| {
                    shard_of(slot(&listed.instance), shards) != shard_of(slot(&many[7].instance), shards)
                })
                .expect("another shard")
                .instance,
        );
        assert!(Draft::of("s", &fold, elsewhere, Some(&published), None).is_none());
        let here = Slots::of(&many[7].instance);
        let draft = Draft::of("s", &fold, here, Some(&published), None).expect("changed");
        let (third, _) = draft
            .at(version(3), 1)
            .seal(&ListSealer::unsigned())
            .expect("good");
        assert_eq!(third.shards.len(), 1);
    }

    #[test]
    fn a_list_is_cut_anew_where_it_outgrew_or_underfilled_its_shards() {
        let many = instances(20_000);
        let (sealed, mut published) = draft(&many, None, 1).expect("new");
        let shards = sealed.names.len();
        // Down to a half it keeps its shards, shard by shard.
        let half: Vec<_> = many.iter().step_by(2).cloned().collect();
        let (sealed, kept) = draft(&half, Some(&published), 2).expect("changed");
        assert_eq!((sealed.names.len(), sealed.shards.len()), (shards, shards));
        assert!(!kept.is_out_of_shape());
        // Far below it says so, and the next write is whole.
        let few: Vec<_> = half.iter().step_by(20).cloned().collect();
        let (sealed, tiny) = draft(&few, Some(&kept), 3).expect("changed");
        assert!(sealed.names.len() == shards && tiny.is_out_of_shape());
        let (sealed, whole) = draft(&few, Some(&tiny), 4).expect("out of shape");
        assert!(sealed.names.is_empty() && !whole.is_out_of_shape());

        (published.references[0].bytes, published.cut_whole) = (GROWN as u32 + 1, false);
        assert!(published.is_out_of_shape());
        let (sealed, _) = draft(&many, Some(&published), 5).expect("out of shape");
        assert_eq!(sealed.shards.len(), sealed.names.len(), "all of them anew");
        let mean = sealed.shards.values().map(|shard| shard.len()).sum::<usize>() / shards;
        assert!((AIM / 3..=GROWN).contains(&mean), "{mean} bytes a shard");
    }

    #[test]
    fn what_was_just_cut_is_not_cut_again_before_it_changes() {
        let mut few = instances(20_000);
        let (_, published) = draft(&few, None, 1).expect("new");
        few.truncate(500);
        let (_, tiny) = draft(&few, Some(&published), 2).expect("changed");
        assert!(tiny.is_out_of_shape());
        let read = Published::read(&few, tiny.references.clone(), None);
        assert!(!read.is_out_of_shape(), "nothing changed since");
        few[0].weight = 7;
        let (_, changed) = draft(&few, Some(&read), 3).expect("changed");
        assert!(changed.is_out_of_shape());
    }

    #[test]
    fn very_large_instances_that_share_a_slot_are_not_cut_again_with_every_change() {
        // Addresses that do not compress, as one tag of each.
        let noise: String = instances(8_000)
            .into_iter()
            .map(|listed| listed.address)
            .collect();
        let names = (0..).map(|n| format!("huge/{n}")).filter(|name| slot(name) == 7);
        let mut huge = instances(20);
        let tag = |n: usize| noise[n * 56_000..][..56_000].to_owned();
        huge.extend(names.take(5).enumerate().map(|(n, instance)| ListedInstance {
            instance,
            address: format!("huge:{}", n + 1),
            tags: HashMap::from([("tag".into(), tag(n))]),
            ..ListedInstance::default()
        }));
        let (_, mut published) = draft(&huge, None, 1).expect("new");
        for weight in 1..4 {
            huge[0].weight = weight;
            let (sealed, now) = draft(&huge, Some(&published), 2).expect("changed");
            let written = (sealed.names.len(), sealed.shards.len());
            assert_eq!(written, (MAX_SHARDS, 1));
            published = now;
        }
        huge.truncate(20);
        let (_, few) = draft(&huge, Some(&published), 3).expect("changed");
        assert!(few.is_out_of_shape(), "it is small now");
    }

    #[test]
    fn shards_that_readers_refuse_together_are_not_written() {
        let mut many = instances(20_000);
        let tag = |many: &mut [ListedInstance], length| {
            many.iter_mut()
                .for_each(|listed| drop(listed.tags.insert("long".into(), "x".repeat(length))));
        };
        tag(&mut many, 290);
        let (_, published) = draft(&many, None, 1).expect("new");
        let bytes: usize = published.plain.iter().sum();
        assert!(
            published.is_sharded() && (7 << 20..8 << 20).contains(&bytes),
            "{bytes}"
        );
        tag(&mut many[..10_000], 400);
        let draft = Draft::of("s", &folded(&many), Slots::ALL, Some(&published), None).expect("changed");
        let error = draft.at(version(2), 1).seal(&ListSealer::unsigned());
        let error = error.expect_err("over 8 MiB").to_string();
        assert!(error.contains("together"), "{error}");
    }

    #[test]
    fn more_instances_than_are_served_are_refused_by_name() {
        let many = instances(20_001);
        let draft = Draft::of("s", &folded(&many), Slots::ALL, None, None).expect("new");
        let error = draft.at(version(1), 1).seal(&ListSealer::unsigned());
        let error = error.expect_err("too many").to_string();
        assert!(error.contains("20001 instances"), "{error}");
    }
}
