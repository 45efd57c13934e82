//! The directory in ZooKeeper: one znode a service and one a shard, written by the leading pump.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::Instant;
use zookeeper_client::{Error, MultiWriteError};

use super::election::{Election, Tenure};
use super::lists::ListNode;
use super::zookeeper::namespace::{Namespace, check_node_name};
use super::zookeeper::watched::watch_node;
use crate::directory::open::Opened;
use crate::directory::sealed::shard_names;
use crate::directory::{ListOpener, Refusals, SealedList};
use crate::record::{ListVersion, ServiceList};
use crate::{Directory, DirectoryWriter, StoreError, Term, Watch};

/// The most that one `multi` may carry, in bytes: past about 1 MB the server drops the connection and with it all
/// requests that are under way.
const MAX_BATCH: usize = 900_000;
/// The most nodes in one `multi`, so that one does not hold up the server's other writers.
const MAX_BATCH_NODES: usize = 64;
/// What a node costs in a `multi` beside its path and data, at most, in bytes.
const NODE_OVERHEAD: usize = 128;
/// How many `multi`s are in flight at once.
const BATCHES_IN_FLIGHT: usize = 16;
/// How long a shard stays after the head that named it was replaced: a consumer may just be reading it.
const GRACE: Duration = Duration::from_secs(10);

/// The lists at `/rsf/<namespace>/directory/<service key>`, their shards at `/rsf/<namespace>/shards`, and the pumps'
/// election beside them.
#[derive(Debug)]
pub struct ZooKeeperDirectory {
    namespace: Arc<Namespace>,
    opener: ListOpener,
    election: Election,
    known: Mutex<Known>,
    /// One call after another, so that none overtakes an earlier one of the same list.
    writing: tokio::sync::Mutex<()>,
}

/// What this writer knows of the nodes.
#[derive(Debug, Default)]
struct Known {
    /// Paths that exist as far as it knows; a guess that spares a request, put right by the server's answer.
    existing: HashSet<String>,
    /// The greatest versions that it wrote, by service. Whatever else is stored is of an earlier epoch.
    written: HashMap<String, (u64, u64)>,
    /// The names of the shards of each list that has some.
    shards: HashMap<String, Vec<String>>,
    /// Shards that no head names any more, and since when; the oldest first.
    superseded: VecDeque<(Instant, String)>,
}

