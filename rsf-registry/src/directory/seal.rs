//! Seals lists: compresses, cuts into shards where a list is large, signs where there is a key.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::{Message, length_delimiter_len};
use rsf_core::identity::SigningKey;
use sha2::{Digest, Sha256};

use super::sealed::{MAX_SHARDS, SealedList, shard_name, shard_names, shard_of, slot};
use crate::format::{Kind, MAX_RECORD, MAX_STORED, compress, sealed};
use crate::record::{ListHead, ListShard, ListVersion, ListedInstance, ServiceList, ShardReference};
use crate::{StoreError, limits, world};

/// What a shard aims at when a list is cut, in stored bytes. About two thousand instances: who changes one of them has all
/// of its shard rendered, compressed, written and read.
pub const AIM: usize = 64 << 10;
/// A list whose instances, or a shard, that grew over this is cut, in stored bytes; of [`MAX_SHARDS`] one may have as much
/// as a node.
pub const GROWN: usize = 96 << 10;
/// A list whose shards have less than this on average is put together again, in stored bytes.
pub const SHRUNK: usize = 16 << 10;

/// Whether a list or a shard of so many stored bytes is to be cut: it has more than [`GROWN`].
pub fn is_grown(bytes: usize) -> bool {
    bytes > world::shard_bytes(GROWN)
}

/// Whether so many shards of `bytes` stored bytes in all are to be put together again: they have less than [`SHRUNK`] on
/// average.
pub fn is_shrunk(bytes: usize, shards: usize) -> bool {
    bytes < world::shard_bytes(SHRUNK) * shards
}

/// Seals the lists of one namespace.
#[derive(Debug, Clone, Default)]
pub struct ListSealer {
    namespace: String,
    key: Option<Arc<SigningKey>>,
}

/// One shard, sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct SealedShard {
    /// What it is called in the directory.
    pub name: String,
    /// What a head says of it.
    pub reference: ShardReference,
    /// Its bytes.
    pub data: Bytes,
    /// What its instances have before they are compressed, in bytes: [`plain_bytes`].
    pub plain: usize,
}

impl ListSealer {
    /// Signs nothing.
    pub fn unsigned() -> Self {
        Self::default()
    }

    /// Signs every list with `key` for `namespace`.
    pub fn signing(namespace: &str, key: SigningKey) -> Self {
        ListSealer {
            namespace: namespace.to_owned(),
            key: Some(Arc::new(key)),
        }
    }

    /// Seals a whole list, in as many shards as its size asks for.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where a reader would refuse it.
    pub fn seal(&self, list: &ServiceList) -> Result<SealedList, StoreError> {
        self.seal_with_references(list).map(|(sealed, _)| sealed)
    }

    /// The same, with what its head says of the shards; nothing where it is sealed whole.
    ///
    /// # Errors
    /// As [`ListSealer::seal`].
    pub fn seal_with_references(
        &self,
        list: &ServiceList,
    ) -> Result<(SealedList, Vec<ShardReference>), StoreError> {
        limits::check_list(list)?;
        let invalid = |reason: String| invalid(&list.service, reason);
        let frame = compress(list).map_err(invalid)?;
        // By what the shards would hold: removals stand in the head, and shards that are small because of them would be
        // put together again and cut again without end.
        let content = match list.removed.is_empty() || !is_grown(frame.len()) {
            true => frame.len(),
            false => {
                let kept = ServiceList {
                    removed: Vec::new(),
                    ..list.clone()
                };
                compress(&kept).map_err(invalid)?.len()
            }
        };
        if !is_grown(content) {
            let stored = sealed(Kind::Whole, &frame, &self.namespace, self.key.as_deref());
            if stored.len() <= MAX_STORED {
                let sealed = SealedList {
                    service: list.service.clone(),
                    version: list.version.unwrap_or_default().order(),
                    head: stored.into(),
                    ..SealedList::default()
                };
                return Ok((sealed, Vec::new()));
            }
        }
        let shards = content.div_ceil(world::shard_bytes(AIM)).next_power_of_two();
        let cut = self.cut_small(list, shards.clamp(2, MAX_SHARDS))?;
        let references: Vec<_> = cut.iter().map(|shard| shard.reference.clone()).collect();
        let head = ListHead {
            service: list.service.clone(),
            version: list.version,
            written_unix_ms: list.written_unix_ms,
            removed: list.removed.clone(),
            shards: references.clone(),
            hold: list.hold,
        };
        let plain = plain_bytes(&list.instances);
        Ok((self.head(&head, cut, plain)?, references))
    }

    /// Cuts into so many shards, or as many more as bring each under [`GROWN`]. [`MAX_SHARDS`] are as they come: several
    /// very large instances may share one slot.
    fn cut_small(&self, list: &ServiceList, mut shards: usize) -> Result<Vec<SealedShard>, StoreError> {
        loop {
            let cut = self.cut(list, shards)?;
            if shards >= MAX_SHARDS || !cut.iter().any(|shard| is_grown(shard.data.len())) {
                return Ok(cut);
            }
            shards *= 2;
        }
    }

