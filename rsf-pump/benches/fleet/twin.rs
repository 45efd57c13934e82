//! A lease source and a directory that cost as little as they can.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use parking_lot::Mutex;
use rsf_registry::directory::SealedList;
use rsf_registry::lease::LiveLease;
use rsf_registry::{DirectoryWriter, Hint, LeaseSource, StoreError, Sweep, Term};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::fleet::{Fleet, LEASES};
use crate::process::Spent;

const REMAINING: Duration = Duration::from_secs(30);
const PAGE: usize = 1_000;

/// All leases of the fleet, made up anew whenever they are asked for.
pub(crate) struct Source {
    fleet: Arc<Fleet>,
    /// Sequences that are not 1.
    sequences: Mutex<HashMap<usize, u64>>,
    hints: Mutex<Option<mpsc::UnboundedSender<Hint>>>,
    reads: AtomicU64,
    read_nanos: AtomicU64,
    changed: AtomicU64,
}

impl Source {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Source {
        Source {
            fleet,
            sequences: Mutex::default(),
            hints: Mutex::default(),
            reads: AtomicU64::new(0),
            read_nanos: AtomicU64::new(0),
            changed: AtomicU64::new(0),
        }
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Makes up all leases and forgets them.
    pub(crate) async fn make_up(&self) {
        for first in (0..LEASES).step_by(PAGE) {
            std::hint::black_box(self.page(first));
            tokio::task::yield_now().await;
        }
    }

    fn page(&self, first: usize) -> Vec<LiveLease> {
        (first..(first + PAGE).min(LEASES))
            .map(|index| self.live(index))
            .collect()
    }

    fn live(&self, index: usize) -> LiveLease {
        let sequence = self.sequences.lock().get(&index).copied().unwrap_or(1);
        LiveLease {
            lease: self.fleet.lease(index, sequence),
            remaining: REMAINING,
        }
    }

    pub(crate) fn hint(&self, hint: Hint) {
        if let Some(hints) = &*self.hints.lock() {
            // A pump that ended listens no more.
            let _ = hints.send(hint);
        }
    }

    /// Gives `count` instances another weight, and says so. Answers how many lists that touches.
    pub(crate) fn change(&self, count: usize) -> u64 {
        let round = usize::try_from(self.changed.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
        let mut services = BTreeSet::new();
        for number in 0..count {
            let index = (number * (LEASES / count) + round * 7_919) % LEASES;
            *self.sequences.lock().entry(index).or_insert(1) += 1;
            services.extend(self.fleet.services_of(index));
            self.hint(Hint::Changed(self.fleet.name(index)));
        }
        services.len() as u64
    }

    /// How many leases were read by name.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// How long making those up took.
    pub(crate) fn read_time(&self) -> Duration {
        Duration::from_nanos(self.read_nanos.load(Ordering::Relaxed))
    }

    pub(crate) async fn until_read(&self, count: u64, limit: Duration) -> Result<(), String> {
        let reached = async {
            while self.reads() < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(limit, reached)
            .await
            .map_err(|_| format!("{count} reads: not within {limit:?}"))
    }
}

#[async_trait]
impl LeaseSource for Source {
    fn name(&self) -> &str {
        "fleet"
    }

    async fn sweep(&self) -> Result<Sweep, StoreError> {
        let mut leases = Vec::new();
        for first in (0..LEASES).step_by(PAGE) {
            leases.extend(self.page(first));
            tokio::task::yield_now().await;
        }
        Ok(Sweep {
            source: "fleet".into(),
            leases,
        })
    }

    async fn sweep_into(&self, pages: mpsc::Sender<Vec<LiveLease>>) -> Result<String, StoreError> {
        for first in (0..LEASES).step_by(PAGE) {
            if pages.send(self.page(first)).await.is_err() {
                break;
            }
        }
        Ok("fleet".into())
    }

    async fn read(&self, instances: &[String]) -> Result<Vec<Option<LiveLease>>, StoreError> {
        let spent = Spent::now().ok();
        let read = |name: &String| self.fleet.number(name).map(|index| self.live(index));
        let leases = instances.iter().map(read).collect();
        let spent = spent.and_then(|spent| spent.since().ok()).unwrap_or_default();
        self.read_nanos
            .fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(0), Ordering::Relaxed);
        self.reads.fetch_add(instances.len() as u64, Ordering::Relaxed);
        Ok(leases)
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.hints.lock() = Some(sender);
        let next = |mut receiver: mpsc::UnboundedReceiver<Hint>| async move {
            receiver.recv().await.map(|hint| (hint, receiver))
        };
        Ok(stream::unfold(receiver, next).boxed())
    }
}

/// An empty directory that takes everything and keeps nothing.
#[derive(Default)]
pub(crate) struct Discard {
    bytes: AtomicU64,
}

impl Discard {
    /// What was written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl DirectoryWriter for Discard {
    async fn lead(&self, _pump: &str, least_epoch: u64) -> Result<Term, StoreError> {
        Ok(Term {
            epoch: least_epoch.max(1),
            lost: CancellationToken::new(),
        })
    }

    async fn stored(&self) -> Result<Vec<SealedList>, StoreError> {
        Ok(Vec::new())
    }

    async fn store(&self, _term: &Term, lists: &[SealedList]) -> Result<(), StoreError> {
        let of = |list: &SealedList| {
            let shards: usize = list.shards.values().map(|shard| shard.len()).sum();
            (list.head.len() + shards) as u64
        };
        self.bytes
            .fetch_add(lists.iter().map(of).sum(), Ordering::Relaxed);
        Ok(())
    }
}
