//! A running call's place in the pool.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::MethodLimits;
use super::super::groups::Shares;
use super::PoolLimits;

/// A running call's place in the pool; free again on drop.
pub(in crate::server) struct PoolPlace {
    pub(super) pool: Arc<PoolLimits>,
    pub(super) shares: Shares,
    pub(super) timed: Option<Timed>,
}

pub(super) struct Timed {
    pub(super) method: Arc<MethodLimits>,
    pub(super) begun: Instant,
}

impl PoolPlace {
    /// The handler has returned, and was not dropped: its time counts.
    pub(in crate::server) fn finished(&mut self, at: Instant) {
        if let Some(Timed { method, begun }) = self.timed.take() {
            self.pool
                .timed(&method, at.saturating_duration_since(begun), true);
        }
    }
}

impl Drop for PoolPlace {
    fn drop(&mut self) {
        if let Some(Timed { method, begun }) = &self.timed {
            self.pool.timed(method, begun.elapsed(), false);
        }
        self.shares.end_to_run();
        self.pool.leave();
    }
}
