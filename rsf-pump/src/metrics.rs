//! The pump's metrics, `rsf_pump_*`; the counters of the status are read from them.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

/// Handles to all metrics of one pump.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) role: IntGaugeVec,
    pub(crate) epoch: IntGauge,
    pub(crate) ready: IntGauge,
    pub(crate) source_up: IntGaugeVec,
    pub(crate) distrusted: IntGaugeVec,
    pub(crate) source_leases: IntGaugeVec,
    pub(crate) services: IntGauge,
    pub(crate) leases: IntGauge,
    pub(crate) unconfirmed: IntGauge,
    pub(crate) holds: IntGauge,
    pub(crate) held: IntGauge,
    pub(crate) waiting: IntGauge,
    pub(crate) holds_begun: IntCounter,
    pub(crate) terms: IntCounter,
    pub(crate) fenced: IntCounter,
    pub(crate) hints: IntCounter,
    pub(crate) deadline_checks: IntCounter,
    pub(crate) sweeps: IntCounter,
    pub(crate) source_errors: IntCounter,
    pub(crate) discontinuities: IntCounterVec,
    pub(crate) removed: IntCounterVec,
    pub(crate) probes: IntCounterVec,
    pub(crate) evidence: IntCounterVec,
    pub(crate) lists_written: IntCounter,
    pub(crate) write_errors: IntCounter,
    pub(crate) lists_removed: IntCounter,
    pub(crate) sweep_seconds: Histogram,
    pub(crate) lag_seconds: Histogram,
}

impl Metrics {
    /// Makes the metrics and registers them; an error where the registry already has a pump's.
    pub(crate) fn register(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let r = registry;
        Ok(Metrics {
            role: vec(r, "role", "1 for the pump's current role.", "role")?,
            epoch: gauge(r, "epoch", "Epoch of the current term; 0 without one.")?,
            ready: gauge(r, "ready", "1 while the lists can be trusted.")?,
            source_up: vec(r, "source_up", "1 while the lease source answers.", "source")?,
            distrusted: vec(
                r,
                "source_distrusted",
                "1 for one TTL after a discontinuity of the source.",
                "source",
            )?,
            source_leases: vec(r, "source_leases", "Leases that the source has.", "source")?,
            services: gauge(r, "services", "Services that have or had a list.")?,
            leases: gauge(r, "leases", "Leases known, tombstones included.")?,
            unconfirmed: gauge(
                r,
                "unconfirmed",
                "Listed instances not seen since the last discontinuity.",
            )?,
            holds: gauge(r, "holds", "Services whose shrinking is held by rule R.")?,
            held: gauge(r, "held_instances", "Instances listed only because of a hold.")?,
            waiting: gauge(r, "lists_waiting", "Changed lists that are not written yet.")?,
            holds_begun: counter(r, "holds_total", "Holds begun.")?,
            terms: counter(r, "terms_total", "Terms begun.")?,
            fenced: counter(r, "fenced_total", "Terms ended by a refused write.")?,
            hints: counter(r, "hints_total", "Hints received.")?,
            deadline_checks: counter(
                r,
                "deadline_checks_total",
                "Leases checked when their deadline came.",
            )?,
            sweeps: counter(r, "sweeps_total", "Sweeps that went well.")?,
            source_errors: counter(
                r,
                "source_errors_total",
                "Reads and sweeps that failed or took too long.",
            )?,
            discontinuities: counters(
                r,
                "discontinuities_total",
                "Discontinuities of the source.",
                "reason",
            )?,
            removed: counters(r, "removed_total", "Instances that left a list.", "cause")?,
            probes: counters(
                r,
                "probes_total",
                "Held instances that were looked into, by what all evidence says together.",
                "finding",
            )?,
            evidence: {
                let opts = opts(
                    "evidence_total",
                    "What each kind of evidence said of held instances.",
                );
                add(r, IntCounterVec::new(opts, &["kind", "finding"])?)?
            },
            lists_written: counter(r, "lists_written_total", "Lists written.")?,
            write_errors: counter(r, "write_errors_total", "Lists whose write failed.")?,
            lists_removed: counter(
                r,
                "lists_removed_total",
                "Lists deleted because nobody had provided the service for long.",
            )?,
            sweep_seconds: histogram(r, "sweep_seconds", "Time of a sweep.")?,
            lag_seconds: histogram(r, "lag_seconds", "Time from a change to its written list.")?,
        })
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("rsf_pump_{name}"), help)
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    add(registry, IntGauge::with_opts(opts(name, help))?)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    add(registry, IntCounter::with_opts(opts(name, help))?)
}

fn vec(registry: &Registry, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, prometheus::Error> {
    add(registry, IntGaugeVec::new(opts(name, help), &[label])?)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    add(registry, IntCounterVec::new(opts(name, help), &[label])?)
}

fn histogram(registry: &Registry, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
    let buckets = vec![
        0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 5.0, 10.0, 30.0, 60.0,
    ];
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets);
    add(registry, Histogram::with_opts(opts)?)
}
