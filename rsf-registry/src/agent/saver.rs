//! Brings good lists and policies to the disk, behind the back of those who use them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::record::{PolicyRecord, ServiceList};
use crate::snapshot::{Kind, SnapshotFolder, encode};
use crate::world;

/// The pause between two rounds: a list that changes all the time is written once in it.
const ROUND: Duration = Duration::from_millis(500);
/// The pause after a round in which something could not be saved.
const RETRY: Duration = Duration::from_secs(5);

/// A record that is to be saved.
#[derive(Debug, Clone)]
pub(super) enum Record {
    List(Arc<ServiceList>),
    Policy(Arc<PolicyRecord>),
}

impl Record {
    pub(super) fn key(&self) -> (Kind, String) {
        match self {
            Record::List(list) => (Kind::List, list.service.clone()),
            Record::Policy(policy) => (Kind::Policy, policy.scope.clone()),
        }
    }

    /// As a snapshot's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Record::List(list) => encode(&**list),
            Record::Policy(policy) => encode(&**policy),
        }
    }
}

/// Saves the newest record of each key; older ones that still wait are passed over.
#[derive(Debug)]
pub(super) struct Saver {
    waiting: Arc<Waiting>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Mutex<HashMap<(Kind, String), Record>>,
    more: Notify,
}

impl Saver {
    pub(super) fn start(folder: SnapshotFolder) -> Self {
        let waiting = Arc::new(Waiting::default());
        let task = tokio::spawn(run(waiting.clone(), folder));
        Saver {
            waiting,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn save(&self, record: Record) {
        self.waiting.records.lock().insert(record.key(), record);
        self.waiting.more.notify_one();
    }
}

async fn run(waiting: Arc<Waiting>, folder: SnapshotFolder) {
    let mut failing = false;
    let tidied = folder.clone();
    if world::blocking(move || tidied.tidy()).await.is_err() {
        return;
    }
    loop {
        waiting.more.notified().await;
        let records = std::mem::take(&mut *waiting.records.lock());
        let folder = folder.clone();
        let saved = world::blocking(move || {
            let save = |record: &Record| match record {
                Record::List(list) => folder.save(&**list),
                Record::Policy(policy) => folder.save(&**policy),
            };
            let mut last = None;
            let unsaved = records.into_iter().filter(|(_, record)| match save(record) {
                Ok(()) => false,
                Err(error) => {
                    last = Some(error);
                    true
                }
            });
            (unsaved.collect::<Vec<_>>(), last)
        });
        // A join error means that the runtime ends.
        let Ok((unsaved, error)) = saved.await else { return };
        if let Some(error) = &error
            && !failing
        {
            let error = super::described(error);
            tracing::warn!(
                error,
                "snapshots cannot be saved; a restart without the registry would miss them"
            );
        }
        failing = error.is_some();
        tokio::time::sleep(if failing { RETRY } else { ROUND }).await;
        if failing {
            let mut records = waiting.records.lock();
            for (key, record) in unsaved {
                records.entry(key).or_insert(record);
            }
            waiting.more.notify_one();
        }
    }
}