    fn cut(&self, list: &ServiceList, shards: usize) -> Result<Vec<SealedShard>, StoreError> {
        let mut parts = vec![Vec::new(); shards];
        for listed in &list.instances {
            parts[shard_of(slot(&listed.instance), shards)].push(listed.clone());
        }
        let version = list.version.unwrap_or_default();
        let parts = parts.into_iter().enumerate();
        parts
            .map(|(index, instances)| self.shard(&list.service, index, version, instances))
            .collect()
    }

    /// Seals one shard. Its bytes may be more than [`GROWN`], and then the list wants to be cut anew.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where a reader would refuse it.
    pub fn shard(
        &self,
        service: &str,
        index: usize,
        version: ListVersion,
        instances: Vec<ListedInstance>,
    ) -> Result<SealedShard, StoreError> {
        limits::check_instances(service, &instances)?;
        let plain = plain_bytes(&instances);
        let listed = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        let shard = ListShard {
            service: service.to_owned(),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            version: Some(version),
            instances,
        };
        let frame = compress(&shard).map_err(|reason| invalid(service, reason))?;
        let data = sealed(Kind::Shard, &frame, "", None);
        let reference = ShardReference {
            version: Some(version),
            sha256: Sha256::digest(&data).to_vec(),
            bytes: u32::try_from(data.len()).unwrap_or(u32::MAX),
            instances: listed,
        };
        Ok(SealedShard {
            name: shard_name(index, version),
            reference,
            data: data.into(),
            plain,
        })
    }

    /// Seals a head over `new` shards and those of earlier writes that it names; all of them together have instances of
    /// `plain` bytes ([`plain_bytes`]), for readers bound what they decompress of one list.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where a reader would refuse it, or a new shard or the head is more than a znode may hold.
    pub fn head(
        &self,
        head: &ListHead,
        new: Vec<SealedShard>,
        plain: usize,
    ) -> Result<SealedList, StoreError> {
        let listed: u64 = head.shards.iter().map(|shard| u64::from(shard.instances)).sum();
        if listed > limits::MAX_INSTANCES as u64 {
            let most = limits::MAX_INSTANCES;
            let reason = format!("it has {listed} instances; at most {most} are served");
            return Err(invalid(&head.service, reason));
        }
        if let Some(large) = new.iter().find(|shard| shard.data.len() > MAX_STORED) {
            let (name, bytes) = (&large.name, large.data.len());
            let reason = format!("its shard {name} has {bytes} bytes; at most {MAX_STORED} are stored");
            return Err(invalid(&head.service, reason));
        }
        let all = plain + beside_instances(head);
        if all > MAX_RECORD {
            let reason = format!("its shards have {all} bytes together; readers accept at most {MAX_RECORD}");
            return Err(invalid(&head.service, reason));
        }
        let frame = compress(head).map_err(|reason| invalid(&head.service, reason))?;
        let stored = sealed(Kind::Head, &frame, &self.namespace, self.key.as_deref());
        if stored.len() > MAX_STORED {
            let bytes = stored.len();
            let reason = format!("its head has {bytes} bytes; at most {MAX_STORED} are stored");
            return Err(invalid(&head.service, reason));
        }
        let shards: BTreeMap<String, Bytes> = new.into_iter().map(|shard| (shard.name, shard.data)).collect();
        Ok(SealedList {
            service: head.service.clone(),
            version: head.version.unwrap_or_default().order(),
            head: stored.into(),
            names: shard_names(&head.shards),
            shards,
        })
    }
}

/// What instances have in a list or a shard before it is compressed, in bytes; that of a list is the sum of its shards'.
pub fn plain_bytes<T: Borrow<ListedInstance>>(instances: impl IntoIterator<Item = T>) -> usize {
    let field = |listed: T| field_len(listed.borrow());
    instances.into_iter().map(field).sum()
}

/// The plain bytes that readers count beside the instances: of the whole list, or of all shards, whichever is more.
fn beside_instances(head: &ListHead) -> usize {
    let references: usize = head.shards.iter().map(field_len).sum();
    let list = head.encoded_len() - references;
    let frame = |(index, reference): (usize, &ShardReference)| {
        let shard = ListShard {
            service: head.service.clone(),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            version: reference.version,
            instances: Vec::new(),
        };
        shard.encoded_len()
    };
    list.max(head.shards.iter().enumerate().map(frame).sum())
}

/// A message as one of a repeated field's with a number under 16.
fn field_len(message: &impl Message) -> usize {
    let bytes = message.encoded_len();
    1 + length_delimiter_len(bytes) + bytes
}

