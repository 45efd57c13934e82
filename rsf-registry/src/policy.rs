//! Live policy: published by the console, watched by every instance, acknowledged by each.

use std::time::Duration;

use async_trait::async_trait;

use crate::record::{Acknowledgement, PolicyRecord};
use crate::{StoreError, Watch};

/// Where instances watch the current policies.
#[async_trait]
pub trait PolicyStore: Send + Sync + 'static {
    /// Watches the policy of one scope. Returns at once; the first state arrives when it has been read.
    fn watch(&self, scope: &str) -> Watch<PolicyRecord>;

    /// Every current record, deleted scopes included as empty documents.
    async fn current(&self) -> Result<Vec<PolicyRecord>, StoreError>;
}

/// Where the console, and nobody else, publishes policies; instances hold no way to do it.
#[async_trait]
pub trait PolicyWriter: PolicyStore {
    /// Publishes a revision: document and revision together or not at all. [`StoreError::Stale`] where an equal or
    /// greater revision of the scope is stored with another document; publishing the same again is no error.
    async fn publish(&self, record: &PolicyRecord) -> Result<(), StoreError>;
}

/// Where instances say which revision they run. The pump ignores it.
#[async_trait]
pub trait Acknowledgements: Send + Sync + 'static {
    /// Writes the acknowledgements of one instance, each replacing its last one of the same scope, alive for `ttl`.
    async fn acknowledge(
        &self,
        acknowledgements: &[Acknowledgement],
        ttl: Duration,
    ) -> Result<(), StoreError>;

    /// All live acknowledgements of one scope.
    async fn acknowledged(&self, scope: &str) -> Result<Vec<Acknowledgement>, StoreError>;

    /// Whether they are lost with the leases and not before, so that an instance need not repeat them before it has to write
    /// its lease anew. `false` where nothing is known.
    fn lost_with_leases(&self) -> bool {
        false
    }
}
