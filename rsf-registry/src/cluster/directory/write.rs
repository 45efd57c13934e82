//! Writes nodes in fenced requests, a list's shards never after its head.

use futures_util::{StreamExt, stream};
use zookeeper_client::{Error, MultiWriteError};

use super::super::election::Tenure;
use super::batch::{Batch, MAX_BATCH, Node, Written, batches, cost};
use super::{ZooKeeperDirectory, list_tail, shard_tail};
use crate::StoreError;
use crate::directory::SealedList;

/// How many `multi`s are in flight at once.
const BATCHES_IN_FLIGHT: usize = 16;

impl ZooKeeperDirectory {
    /// Writes groups of nodes, each group in one request. After a failure the rest is still written.
    pub(super) async fn write_all(&self, tenure: Tenure, groups: Vec<Batch>) -> Result<(), StoreError> {
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

    /// Writes shards that do not fit beside their head ahead of it; nobody sees them yet. Groups whose shards could not be
    /// written are taken out of `groups`, of the others the head is left.
    pub(super) async fn write_ahead(
        &self,
        tenure: Tenure,
        groups: &mut Vec<Batch>,
    ) -> Result<Option<StoreError>, StoreError> {
        let mut failed = None;
        for mut group in std::mem::take(groups) {
            if cost(&group.nodes) > MAX_BATCH {
                let head = group.nodes.pop();
                let alone = |node| Batch {
                    nodes: vec![node],
                    lists: Vec::new(),
                };
                let shards = group.nodes.drain(..).map(alone).collect();
                if let Err(error) = self.write_all(tenure, shards).await {
                    if matches!(error, StoreError::Fenced { .. }) {
                        return Err(error);
                    }
                    failed = Some(error);
                    continue;
                }
                group.nodes.extend(head);
            }
            groups.push(group);
        }
        Ok(failed)
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

    fn correct_guess(&self, path: &str, error: Error) -> Result<(), StoreError> {
        match error {
            Error::NodeExists => drop(self.known.lock().existing.insert(path.to_owned())),
            Error::NoNode => drop(self.known.lock().existing.remove(path)),
            error => return Err(self.namespace.session.store_error(path, error)),
        }
        Ok(())
    }

    /// What is written together so that the list is never seen in halves: its new shards, and last its head.
    pub(super) fn group(&self, list: &SealedList) -> Batch {
        Batch {
            nodes: self.nodes(list),
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
}
