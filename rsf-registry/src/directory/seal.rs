//! Seals lists: compresses, cuts into shards where a list is large, signs where there is a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rsf_core::identity::SigningKey;
use sha2::{Digest, Sha256};

use super::sealed::{MAX_SHARDS, SealedList, shard_name, shard_names, shard_of, slot};
use crate::format::{Kind, MAX_STORED, compress, sealed};
use crate::record::{ListHead, ListShard, ListVersion, ListedInstance, ServiceList, ShardReference};
use crate::{StoreError, limits};

/// What a shard aims at when a list is cut, in stored bytes.
pub const AIM: usize = 256 << 10;
/// A list or a shard that grew over this is cut, in stored bytes.
pub const GROWN: usize = 384 << 10;
/// A list whose shards have less than this on average is put together again, in stored bytes.
pub const SHRUNK: usize = 64 << 10;

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
        if frame.len() <= GROWN {
            let sealed = SealedList {
                service: list.service.clone(),
                version: list.version.unwrap_or_default().order(),
                head: sealed(Kind::Whole, &frame, &self.namespace, self.key.as_deref()).into(),
                ..SealedList::default()
            };
            return Ok((sealed, Vec::new()));
        }
        let mut shards = frame.len().div_ceil(AIM).next_power_of_two();
        while shards <= MAX_SHARDS {
            let cut = self.cut(list, shards)?;
            if cut.iter().all(|shard| shard.data.len() <= GROWN) {
                let references: Vec<_> = cut.iter().map(|shard| shard.reference.clone()).collect();
                let head = ListHead {
                    service: list.service.clone(),
                    version: list.version,
                    written_unix_ms: list.written_unix_ms,
                    removed: list.removed.clone(),
                    shards: references.clone(),
                };
                return Ok((self.head(&head, cut)?, references));
            }
            shards *= 2;
        }
        Err(invalid(format!(
            "an instance of it is too large: {MAX_SHARDS} shards do not bring it under {GROWN} bytes a shard"
        )))
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
        })
    }

    /// Seals a head over `new` shards and those of earlier writes that it names.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where a reader would refuse it, or a new shard is more than a znode may hold.
    pub fn head(&self, head: &ListHead, new: Vec<SealedShard>) -> Result<SealedList, StoreError> {
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
        let frame = compress(head).map_err(|reason| invalid(&head.service, reason))?;
        let shards: BTreeMap<String, Bytes> = new.into_iter().map(|shard| (shard.name, shard.data)).collect();
        Ok(SealedList {
            service: head.service.clone(),
            version: head.version.unwrap_or_default().order(),
            head: sealed(Kind::Head, &frame, &self.namespace, self.key.as_deref()).into(),
            names: shard_names(&head.shards),
            shards,
        })
    }
}

fn invalid(service: &str, reason: String) -> StoreError {
    StoreError::Invalid {
        key: service.to_owned(),
        reason,
    }
}
