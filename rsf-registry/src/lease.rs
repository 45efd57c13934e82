//! Leases: what instances write about themselves, and what the pump reads.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use crate::StoreError;
use crate::record::Lease;

/// Where an instance keeps its own lease.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Writes or replaces the lease of `lease.instance`, alive for `ttl`.
    ///
    /// [`StoreError::Stale`] where a greater `(incarnation, sequence)` is stored. Deregistering is a write of state
    /// `LEASE_STATE_DEREGISTERED` with a short TTL, so that leaving is never mistaken for dying.
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError>;

    /// Lets the stored lease live for another `ttl`, without sending it again.
    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError>;
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives for another TTL.
    Renewed,
    /// The store does not know this incarnation (expired, emptied, another server): put the lease again.
    Unknown,
}

/// How many leases are in one page of a sweep, about.
pub(crate) const SWEEP_PAGE: usize = 1_000;

/// One server from which the pump reads leases of a namespace. A namespace has one or several; an instance's lease may
/// be on any of them, and for a while on two.
#[async_trait]
pub trait LeaseSource: Send + Sync + 'static {
    /// The server's name for logs, metrics and status, never with credentials (`redis-1:6379`, `embedded`). It differs
    /// between the sources of a namespace and does not change.
    fn name(&self) -> &str;

    /// Reads every lease and the source's identity. Subscribe to [`LeaseSource::hints`] first, then sweep.
    async fn sweep(&self) -> Result<Sweep, StoreError>;

    /// The same page by page, as they are read: 300 000 leases at once are most of a gigabyte. Answers the source's
    /// identity, read last. A lease may come twice, the later reading last; an end of `pages` ends the sweep.
    ///
    /// Pages that came before an error are true nevertheless; only who is missing in them means nothing.
    async fn sweep_into(&self, pages: mpsc::Sender<Vec<LiveLease>>) -> Result<String, StoreError> {
        let Sweep { source, leases } = self.sweep().await?;
        let mut leases = leases.into_iter();
        loop {
            let page: Vec<LiveLease> = leases.by_ref().take(SWEEP_PAGE).collect();
            if page.is_empty() || pages.send(page).await.is_err() {
                return Ok(source);
            }
        }
    }

    /// Reads some leases with what is left of their TTLs; `None` for one that is gone.
    ///
    /// [`StoreError::Unavailable`] where one is gone and the source is not the one that the last sweep saw: the store
    /// may have lost it, so sweep.
    async fn read(&self, instances: &[String]) -> Result<Vec<Option<LiveLease>>, StoreError>;

    /// Hints that leases changed. They may be late, doubled or lost; liveness never hangs on them.
    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError>;
}

/// A lease as the source has it now.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveLease {
    /// The record.
    pub lease: Lease,
    /// How long it still lives unless it is renewed.
    pub remaining: Duration,
}

/// All leases of one source at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// Changes whenever the source may have lost leases: a restart, a failover, an emptied store (rule R).
    pub source: String,
    /// Every lease, in no order.
    pub leases: Vec<LiveLease>,
}

/// What a lease source says between sweeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// Read this instance's lease.
    Changed(String),
    /// Hints may have been lost: sweep.
    Gap,
}
