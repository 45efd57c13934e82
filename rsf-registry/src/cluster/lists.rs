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
use crate::directory::refusals::{Reason, Refusal};
use crate::directory::sealed::shard_names;
use crate::record::ServiceList;

/// So many readings miss the same shard before it is reported. A shard that was superseded is missed once or twice: the
/// next head does not name it.
const MISSED: u32 = 5;

/// Opens what a list's node holds. Only the node is watched: a shard never changes, and a new one comes with a new head.
pub(super) struct ListNode {
    namespace: Arc<Namespace>,
    opener: ListOpener,
    service: String,
    /// The shards of the last head, so that a change costs one shard's reading.
    shards: BTreeMap<String, Bytes>,
    missing: Missing,
}

/// The shard that the last readings missed, and how often. No two shards ever have one name.
#[derive(Debug, Default)]
struct Missing {
    name: String,
    times: u32,
}

impl Missing {
    /// Counts a reading without the shard; true once, when it is to be reported.
    fn is_lost(&mut self, name: &str) -> bool {
        if self.name != name {
            *self = Missing {
                name: name.to_owned(),
                times: 0,
            };
        }
        self.times = self.times.saturating_add(1);
        self.times == MISSED
    }
}

impl ListNode {
    pub(super) fn new(namespace: Arc<Namespace>, opener: ListOpener, service: &str) -> Self {
        ListNode {
            namespace,
            opener,
            service: service.to_owned(),
            shards: BTreeMap::new(),
            missing: Missing::default(),
        }
    }

    /// Reads the shards that are not at hand. One that is gone was superseded since the head was read, or else is lost: that
    /// is reported once, and the reading goes on, for it may be restored.
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
            None => {
                self.missing = Missing::default();
                Ok(())
            }
            Some(gone) => {
                if self.missing.is_lost(gone) {
                    self.report_lost(gone);
                }
                Err(Undecoded::Again(format!("shard {gone} is gone")))
            }
        }
    }

    fn report_lost(&self, shard: &str) {
        let refusal = Refusal::new(Reason::Damaged, format!("its shard {shard} is missing"));
        self.opener.refusals().judged(&self.service, Some(&refusal));
        tracing::warn!(
            service = self.service,
            shard,
            "a list's shard is missing from the directory; the last good list stays until the list is written again"
        );
    }
}

#[async_trait]
impl Decode<ServiceList> for ListNode {
    const MANY: bool = true;

    async fn decode(&mut self, data: &[u8]) -> Result<ServiceList, Undecoded> {
        let refused = |error: Refusal| Undecoded::Refused(error.to_string());
        match self.opener.open_head(&self.service, data).map_err(refused)? {
            Opened::Whole(list) => {
                self.shards.clear();
                self.opener.keep(&list, data, &self.shards);
                Ok(list)
            }
            Opened::Head(head) => {
                self.fetch(&shard_names(&head.shards)).await?;
                let opened = self.opener.assemble(head, &self.shards);
                match &opened {
                    Ok(opened) => self.opener.keep(&opened.list, data, &self.shards),
                    // Damaged bytes must not outlive their repair.
                    Err(_) => self.shards.clear(),
                }
                opened.map(|opened| opened.list).map_err(refused)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_shard_is_reported_once_and_a_superseded_one_never() {
        let mut missing = Missing::default();
        let mut reports = |name: &str, readings: u32| (0..readings).filter(|_| missing.is_lost(name)).count();
        assert_eq!(reports("0-1-1", MISSED - 1), 0);
        assert_eq!(reports("0-1-2", MISSED - 1), 0, "another head, another shard");
        assert_eq!(reports("0-1-2", 1), 1);
        assert_eq!(reports("0-1-2", 1_000), 0);
        assert_eq!(reports("0-1-3", MISSED), 1);
    }
}
