//! A consumer's reading of one list in ZooKeeper: its node, and the shards that it names.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::directory::shard_tail;
use super::zookeeper::namespace::Namespace;
use super::zookeeper::watched::{Decode, Undecoded};
use crate::directory::ListOpener;
use crate::directory::open::Opened;
use crate::directory::sealed::shard_names;
use crate::record::ServiceList;

/// Opens what a list's node holds. Only the node is watched: a shard never changes, and a new one comes with a new head.
pub(super) struct ListNode {
    namespace: Arc<Namespace>,
    opener: ListOpener,
    service: String,
    /// The shards of the last head, so that a change costs one shard's reading.
    shards: BTreeMap<String, Bytes>,
}

impl ListNode {
    pub(super) fn new(namespace: Arc<Namespace>, opener: ListOpener, service: &str) -> Self {
        ListNode {
            namespace,
            opener,
            service: service.to_owned(),
            shards: BTreeMap::new(),
        }
    }

    /// Reads the shards that are not at hand. One that is gone was superseded since the head was read.
    async fn fetch(&mut self, names: &[String]) -> Result<(), Undecoded> {
        self.shards.retain(|name, _| names.contains(name));
        let wanting = names.iter().filter(|name| !self.shards.contains_key(*name));
        let prefix = shard_tail(&self.service, "");
        let tails: Vec<String> = wanting.map(|name| format!("{prefix}{name}")).collect();
        let read = self.namespace.read_all(tails).await;
        let read = read.map_err(|error| Undecoded::Again(error.to_string()))?;
        let named = |(tail, data): (String, Vec<u8>)| {
            let name = tail.strip_prefix(&prefix).unwrap_or(&tail);
            (name.to_owned(), Bytes::from(data))
        };
        self.shards.extend(read.into_iter().map(named));
        match names.iter().find(|name| !self.shards.contains_key(*name)) {
            None => Ok(()),
            Some(gone) => Err(Undecoded::Again(format!("shard {gone} is gone"))),
        }
    }
}

#[async_trait]
impl Decode<ServiceList> for ListNode {
    async fn decode(&mut self, data: &[u8]) -> Result<ServiceList, Undecoded> {
        let refused = |error: crate::directory::Refusal| Undecoded::Refused(error.to_string());
        match self.opener.open_head(&self.service, data).map_err(refused)? {
            Opened::Whole(list) => {
                self.shards.clear();
                Ok(list)
            }
            Opened::Head(head) => {
                self.fetch(&shard_names(&head.shards)).await?;
                let opened = self.opener.assemble(head, &self.shards);
                if opened.is_err() {
                    // Damaged bytes must not outlive their repair.
                    self.shards.clear();
                }
                opened.map(|opened| opened.list).map_err(refused)
            }
        }
    }
}
