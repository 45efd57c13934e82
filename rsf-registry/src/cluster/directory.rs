//! The directory in ZooKeeper: one znode a service, watched by consumers, written by the leading pump.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use zookeeper_client::{Error, MultiWriteError};

use super::codec;
use super::election::{Election, Tenure};
use super::zookeeper::PERSISTENT;
use super::zookeeper::namespace::{Namespace, check_node_name};
use super::zookeeper::watched::watch_node;
use crate::record::{ListVersion, ServiceList};
use crate::{Directory, DirectoryWriter, StoreError, Term, Watch, limits};

/// The most that one `multi` may carry, in bytes: past about 1 MB the server drops the connection and with it all
/// requests that are under way.
const MAX_BATCH: usize = 900_000;
/// The most lists in one `multi`, so that one does not hold up the server's other writers.
const MAX_BATCH_LISTS: usize = 64;
/// What a list costs in a `multi` beside its path and data, at most, in bytes.
const LIST_OVERHEAD: usize = 128;
/// How many `multi`s are in flight at once.
const BATCHES_IN_FLIGHT: usize = 16;

/// The lists at `/rsf/<namespace>/directory/<service key>`, and the pumps' election beside them.
#[derive(Debug)]
pub struct ZooKeeperDirectory {
    namespace: Arc<Namespace>,
    election: Election,
    /// Paths that exist as far as this writer knows; a guess that spares a request, put right by the server's answer.
    existing: Mutex<HashSet<String>>,
    /// The greatest versions that this pump wrote, by path. Whatever else is stored is of an earlier epoch.
    written: Mutex<HashMap<String, (u64, u64)>>,
    /// One call after another, so that none overtakes an earlier one of the same list.
    writing: tokio::sync::Mutex<()>,
}

