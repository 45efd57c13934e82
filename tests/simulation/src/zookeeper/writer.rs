//! The pump's side: election, epoch, and writes that the epoch fences; step by step as RSF's own client of ZooKeeper.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rsf_registry::directory::SealedList;
use rsf_registry::{DirectoryWriter, StoreError, Term, world};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::link::unavailable;
use super::server::State;
use super::{Link, ZooKeeper};

/// How many lists one `multi` carries.
const BATCH: usize = 2;

/// The ensemble as one process uses it.
#[derive(Debug)]
pub(crate) struct ZooKeeperClient {
    pub(super) zookeeper: Arc<ZooKeeper>,
    pub(super) link: Arc<Link>,
    tenure: Mutex<Option<Tenure>>,
    /// The greatest versions that this client wrote.
    written: Mutex<BTreeMap<String, (u64, u64)>>,
}

#[derive(Debug, Clone)]
struct Tenure {
    epoch: u64,
    /// The version of the epoch node that this term wrote.
    version: i32,
    lost: CancellationToken,
}

impl ZooKeeperClient {
    pub(crate) fn new(zookeeper: Arc<ZooKeeper>, link: Arc<Link>) -> Self {
        ZooKeeperClient {
            zookeeper,
            link,
            tenure: Mutex::new(None),
            written: Mutex::default(),
        }
    }

    fn end_term(&self) {
        if let Some(former) = self.tenure.lock().take() {
            former.lost.cancel();
        }
    }

    /// Stands for election and waits to be the oldest candidate; `None` where the candidate is gone meanwhile.
    async fn stand(&self) -> Result<Option<u64>, StoreError> {
        let number = self.link.connected(&self.zookeeper).await;
        let link = self.link.clone();
        let stood = self.link.ask(&self.zookeeper, move |_, state| {
            let session = link.session().ok_or_else(|| unavailable("no session"))?;
            state.candidates.retain(|_, of| *of != session);
            state.stood += 1;
            state.candidates.insert(state.stood, session);
            Ok(state.stood)
        });
        let candidate = stood.await?;
        loop {
            let changed = self.zookeeper.changed.notified();
            self.link.process.running().await;
            {
                let state = self.zookeeper.state.lock();
                if !state.candidates.contains_key(&candidate) || self.link.number() != Some(number) {
                    return Ok(None);
                }
                if state.leads(candidate) {
                    return Ok(Some(candidate));
                }
            }
            changed.await;
        }
    }

    /// Writes the next epoch, unless another was faster.
    async fn begin_epoch(&self, candidate: u64, least: u64) -> Result<Option<(u64, i32)>, StoreError> {
        let read = self.link.ask(&self.zookeeper, |_, state| Ok(state.epoch));
        let stored = read.await?;
        let written = self.link.ask(&self.zookeeper, move |zookeeper, state| {
            if state.epoch != stored || !state.leads(candidate) {
                return Ok(None);
            }
            let next = stored.map_or(0, |(epoch, _)| epoch) + 1;
            let epoch = if zookeeper.epochs_rise {
                next.max(least).max(world::unix_now().as_secs())
            } else {
                next
            };
            // A new node's version is 0, as after a wipe.
            let version = stored.map_or(0, |(_, version)| version) + 1;
            state.epoch = Some((epoch, version));
            zookeeper.judge.epoch_begins(epoch);
            Ok(state.epoch)
        });
        written.await
    }

    /// Ends the term as soon as its leadership is in doubt.
    async fn watch_term(
        zookeeper: Arc<ZooKeeper>,
        link: Arc<Link>,
        tenure: Tenure,
        candidate: u64,
        number: u64,
    ) {
        let overtaken = async {
            loop {
                let changed = zookeeper.changed.notified();
                let stands = {
                    let state = zookeeper.state.lock();
                    let own = state.epoch.is_some_and(|(_, version)| version == tenure.version);
                    own && state.candidates.contains_key(&candidate)
                };
                if !stands {
                    break;
                }
                changed.await;
            }
            // The watch that tells of it may be late.
            let late = if zookeeper.chance.happens(70) { 5 } else { 2_000 };
            sleep(zookeeper.chance.millis(0, late)).await;
        };
        tokio::select! {
            biased;
            () = tenure.lost.cancelled() => {}
            () = link.moved_on(&zookeeper, number) => {}
            () = overtaken => {}
        }
        // A process that stands still or is dead notices nothing and withdraws nothing.
        link.process.running().await;
        tenure.lost.cancel();
        let withdrawal = link.ask(&zookeeper, move |_, state| {
            state.candidates.remove(&candidate);
            Ok(())
        });
        // What cannot be withdrawn goes with the session.
        drop(withdrawal.await);
    }

