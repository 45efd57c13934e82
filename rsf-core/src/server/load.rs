//! How full an instance is, for the reports that go back to its consumers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Calls under way, and what the application says of itself.
#[derive(Debug, Default)]
pub(super) struct LoadMeter {
    under_way: AtomicU32,
    /// Bits of an `f32`.
    application: AtomicU32,
}

impl LoadMeter {
    pub(super) fn enter(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Relaxed);
        UnderWay(self.clone())
    }

    pub(super) fn set_application(&self, utilization: f32) {
        self.application.store(utilization.to_bits(), Relaxed);
    }

    /// Running and waiting calls over the pool's size, or what the application says where that is more.
    pub(super) fn utilization(&self, pool: u32) -> f32 {
        let own = f32::from_bits(self.application.load(Relaxed));
        own.max(self.under_way.load(Relaxed) as f32 / pool.max(1) as f32)
    }
}

/// A call that is under way until this is dropped.
pub(super) struct UnderWay(Arc<LoadMeter>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}