impl ZooKeeperDirectory {
    pub(crate) fn new(namespace: Arc<Namespace>) -> Self {
        ZooKeeperDirectory {
            election: Election::new(namespace.clone()),
            namespace,
            existing: Mutex::default(),
            written: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Writes the lists of one batch together, if the term's epoch still stands.
    async fn write_batch(&self, tenure: Tenure, batch: Vec<Encoded>) -> Result<(), StoreError> {
        let epoch_path = self.election.epoch_path();
        // Each round puts right one wrong guess about a node's existence.
        for _ in 0..=batch.len() {
            let existing: Vec<bool> = {
                let known = self.existing.lock();
                batch.iter().map(|list| known.contains(&list.path)).collect()
            };
            let written = self.namespace.session.run(&batch[0].path, async |client| {
                let mut writer = client.new_multi_writer();
                writer.add_check_version(&epoch_path, tenure.version)?;
                for (list, exists) in batch.iter().zip(&existing) {
                    if *exists {
                        writer.add_set_data(&list.path, &list.data, None)?;
                    } else {
                        writer.add_create(&list.path, &list.data, &PERSISTENT)?;
                    }
                }
                match writer.commit().await {
                    Err(MultiWriteError::RequestFailed { source }) => Err(source),
                    outcome => Ok(outcome.map(drop)),
                }
            });
            match written.await? {
                Ok(()) => {
                    self.existing
                        .lock()
                        .extend(batch.iter().map(|list| list.path.clone()));
                    self.written
                        .lock()
                        .extend(batch.into_iter().map(|list| (list.path, list.version)));
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

    /// Prepares a list, unless it is not valid or older than what is stored.
    fn encode(&self, list: &ServiceList, tenure: Tenure) -> Result<Encoded, StoreError> {
        limits::check_list(list)?;
        check_node_name(&list.service)?;
        let path = self.namespace.path(&list_tail(&list.service));
        let version = list.version.as_ref().map_or((0, 0), ListVersion::order);
        let stored = self
            .written
            .lock()
            .get(&path)
            .copied()
            .unwrap_or((tenure.epoch, 0));
        if version < stored {
            return Err(StoreError::Stale {
                key: list.service.clone(),
                reason: format!("version {stored:?} is stored or its epoch begun, {version:?} was offered"),
            });
        }
        let data = codec::encode(&list.service, list)?;
        Ok(Encoded { path, data, version })
    }

    fn correct_guess(&self, path: &str, error: Error) -> Result<(), StoreError> {
        match error {
            Error::NodeExists => drop(self.existing.lock().insert(path.to_owned())),
            Error::NoNode => drop(self.existing.lock().remove(path)),
            error => return Err(self.namespace.session.store_error(path, error)),
        }
        Ok(())
    }
}

#[async_trait]
impl Directory for ZooKeeperDirectory {
    fn watch(&self, service: &str) -> Watch<ServiceList> {
        if let Err(error) = check_node_name(service) {
            tracing::warn!(%error, "watching a service that cannot exist");
        }
        let service = service.to_owned();
        let tail = list_tail(&service);
        watch_node(
            self.namespace.clone(),
            &tail,
            Box::new(move |data| decode_list(&service, data)),
        )
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        let mut services = self.namespace.children("directory").await?;
        services.sort();
        Ok(services)
    }
}

#[async_trait]
impl DirectoryWriter for ZooKeeperDirectory {
    async fn lead(&self, pump: &str, least_epoch: u64) -> Result<Term, StoreError> {
        let term = self.election.lead(pump, least_epoch).await?;
        let services = self.namespace.children("directory").await.unwrap_or_default();
        *self.existing.lock() = services
            .iter()
            .map(|service| self.namespace.path(&list_tail(service)))
            .collect();
        Ok(term)
    }

    async fn lists(&self) -> Result<Vec<ServiceList>, StoreError> {
        let services = self.namespace.children("directory").await?;
        let tails = services.iter().map(|service| list_tail(service)).collect();
        let mut lists = Vec::with_capacity(services.len());
        for (tail, data) in self.namespace.read_all(tails).await? {
            match decode_list(tail.trim_start_matches("directory/"), &data) {
                Ok(list) => lists.push(list),
                Err(error) => tracing::warn!(%error, "left out a stored list"),
            }
        }
        Ok(lists)
    }

    async fn write(&self, term: &Term, lists: &[ServiceList]) -> Result<(), StoreError> {
        let Some(tenure) = self.election.tenure(term) else {
            return Err(StoreError::Fenced { epoch: term.epoch });
        };
        let _writing = self.writing.lock().await;
        // A list that cannot be stored keeps no other from being written.
        let mut refused = None;
        let mut encoded = Vec::with_capacity(lists.len());
        for list in lists {
            match self.encode(list, tenure) {
                Ok(list) => encoded.push(list),
                Err(error) => refused = Some(error),
            }
        }
        let mut writes = stream::iter(batches(encoded))
            .map(|batch| self.write_batch(tenure, batch))
            .buffer_unordered(BATCHES_IN_FLIGHT);
        while let Some(written) = writes.next().await {
            match written {
                // Nothing of this term can be written any more.
                Err(fenced @ StoreError::Fenced { .. }) => return Err(fenced),
                Err(error) => refused = Some(error),
                Ok(()) => {}
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

/// A list as it is stored.
#[derive(Debug, Clone)]
struct Encoded {
    path: String,
    data: Vec<u8>,
    version: (u64, u64),
}

fn batches(lists: Vec<Encoded>) -> Vec<Vec<Encoded>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut size = 0;
    for list in lists {
        let cost = list.path.len() + list.data.len() + LIST_OVERHEAD;
        if !batch.is_empty() && (size + cost > MAX_BATCH || batch.len() == MAX_BATCH_LISTS) {
            batches.push(std::mem::take(&mut batch));
            size = 0;
        }
        size += cost;
        batch.push(list);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn list_tail(service: &str) -> String {
    format!("directory/{service}")
}

fn decode_list(service: &str, data: &[u8]) -> Result<ServiceList, StoreError> {
    let list: ServiceList = codec::decode(service, data)?;
    limits::check_list(&list)?;
    if list.service != service {
        return Err(StoreError::Invalid {
            key: service.to_owned(),
            reason: format!("it holds the list of `{}`", list.service),
        });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_under_both_limits_and_lose_nothing() {
        let list = |n: usize, size| Encoded {
            path: format!("/{n}"),
            data: vec![0; size],
            version: (1, 1),
        };
        for (count, size, least) in [
            (0, 10, 0),
            (1, 500_000, 1),
            (5, 400_000, 3),
            (200, 10, 4),
            (100, 20_000, 3),
        ] {
            let batches = batches((0..count).map(|n| list(n, size)).collect());
            assert!(
                batches.len() >= least,
                "{count} × {size}: {} batches",
                batches.len()
            );
            let paths: Vec<String> = batches.iter().flatten().map(|list| list.path.clone()).collect();
            assert_eq!(paths, (0..count).map(|n| format!("/{n}")).collect::<Vec<_>>());
            for batch in &batches {
                assert!(
                    batch
                        .iter()
                        .map(|list| list.data.len() + LIST_OVERHEAD)
                        .sum::<usize>()
                        < MAX_BATCH
                );
                assert!(!batch.is_empty() && batch.len() <= MAX_BATCH_LISTS);
            }
        }
    }
}