    async fn write_batch(&self, tenure: &Tenure, lists: Vec<SealedList>) -> Result<(), StoreError> {
        let (epoch, version) = (tenure.epoch, tenure.version);
        let batch = lists.clone();
        let writer = self.link.process.start_of();
        let write = self.link.ask(
            &self.zookeeper,
            move |zookeeper: &ZooKeeper, state: &mut State| {
                let stands = state.epoch.is_some_and(|(_, stored)| stored == version);
                if !stands && zookeeper.fenced {
                    return Err(StoreError::Fenced { epoch });
                }
                for list in batch {
                    zookeeper.write(state, &writer, list);
                }
                Ok(())
            },
        );
        write.await?;
        let versions = lists.into_iter().map(|list| (list.service, list.version));
        self.written.lock().extend(versions);
        Ok(())
    }

    fn check(&self, list: &SealedList, tenure: &Tenure) -> Result<(), StoreError> {
        let written = self.written.lock().get(&list.service).copied();
        let stored = written.unwrap_or((tenure.epoch, 0));
        if list.version < stored && self.zookeeper.fenced {
            return Err(StoreError::Stale {
                key: list.service.clone(),
                reason: format!("version {stored:?} is stored, {:?} was offered", list.version),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl DirectoryWriter for ZooKeeperClient {
    async fn lead(&self, _pump: &str, least_epoch: u64) -> Result<Term, StoreError> {
        self.end_term();
        loop {
            let number = self.link.connected(&self.zookeeper).await;
            let begun = match self.stand().await {
                Ok(Some(candidate)) => self
                    .begin_epoch(candidate, least_epoch)
                    .await
                    .map(|begun| begun.map(|begun| (candidate, begun))),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            };
            match begun {
                Ok(Some((candidate, (epoch, version)))) => {
                    let lost = CancellationToken::new();
                    let tenure = Tenure {
                        epoch,
                        version,
                        lost: lost.clone(),
                    };
                    *self.tenure.lock() = Some(tenure.clone());
                    let (zookeeper, link) = (self.zookeeper.clone(), self.link.clone());
                    tokio::spawn(Self::watch_term(zookeeper, link, tenure, candidate, number));
                    return Ok(Term { epoch, lost });
                }
                Ok(None) => sleep(self.zookeeper.chance.millis(0, 20)).await,
                Err(error) if error.is_transient() => sleep(self.zookeeper.chance.millis(50, 2_000)).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn stored(&self) -> Result<Vec<SealedList>, StoreError> {
        self.link
            .ask(&self.zookeeper, |_, state| {
                Ok(state.sealed.values().cloned().collect())
            })
            .await
    }

    async fn store(&self, term: &Term, lists: &[SealedList]) -> Result<(), StoreError> {
        let tenure = self
            .tenure
            .lock()
            .clone()
            .filter(|tenure| tenure.epoch == term.epoch);
        let Some(tenure) = tenure else {
            return Err(StoreError::Fenced { epoch: term.epoch });
        };
        let mut refused = None;
        let mut good = Vec::with_capacity(lists.len());
        for list in lists {
            match self.check(list, &tenure) {
                Ok(()) => good.push(list.clone()),
                Err(error) => refused = Some(error),
            }
        }
        for batch in good.chunks(BATCH) {
            match self.write_batch(&tenure, batch.to_vec()).await {
                Err(fenced @ StoreError::Fenced { .. }) => return Err(fenced),
                Err(error) => refused = Some(error),
                Ok(()) => {}
            }
        }
        refused.map_or(Ok(()), Err)
    }
}
