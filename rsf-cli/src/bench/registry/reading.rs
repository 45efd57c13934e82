//! What all servers have counted at one moment, and what lies between two.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Bench;
use crate::Failure;
use crate::bench::percentiles;
use crate::bench::servers::{PumpProcess, load_average, processor_time, redis_cpu, zookeeper_transactions};

/// Counters of all servers at one moment.
pub(super) struct Reading {
    pub(super) at: Instant,
    load: f64,
    pump_cpu: f64,
    fleet_cpu: f64,
    redis_cpu: Option<f64>,
    transactions: Option<u64>,
    lists_written: u64,
    removed: Value,
    renewed: u64,
    unknown: u64,
    failed: u64,
    /// How long renewals took since the reading before.
    renewals: Value,
}

impl Bench<'_> {
    pub(super) async fn read(&self, pump: &PumpProcess) -> Result<Reading, Failure> {
        let status = pump.status().await?;
        let counts = &self.leases.counts;
        Ok(Reading {
            at: Instant::now(),
            load: load_average()?,
            pump_cpu: pump.cpu()?,
            fleet_cpu: processor_time(std::process::id())?,
            redis_cpu: redis_cpu(&self.url).await,
            transactions: zookeeper_transactions(&self.url).await,
            lists_written: status["counters"]["lists_written"].as_u64().unwrap_or_default(),
            removed: status["counters"]["removed"].clone(),
            renewed: counts.renewed.load(Ordering::Relaxed),
            unknown: counts.unknown.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            renewals: percentiles(counts.took()),
        })
    }
}

/// What lies between two readings, with so many changes of leases.
pub(super) fn figures(before: &Reading, after: &Reading, events: u64) -> Value {
    let time = (after.at - before.at).as_secs_f64();
    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    let cores = |before: f64, after: f64| rounded((after - before) / time);
    let redis = before
        .redis_cpu
        .zip(after.redis_cpu)
        .map(|(before, after)| cores(before, after));
    let written = before.transactions.zip(after.transactions);
    json!({
        "seconds": rounded(time),
        "load_average": [before.load, after.load],
        "renewals_per_s": rounded((after.renewed - before.renewed) as f64 / time),
        "renewals_unknown": after.unknown - before.unknown,
        "renewal": after.renewals,
        "requests_failed": after.failed - before.failed,
        "pump_cores": cores(before.pump_cpu, after.pump_cpu),
        "redis_cores": redis,
        "fleet_cores": cores(before.fleet_cpu, after.fleet_cpu),
        "lease_events": events,
        "lists_written": after.lists_written.saturating_sub(before.lists_written),
        "zookeeper_transactions": written.map(|(before, after)| after.saturating_sub(before)),
        "removed_before": before.removed,
        "removed_after": after.removed,
    })
}