fn invalid(service: &str, reason: String) -> StoreError {
    StoreError::Invalid {
        key: service.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::ListOpener;
    use crate::record::Removal;

    fn noise(length: usize) -> String {
        std::iter::repeat_with(fastrand::alphanumeric)
            .take(length)
            .collect()
    }

    /// A list whose instances have tags of `tag` bytes each, that compress well or not at all.
    fn list(instances: usize, tag: impl Fn() -> String) -> ServiceList {
        let listed = |n: usize| ListedInstance {
            instance: format!("member/{n}"),
            address: "h:1".into(),
            tags: [("tag".to_owned(), tag())].into(),
            ..ListedInstance::default()
        };
        ServiceList {
            service: "s".into(),
            version: Some(ListVersion {
                epoch: 1,
                sequence: 1,
            }),
            written_unix_ms: 1,
            instances: (0..instances).map(listed).collect(),
            ..ServiceList::default()
        }
    }

    fn removals(count: usize) -> Vec<Removal> {
        let removal = |_| Removal {
            instance: noise(40),
            incarnation: fastrand::u64(..),
            ..Removal::default()
        };
        (0..count).map(removal).collect()
    }

    /// A head over all shards of a list, and the shards, as a pump makes them one by one.
    fn head_over(list: &ServiceList, shards: usize) -> (ListHead, Vec<SealedShard>, usize) {
        let cut = ListSealer::unsigned().cut(list, shards).expect("good shards");
        let head = ListHead {
            service: list.service.clone(),
            version: list.version,
            written_unix_ms: list.written_unix_ms,
            removed: list.removed.clone(),
            shards: cut.iter().map(|shard| shard.reference.clone()).collect(),
            hold: list.hold,
        };
        let plain = cut.iter().map(|shard| shard.plain).sum();
        (head, cut, plain)
    }

    #[test]
    fn what_a_head_names_is_what_readers_accept_to_the_byte() {
        // Of many removals the list's own bytes count, of many shards those around their instances.
        for (removed, shards) in [(100, 2), (0, 128)] {
            let mut large = list(7_900, || "x".repeat(900));
            large.removed = removals(removed);
            let tag = |length| [("tag".to_owned(), "x".repeat(length))].into();
            large.instances[5].tags = tag(20_000);
            let (head, _, plain) = head_over(&large, shards);
            let room = MAX_RECORD - plain - beside_instances(&head);
            for (grown, accepted) in [(room, true), (room + 1, false)] {
                large.instances[5].tags = tag(20_000 + grown);
                let (head, cut, plain) = head_over(&large, shards);
                assert_eq!(plain, plain_bytes(&large.instances));
                let written = ListSealer::unsigned().head(&head, cut.clone(), plain);
                assert_eq!(written.is_ok(), accepted, "{shards} shards: {:?}", written.err());
                let cut = cut.into_iter().map(|shard| (shard.name, shard.data)).collect();
                let read = ListOpener::unverified().assemble(head, &cut);
                assert_eq!(read.is_ok(), accepted, "{shards} shards: {:?}", read.err());
            }
        }
    }

    #[test]
    fn a_head_of_too_many_removals_is_refused_before_it_is_stored() {
        let mut large = list(10, || noise(100));
        large.removed = removals(20_000);
        let (head, cut, plain) = head_over(&large, 2);
        let error = ListSealer::unsigned().head(&head, cut, plain);
        let error = error.expect_err("too large for a node").to_string();
        assert!(error.contains("its head has"), "{error}");
    }

    #[test]
    fn removals_cut_a_list_only_where_one_node_does_not_hold_it() {
        let seal = |list: &ServiceList| {
            let sealed = ListSealer::unsigned().seal_with_references(list);
            let (sealed, references) = sealed.expect("it fits");
            let opened = ListOpener::unverified().open(&sealed).expect("good").list;
            assert_eq!(opened.removed, list.removed);
            assert_eq!(opened.instances.len(), list.instances.len());
            references
        };
        let mut large = list(1_050, || noise(100));
        large.removed = removals(4_000);
        let frame = compress(&large).expect("it fits").len();
        assert!(frame > 2 * GROWN, "{frame} bytes");
        assert!(seal(&large).is_empty(), "its instances are few");

        large.removed = removals(11_300);
        let frame = compress(&large).expect("it fits").len();
        assert!(frame > MAX_STORED, "{frame} bytes");
        let references = seal(&large);
        let stored: u32 = references.iter().map(|shard| shard.bytes).sum();
        assert_eq!(references.len(), 2);
        assert!(
            !is_shrunk(stored as usize, 2),
            "{stored} bytes would be cut anew at once"
        );
    }

    #[test]
    fn very_large_instances_that_share_a_slot_are_stored_up_to_what_a_node_holds() {
        let together = |count: usize| {
            let mut large = list(20, || noise(100));
            let names = (0..).map(|n| format!("huge/{n}")).filter(|name| slot(name) == 7);
            large
                .instances
                .extend(names.take(count).map(|instance| ListedInstance {
                    instance,
                    address: "h:1".into(),
                    tags: [("tag".to_owned(), noise(40_000))].into(),
                    ..ListedInstance::default()
                }));
            ListSealer::unsigned().seal_with_references(&large)
        };
        let (sealed, references) = together(5).expect("a node holds it");
        assert_eq!(references.len(), MAX_SHARDS);
        assert!(references.iter().any(|shard| is_grown(shard.bytes as usize)));
        let opened = ListOpener::unverified().open(&sealed).expect("good");
        assert_eq!(opened.list.instances.len(), 25);
        let error = together(20).expect_err("no node holds it").to_string();
        assert!(error.contains("its shard 7-1-1 has"), "{error}");
    }
}
