//! A running call's place in the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::super::MethodLimits;
use super::super::groups::Shares;
use super::{PoolLimits, running, waiting};

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
        if let Some(timed) = self.timed.take() {
            timed.count(at.saturating_duration_since(timed.begun), &self.pool);
        }
    }
}

impl Timed {
    fn count(&self, took: Duration, pool: &Arc<PoolLimits>) {
        self.method.handling.add(took);
        pool.mean.add(took);
        if pool.learning.is_enabled()
            && let Some(size) = pool
                .learning
                .add(took, running(pool.counts.load(Ordering::Relaxed)))
        {
            pool.resize(size);
        }
    }
}

impl Drop for PoolPlace {
    fn drop(&mut self) {
        if let Some(timed) = &self.timed {
            let took = timed.begun.elapsed();
            // A handler that was dropped says only that it takes at least that long.
            if took >= timed.method.handling.get() {
                timed.count(took, &self.pool);
            }
        }
        self.shares.end_to_run();
        // AcqRel: whoever begins to wait after this sees the share's place free, and whoever did before is seen here.
        if waiting(self.pool.counts.fetch_sub(1, Ordering::AcqRel)) > 0 {
            self.pool.serve_waiting();
        }
    }
}
