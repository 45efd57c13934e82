//! Consumers' reports: what they know, from their own connections, of instances whose registration is in doubt.

use std::time::Duration;

use async_trait::async_trait;

use crate::StoreError;
use crate::record::Report;

/// Where a consumer says what it knows of instances; it cannot read what others say.
#[async_trait]
pub trait ReportStore: Send + Sync + 'static {
    /// Writes the reports of one reporter, at most [`MAX_REPORTS`](crate::limits::MAX_REPORTS), each replacing its last one
    /// of the same instance, alive for `ttl`. Answers how many were kept.
    ///
    /// A server keeps [`MAX_REPORTERS`](crate::limits::MAX_REPORTERS) reporters of an instance: a further one is passed
    /// over, except that one which says *answers* takes the place of one that says *gone*. Who had nothing kept is
    /// not needed, and comes back later.
    async fn report(&self, reports: &[Report], ttl: Duration) -> Result<usize, StoreError>;
}

/// Where the pump reads what consumers say.
#[async_trait]
pub trait ReportSource: Send + Sync + 'static {
    /// The live reports of these instances, of any start of them, in no order. One reporter may be there twice where it
    /// has moved from server to server.
    async fn reports(&self, instances: &[String]) -> Result<Reported, StoreError>;
}

/// What consumers say of some instances.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reported {
    /// All of it that can be read.
    pub reports: Vec<Report>,
    /// How many stored reports are not what a consumer writes, and were passed over.
    pub ill_formed: usize,
}
