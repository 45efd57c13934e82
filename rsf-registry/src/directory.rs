//! The directory: service → instances lists that the pump writes and consumers watch.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::record::ServiceList;
use crate::{StoreError, Watch};

/// Where consumers watch lists.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Watches one list by its service key. Returns at once; the first state arrives when it has been read.
    fn watch(&self, service: &str) -> Watch<ServiceList>;

    /// The keys of all services that have a list, sorted.
    async fn services(&self) -> Result<Vec<String>, StoreError>;
}

/// Where the leading pump writes lists.
#[async_trait]
pub trait DirectoryWriter: Send + Sync + 'static {
    /// Waits until `pump` leads and returns its term, whose epoch is the greatest of the stored epoch + 1,
    /// `least_epoch` and the Unix seconds. One pump has one term: leading again under the same name ends its former.
    async fn lead(&self, pump: &str, least_epoch: u64) -> Result<Term, StoreError>;

    /// Every list as it is stored; invalid ones are left out and reported in the log.
    async fn lists(&self) -> Result<Vec<ServiceList>, StoreError>;

    /// Writes lists, each whole or not at all. [`StoreError::Fenced`] once another term has begun.
    async fn write(&self, term: &Term, lists: &[ServiceList]) -> Result<(), StoreError>;
}

/// The time in which one pump leads.
#[derive(Debug, Clone)]
pub struct Term {
    /// Greater than that of every earlier term; the first half of each list's version.
    pub epoch: u64,
    /// Cancelled when the leadership is lost or in doubt; a leader that cancels it resigns. Writes are fenced
    /// regardless.
    pub lost: CancellationToken,
}
