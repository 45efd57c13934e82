//! The metrics of the provider's limits.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};

use super::durations::bounds;
use crate::outcome::Reason;

/// Refusals of all methods.
#[derive(Clone)]
pub(crate) struct RefusalCounters(pub(super) IntCounterVec);

impl RefusalCounters {
    pub(crate) fn of(&self, service: &str, method: &str) -> RefusalMetrics {
        let name = format!("{service}/{method}");
        let counter = |reason: Reason| self.0.with_label_values(&[&*name, reason.name()]);
        RefusalMetrics {
            provider_limit: counter(Reason::ProviderLimit),
            queue_full: counter(Reason::QueueFull),
            queue_timeout: counter(Reason::QueueTimeout),
        }
    }
}

/// One method's refusals.
pub(crate) struct RefusalMetrics {
    provider_limit: IntCounter,
    queue_full: IntCounter,
    queue_timeout: IntCounter,
}

impl RefusalMetrics {
    pub(crate) fn count(&self, reason: Reason) {
        match reason {
            Reason::ProviderLimit => self.provider_limit.inc(),
            Reason::QueueFull => self.queue_full.inc(),
            _ => self.queue_timeout.inc(),
        }
    }

    #[cfg(test)]
    pub(crate) fn unregistered() -> Self {
        let counter = |name| IntCounter::new(name, "for a test").unwrap();
        RefusalMetrics {
            provider_limit: counter("provider_limit"),
            queue_full: counter("queue_full"),
            queue_timeout: counter("queue_timeout"),
        }
    }
}

/// A pool at this moment.
pub(crate) struct PoolNow {
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    pub(crate) size: usize,
}

type Look = Box<dyn Fn() -> Option<PoolNow> + Send + Sync>;

/// The pool's metrics. What it counts anyway is read when somebody asks, so that calls do not pay for it.
#[derive(Clone)]
pub(crate) struct PoolMetrics {
    /// Of the calls that got a place after all.
    pub(crate) wait: Histogram,
    running: IntGauge,
    waiting: IntGauge,
    size: IntGauge,
    pools: Arc<Mutex<Vec<Look>>>,
}

impl PoolMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let wait = HistogramOpts::new(
            "rsf_server_queue_wait_seconds",
            "How long calls waited that got a place in the pool",
        );
        let metrics = PoolMetrics {
            wait: Histogram::with_opts(wait.buckets(bounds()))?,
            running: IntGauge::new("rsf_server_pool_running", "Calls that have a place in the pool")?,
            waiting: IntGauge::new(
                "rsf_server_pool_waiting",
                "Calls that wait for a place in the pool",
            )?,
            size: IntGauge::new(
                "rsf_server_pool_size",
                "Places of the pool: policy's, or the learned limit",
            )?,
            pools: Arc::default(),
        };
        registry.register(Box::new(metrics.wait.clone()))?;
        registry.register(Box::new(metrics.clone()))?;
        Ok(metrics)
    }

    /// Shows a pool for as long as `look` finds one.
    pub(crate) fn show(&self, look: impl Fn() -> Option<PoolNow> + Send + Sync + 'static) {
        self.pools.lock().push(Box::new(look));
    }

    fn gauges(&self) -> [&IntGauge; 3] {
        [&self.running, &self.waiting, &self.size]
    }
}

impl Collector for PoolMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut sums = [0; 3];
        self.pools.lock().retain(|look| {
            let now = look();
            if let Some(now) = &now {
                for (sum, value) in sums.iter_mut().zip([now.running, now.waiting, now.size]) {
                    *sum += value as i64;
                }
            }
            now.is_some()
        });
        self.gauges()
            .into_iter()
            .zip(sums)
            .flat_map(|(gauge, sum)| {
                gauge.set(sum);
                gauge.collect()
            })
            .collect()
    }
}
