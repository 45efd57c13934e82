//! How full an instance is, for the reports that go back to its consumers.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::limits::PoolLimits;

/// What the application says of itself, beside what the pool shows.
#[derive(Debug, Default)]
pub(super) struct LoadMeter {
    /// Bits of an `f32`.
    application: AtomicU32,
}

impl LoadMeter {
    pub(super) fn set_application(&self, utilization: f32) {
        self.application.store(utilization.to_bits(), Relaxed);
    }

    /// How full the pool is, or what the application says where that is more.
    pub(super) fn utilization(&self, pool: &PoolLimits) -> f32 {
        let own = f32::from_bits(self.application.load(Relaxed));
        own.max(pool.utilization())
    }
}
