//! The share of a zone's instances that are well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::client::breaker::Standing;
use crate::client::endpoint::Endpoint;
use crate::moment::Moment;

/// How long it is believed.
const AGE: Duration = Duration::from_millis(20);

/// The share of a set's instances that are well, looked at now and then.
pub(super) struct Health {
    endpoints: Vec<Arc<Endpoint>>,
    /// Percent in the low byte; above it the millisecond until which it is believed.
    known: AtomicU64,
}

impl Health {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>) -> Health {
        Health {
            endpoints,
            known: AtomicU64::new(0),
        }
    }

    /// From 0 to 100; 0 of no instances.
    pub(super) fn percent(&self, now: Moment) -> u64 {
        self.known(now).0
    }

    /// The same, and the millisecond until which it is believed.
    pub(super) fn known(&self, now: Moment) -> (u64, u64) {
        let known = self.known.load(Ordering::Relaxed);
        let at = now.millis();
        if at < known >> 8 {
            return (known & 0xff, known >> 8);
        }
        let well = |endpoint: &&Arc<Endpoint>| {
            // Not connected yet says nothing bad.
            !endpoint.is_unreachable() && endpoint.breaker.standing(now) != Standing::Open
        };
        let well = self.endpoints.iter().filter(well).count();
        let percent = (well * 100 / self.endpoints.len().max(1)) as u64;
        let until = at + AGE.as_millis() as u64;
        self.known.store(until << 8 | percent, Ordering::Relaxed);
        (percent, until)
    }
}