impl ZooKeeperDirectory {
    pub(crate) fn new(namespace: Arc<Namespace>, opener: ListOpener) -> Self {
        ZooKeeperDirectory {
            election: Election::new(namespace.clone()),
            namespace,
            opener,
            known: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Writes the nodes of one batch together, if the term's epoch still stands.
    async fn write_batch(&self, tenure: Tenure, batch: Batch) -> Result<(), StoreError> {
        let Batch { nodes: batch, lists } = batch;
        let epoch_path = self.election.epoch_path();
        let acls = self.namespace.acls().await?;
        // Each round puts right one wrong guess about a node's existence.
        for _ in 0..=batch.len() {
            let existing: Vec<bool> = {
                let known = self.known.lock();
                batch
                    .iter()
                    .map(|node| known.existing.contains(&node.path))
                    .collect()
            };
            let written = self.namespace.session.run(&batch[0].path, async |client| {
                let options = acls.persistent();
                let mut writer = client.new_multi_writer();
                writer.add_check_version(&epoch_path, tenure.version)?;
                for (node, exists) in batch.iter().zip(&existing) {
                    if *exists {
                        writer.add_set_data(&node.path, &node.data, None)?;
                    } else {
                        writer.add_create(&node.path, &node.data, &options)?;
                    }
                }
                match writer.commit().await {
                    Err(MultiWriteError::RequestFailed { source }) => Err(source),
                    outcome => Ok(outcome.map(drop)),
                }
            });
            match written.await? {
                Ok(()) => {
                    let paths = batch.into_iter().map(|node| node.path);
                    self.known.lock().existing.extend(paths);
                    self.note(lists);
                    return Ok(());
                }
                Err(MultiWriteError::OperationFailed {
                    index: 0,
                    source: Error::BadVersion | Error::NoNode,
                }) => {
                    return Err(StoreError::Fenced { epoch: tenure.epoch });
                }
                Err(MultiWriteError::OperationFailed { index, source }) if index > 0 => {
                    if !existing[index - 1] && source == Error::NoNode {
                        // Not the list but the folder is missing: somebody deleted it.
                        self.namespace.create().await?;
                    }
                    self.correct_guess(&batch[index - 1].path, source)?;
                }
                Err(error) => return Err(self.namespace.session.store_error(&epoch_path, error.into())),
            }
        }
        Err(self
            .namespace
            .session
            .unavailable("somebody else creates and deletes lists of this directory".to_owned()))
    }

    /// Refuses a list that cannot be a node, or is older than what is stored.
    fn check(&self, list: &SealedList, tenure: Tenure) -> Result<(), StoreError> {
        check_node_name(&list.service)?;
        let written = self.known.lock().written.get(&list.service).copied();
        let (stored, offered) = (written.unwrap_or((tenure.epoch, 0)), list.version);
        if offered < stored {
            return Err(StoreError::Stale {
                key: list.service.clone(),
                reason: format!("version {stored:?} is stored or its epoch begun, {offered:?} was offered"),
            });
        }
        Ok(())
    }

    fn correct_guess(&self, path: &str, error: Error) -> Result<(), StoreError> {
        match error {
            Error::NodeExists => drop(self.known.lock().existing.insert(path.to_owned())),
            Error::NoNode => drop(self.known.lock().existing.remove(path)),
            error => return Err(self.namespace.session.store_error(path, error)),
        }
        Ok(())
    }

    /// Writes shards that do not fit beside their head ahead of it; nobody sees them yet. The lists whose shards could
    /// not be written are taken out of `lists`.
    async fn write_ahead(
        &self,
        tenure: Tenure,
        lists: &mut Vec<&SealedList>,
    ) -> Result<Option<StoreError>, StoreError> {
        let large: Vec<&SealedList> = lists
            .iter()
            .copied()
            .filter(|list| cost(&self.nodes(list)) > MAX_BATCH)
            .collect();
        let mut failed = None;
        for list in large {
            let alone = |node| Batch {
                nodes: vec![node],
                lists: Vec::new(),
            };
            let shards = self.shards(list).map(alone).collect();
            if let Err(error) = self.write_all(tenure, shards).await {
                if matches!(error, StoreError::Fenced { .. }) {
                    return Err(error);
                }
                lists.retain(|other| other.service != list.service);
                failed = Some(error);
            }
        }
        Ok(failed)
    }

    /// Writes groups of nodes, each group in one request. After a failure the rest is still written.
    async fn write_all(&self, tenure: Tenure, groups: Vec<Batch>) -> Result<(), StoreError> {
        let mut failed = None;
        let mut writes = stream::iter(batches(groups))
            .map(|batch| self.write_batch(tenure, batch))
            .buffer_unordered(BATCHES_IN_FLIGHT);
        while let Some(written) = writes.next().await {
            match written {
                // Nothing of this term can be written any more.
                Err(fenced @ StoreError::Fenced { .. }) => return Err(fenced),
                Err(error) => failed = Some(error),
                Ok(()) => {}
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is written together so that the list is never seen in halves: its shards and its head, or the head alone
    /// where its shards were written ahead.
    fn group(&self, list: &SealedList) -> Batch {
        let mut nodes = self.nodes(list);
        if cost(&nodes) > MAX_BATCH {
            nodes.drain(..nodes.len() - 1);
        }
        Batch {
            nodes,
            lists: vec![Written {
                service: list.service.clone(),
                version: list.version,
                names: list.names.clone(),
            }],
        }
    }

    fn nodes(&self, list: &SealedList) -> Vec<Node> {
        let head = Node {
            path: self.namespace.path(&list_tail(&list.service)),
            data: list.head.clone(),
        };
        self.shards(list).chain([head]).collect()
    }

    fn shards<'a>(&'a self, list: &'a SealedList) -> impl Iterator<Item = Node> + 'a {
        list.shards.iter().map(|(name, data)| Node {
            path: self.namespace.path(&shard_tail(&list.service, name)),
            data: data.clone(),
        })
    }

    /// Notes lists that are written, and which shards nobody needs any more.
    fn note(&self, lists: Vec<Written>) {
        let (mut known, now) = (self.known.lock(), Instant::now());
        for list in lists {
            known.written.insert(list.service.clone(), list.version);
            let former = known.shards.remove(&list.service).unwrap_or_default();
            for name in former.iter().filter(|name| !list.names.contains(name)) {
                let path = self.namespace.path(&shard_tail(&list.service, name));
                known.superseded.push_back((now, path));
            }
            if !list.names.is_empty() {
                known.shards.insert(list.service, list.names);
            }
        }
    }

    /// Deletes shards that have been superseded for long enough. What cannot be deleted is tried with a later write.
    async fn sweep_shards(&self, tenure: Tenure) {
        let due: Vec<String> = {
            let mut known = self.known.lock();
            let now = Instant::now();
            let old = known
                .superseded
                .iter()
                .take_while(|(since, _)| now >= *since + GRACE);
            let count = old.count().min(MAX_BATCH_NODES);
            known.superseded.drain(..count).map(|(_, path)| path).collect()
        };
        if due.is_empty() {
            return;
        }
        let epoch_path = self.election.epoch_path();
        let deleted = self.namespace.session.run(&epoch_path, async |client| {
            for path in &due {
                let mut writer = client.new_multi_writer();
                writer.add_check_version(&epoch_path, tenure.version)?;
                writer.add_delete(path, None)?;
                match writer.commit().await {
                    Ok(_) => {}
                    Err(MultiWriteError::OperationFailed {
                        index: 1,
                        source: Error::NoNode,
                    }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        match deleted.await {
            Ok(()) => {
                let mut known = self.known.lock();
                for path in &due {
                    known.existing.remove(path);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "superseded shards stay a while");
                let now = Instant::now();
                let again = due.into_iter().map(|path| (now, path));
                self.known.lock().superseded.extend(again);
            }
        }
    }

    /// What stands at the heads' places, in sealed bytes with the names of their shards.
    async fn heads(&self) -> Result<Vec<SealedList>, StoreError> {
        let services = self.namespace.children("directory").await?;
        let tails = services.iter().map(|service| list_tail(service)).collect();
        let opener = ListOpener::unverified();
        let heads = self.namespace.read_all(tails).await?.into_iter();
        let sealed = |(tail, data): (String, Vec<u8>)| {
            let service = tail.trim_start_matches("directory/").to_owned();
            let (version, names) = match opener.open_head(&service, &data) {
                Ok(Opened::Head(head)) => (head.version, shard_names(&head.shards)),
                Ok(Opened::Whole(list)) => (list.version, Vec::new()),
                // Whoever opens it says what is wrong with it.
                Err(_) => (None, Vec::new()),
            };
            SealedList {
                version: version.as_ref().map_or((0, 0), ListVersion::order),
                head: data.into(),
                names,
                service,
                ..SealedList::default()
            }
        };
        Ok(heads.map(sealed).collect())
    }
}

#[async_trait]
impl Directory for ZooKeeperDirectory {
    fn watch(&self, service: &str) -> Watch<ServiceList> {
        if let Err(error) = check_node_name(service) {
            tracing::warn!(%error, "watching a service that cannot exist");
        }
        let node = ListNode::new(self.namespace.clone(), self.opener.clone(), service);
        watch_node(self.namespace.clone(), &list_tail(service), node)
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        let mut services = self.namespace.children("directory").await?;
        services.sort();
        Ok(services)
    }

    fn refusals(&self) -> Option<Refusals> {
        Some(self.opener.refusals().clone())
    }
}

#[async_trait]
impl DirectoryWriter for ZooKeeperDirectory {
    async fn lead(&self, pump: &str, least_epoch: u64) -> Result<Term, StoreError> {
        let term = self.election.lead(pump, least_epoch).await?;
        let services = self.namespace.children("directory").await.unwrap_or_default();
        let paths = services
            .iter()
            .map(|service| self.namespace.path(&list_tail(service)))
            .collect();
        self.known.lock().existing = paths;
        Ok(term)
    }

    async fn stored(&self) -> Result<Vec<SealedList>, StoreError> {
        // A shard whose head is still to come must not be taken for a leftover.
        let _writing = self.writing.lock().await;
        let mut lists = self.heads().await?;
        let named = lists
            .iter()
            .flat_map(|list| list.names.iter().map(|name| shard_tail(&list.service, name)));
        let named: HashSet<String> = named.collect();
        if named.is_empty() && self.known.lock().shards.is_empty() {
            // The usual fleet has none: what an earlier leader left behind is looked for all the same.
            self.note_leftovers(&named).await?;
            return Ok(lists);
        }
        let mut shards: HashMap<String, Bytes> = HashMap::with_capacity(named.len());
        let read = self.namespace.read_all(named.iter().cloned().collect()).await?;
        shards.extend(read.into_iter().map(|(tail, data)| (tail, Bytes::from(data))));
        for list in &mut lists {
            let found = list.names.iter().filter_map(|name| {
                let data = shards.get(&shard_tail(&list.service, name))?;
                Some((name.clone(), data.clone()))
            });
            list.shards = found.collect::<BTreeMap<_, _>>();
        }
        self.note_leftovers(&named).await?;
        let mut known = self.known.lock();
        for list in lists.iter().filter(|list| !list.names.is_empty()) {
            known.shards.insert(list.service.clone(), list.names.clone());
        }
        Ok(lists)
    }

    async fn store(&self, term: &Term, lists: &[SealedList]) -> Result<(), StoreError> {
        let Some(tenure) = self.election.tenure(term) else {
            return Err(StoreError::Fenced { epoch: term.epoch });
        };
        let _writing = self.writing.lock().await;
        // A list that cannot be stored keeps no other from being written.
        let mut refused = None;
        let mut good = Vec::with_capacity(lists.len());
        for list in lists {
            match self.check(list, tenure) {
                Ok(()) => good.push(list),
                Err(error) => refused = Some(error),
            }
        }
        if let Some(error) = self.write_ahead(tenure, &mut good).await? {
            refused = Some(error);
        }
        let groups = good.iter().map(|list| self.group(list)).collect();
        match self.write_all(tenure, groups).await {
            Ok(()) => {}
            Err(fenced @ StoreError::Fenced { .. }) => return Err(fenced),
            Err(error) => refused = Some(error),
        }
        self.sweep_shards(tenure).await;
        refused.map_or(Ok(()), Err)
    }

    async fn remove(&self, term: &Term, services: &[String]) -> Result<(), StoreError> {
        let Some(tenure) = self.election.tenure(term) else {
            return Err(StoreError::Fenced { epoch: term.epoch });
        };
        let _writing = self.writing.lock().await;
        for service in services {
            self.remove_one(tenure, service).await?;
        }
        Ok(())
    }
}

impl ZooKeeperDirectory {
    /// Deletes one list; its shards go with the next writes.
    async fn remove_one(&self, tenure: Tenure, service: &str) -> Result<(), StoreError> {
        check_node_name(service)?;
        let (epoch_path, path) = (
            self.election.epoch_path(),
            self.namespace.path(&list_tail(service)),
        );
        let removed = self.namespace.session.run(&path, async |client| {
            let mut writer = client.new_multi_writer();
            writer.add_check_version(&epoch_path, tenure.version)?;
            writer.add_delete(&path, None)?;
            match writer.commit().await {
                Err(MultiWriteError::RequestFailed { source }) => Err(source),
                outcome => Ok(outcome.map(drop)),
            }
        });
        match removed.await? {
            Ok(())
            | Err(MultiWriteError::OperationFailed {
                index: 1,
                source: Error::NoNode,
            }) => {
                let mut known = self.known.lock();
                known.existing.remove(&path);
                let shards = known.shards.remove(service).unwrap_or_default();
                let now = Instant::now();
                let gone = shards
                    .iter()
                    .map(|name| (now, self.namespace.path(&shard_tail(service, name))));
                known.superseded.extend(gone);
                Ok(())
            }
            Err(MultiWriteError::OperationFailed {
                index: 0,
                source: Error::BadVersion | Error::NoNode,
            }) => Err(StoreError::Fenced { epoch: tenure.epoch }),
            Err(error) => Err(self.namespace.session.store_error(&path, error.into())),
        }
    }

    /// Finds shards that no head names: those of a leader that ended within a write.
    async fn note_leftovers(&self, named: &HashSet<String>) -> Result<(), StoreError> {
        let there = self.namespace.children("shards").await?;
        let now = Instant::now();
        let leftovers = there
            .into_iter()
            .map(|name| format!("shards/{name}"))
            .filter(|tail| !named.contains(tail))
            .map(|tail| (now, self.namespace.path(&tail)));
        let mut known = self.known.lock();
        known.superseded = leftovers.collect();
        known.shards.clear();
        Ok(())
    }
}

/// A node as it is stored.
#[derive(Debug, Clone)]
struct Node {
    path: String,
    data: Bytes,
}

fn cost(nodes: &[Node]) -> usize {
    let of = |node: &Node| node.path.len() + node.data.len() + NODE_OVERHEAD;
    nodes.iter().map(of).sum()
}

/// Nodes of one request, and the lists that it completes.
#[derive(Debug, Default)]
struct Batch {
    nodes: Vec<Node>,
    lists: Vec<Written>,
}

/// A list that a request completes.
#[derive(Debug)]
struct Written {
    service: String,
    version: (u64, u64),
    names: Vec<String>,
}

/// Packs groups into as few requests as the limits allow; a group is never torn.
fn batches(groups: Vec<Batch>) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut batch = Batch::default();
    let mut size = 0;
    for group in groups {
        let cost = cost(&group.nodes);
        let many = batch.nodes.len() + group.nodes.len() > MAX_BATCH_NODES;
        if !batch.nodes.is_empty() && (size + cost > MAX_BATCH || many) {
            batches.push(std::mem::take(&mut batch));
            size = 0;
        }
        size += cost;
        batch.nodes.extend(group.nodes);
        batch.lists.extend(group.lists);
    }
    if !batch.nodes.is_empty() {
        batches.push(batch);
    }
    batches
}

fn list_tail(service: &str) -> String {
    format!("directory/{service}")
}

/// Shards of all lists lie in one folder: a service's own node has no children, so that it can be deleted at once.
pub(super) fn shard_tail(service: &str, name: &str) -> String {
    format!("shards/{service}@{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_under_both_limits_tear_no_group_and_lose_nothing() {
        let node = |n: usize, size| Node {
            path: format!("/{n}"),
            data: vec![0; size].into(),
        };
        for (count, together, size, least) in [
            (0, 1, 10, 0),
            (1, 1, 500_000, 1),
            (5, 1, 400_000, 3),
            (200, 1, 10, 4),
            (100, 1, 20_000, 3),
            (90, 3, 10, 2),
            (12, 3, 200_000, 4),
        ] {
            let nodes: Vec<Node> = (0..count).map(|n| node(n, size)).collect();
            let group = |nodes: &[Node]| Batch {
                nodes: nodes.to_vec(),
                lists: Vec::new(),
            };
            let batches: Vec<Vec<Node>> = batches(nodes.chunks(together).map(group).collect())
                .into_iter()
                .map(|batch| batch.nodes)
                .collect();
            assert!(
                batches.len() >= least,
                "{count} × {size}: {} batches",
                batches.len()
            );
            let paths: Vec<String> = batches.iter().flatten().map(|node| node.path.clone()).collect();
            assert_eq!(paths, (0..count).map(|n| format!("/{n}")).collect::<Vec<_>>());
            for batch in &batches {
                assert!(cost(batch) <= MAX_BATCH);
                assert!(!batch.is_empty() && batch.len() <= MAX_BATCH_NODES && batch.len() % together == 0);
            }
        }
    }
}
