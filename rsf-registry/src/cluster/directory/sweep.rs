//! Deletes what no head names any more, and lists that are gone.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use zookeeper_client::{Error, MultiWriteError};

use super::super::election::Tenure;
use super::super::zookeeper::namespace::check_node_name;
use super::batch::{MAX_BATCH_NODES, Written};
use super::{ZooKeeperDirectory, list_tail, shard_tail};
use crate::StoreError;

/// How long a shard stays after the head that named it was replaced: a consumer may just be reading it.
const GRACE: Duration = Duration::from_secs(10);

impl ZooKeeperDirectory {
    /// Notes lists that are written, and which shards nobody needs any more.
    pub(super) fn note(&self, lists: Vec<Written>) {
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

    /// Finds shards that no head names: those of a leader that ended within a write.
    pub(super) async fn note_leftovers(&self, named: &HashSet<String>) -> Result<(), StoreError> {
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

    /// Deletes shards that have been superseded for long enough. What cannot be deleted is tried with a later write.
    pub(super) async fn sweep_shards(&self, tenure: Tenure) {
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
            let mut there: Vec<&String> = due.iter().collect();
            while !there.is_empty() {
                // All in one request: whoever wrote lists waits for it.
                let mut writer = client.new_multi_writer();
                writer.add_check_version(&epoch_path, tenure.version)?;
                for path in &there {
                    writer.add_delete(path, None)?;
                }
                match writer.commit().await {
                    Ok(_) => break,
                    Err(MultiWriteError::OperationFailed {
                        index,
                        source: Error::NoNode,
                    }) if (1..=there.len()).contains(&index) => drop(there.remove(index - 1)),
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

    /// Deletes one list; its shards go with the next writes.
    pub(super) async fn remove_one(&self, tenure: Tenure, service: &str) -> Result<(), StoreError> {
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
}
