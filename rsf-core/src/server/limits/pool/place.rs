//! A running call's place in the pool.

use std::sync::Arc;
use std::sync::atomic::Ordering;

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
    pub(super) finished: bool,
}

impl PoolPlace {
    /// The handler has returned, and was not dropped: its time counts.
    pub(in crate::server) fn finished(&mut self) {
        if let Some(timed) = &mut self.timed {
            timed.finished = true;
        }
    }
}

impl Timed {
    fn count(&self, pool: &Arc<PoolLimits>) {
        let took = self.begun.elapsed();
        // A handler that was dropped says only that it takes at least that long.
        if !self.finished && took < self.method.handling.get() {
            return;
        }
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
            timed.count(&self.pool);
        }
        self.shares.end_to_run();
        // AcqRel: whoever begins to wait after this sees the share's place free, and whoever did before is seen here.
        if waiting(self.pool.counts.fetch_sub(1, Ordering::AcqRel)) > 0 {
            self.pool.serve_waiting();
        }
    }
}
