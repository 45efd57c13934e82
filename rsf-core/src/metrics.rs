//! The data path's metrics, with handles resolved before the call.
//!
//! [`durations`] has how long calls take, [`limits`] has those of the provider's limits, [`wire`] those of the wire's.
//!
//! Names follow the OpenTelemetry RPC conventions in their Prometheus form; RSF's own start with `rsf_`.

mod durations;
mod limits;
mod wire;

use std::ops::Deref;
use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::outcome::Reason;
use crate::status::Code;

use durations::{Durations, Series};

pub(crate) use limits::{PoolMetrics, PoolNow, RefusalCounters, RefusalMetrics};

/// All metrics of a process's data path.
pub struct Metrics {
    client: Durations,
    server: Durations,
    client_underway: IntGauge,
    server_underway: IntGauge,
    errors: IntCounterVec,
    ejections: IntCounterVec,
    kept: IntGaugeVec,
    breaker_states: IntGaugeVec,
    breakers_opened: IntCounterVec,
    degraded: IntCounterVec,
    dedup: IntCounterVec,
    pub(crate) refused: RefusalCounters,
    blocked: IntCounterVec,
    pool: PoolMetrics,
    /// Further attempts that were made after a failure or a timeout.
    pub retries: IntCounter,
    /// Further attempts that were made beside one that had not answered yet.
    pub hedges: IntCounter,
    /// Further attempts, hedges included, that were due but had no credit.
    pub retry_budget_exhausted: IntCounter,
    /// Callbacks that panicked.
    pub callback_panics: IntCounter,
    /// Handlers that panicked.
    pub handler_panics: IntCounter,
    /// Interceptors of outgoing calls that panicked.
    pub interceptor_panics: IntCounter,
    /// One-way calls that were handed to a connection.
    pub one_way: IntCounter,
    /// One-way calls that failed after that, when nobody waited for them any more.
    pub one_way_failed: IntCounter,
    authorized: IntCounterVec,
    /// Policy documents that were refused; the last good one stays in force.
    pub policies_refused: IntCounter,
    /// Policies that name a balancer which is not registered; `least_pending` chooses instead.
    pub unknown_balancers: IntCounter,
}

impl Metrics {
    /// Registers all metrics. Fails where the registry has one of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let duration = |name: &str, help: &str| {
            let durations = Durations::new(name, help)?;
            registry.register(Box::new(durations.clone()))?;
            Ok::<_, prometheus::Error>(durations)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        wire::register(registry)?;
        Ok(Metrics {
            client: duration(
                "rpc_client_call_duration_seconds",
                "Logical calls as their callers saw them",
            )?,
            server: duration(
                "rpc_server_call_duration_seconds",
                "Calls as the provider handled them, waiting included",
            )?,
            client_underway: gauge(
                "rsf_client_calls_underway",
                "Logical calls that wait for their outcome",
            )?,
            server_underway: gauge(
                "rsf_server_calls_underway",
                "Calls that wait for a handler or run in one",
            )?,
            errors: counters(
                "rsf_call_errors_total",
                "Failed calls by side and RSF's reason",
                &["side", "reason"],
            )?,
            ejections: counters(
                "rsf_node_breaker_opened_total",
                "Ejections of instances",
                &["service"],
            )?,
            kept: gauges(
                "rsf_instances_kept",
                "Instances that fell out of the list without a word and are called because they still answer",
                &["service"],
            )?,
            breaker_states: gauges(
                "rsf_method_breaker_state",
                "Method breakers that policy wants: 0 closed, 1 half-open, 2 open",
                &["rpc_method"],
            )?,
            breakers_opened: counters(
                "rsf_method_breaker_opened_total",
                "Times that a method breaker opened",
                &["rpc_method"],
            )?,
            degraded: counters(
                "rsf_client_degraded_total",
                "Calls that policy answered in the method's place",
                &["rpc_method"],
            )?,
            dedup: counters(
                "rsf_dedup_total",
                "Calls of deduplicated methods by what became of them",
                &["rpc_method", "outcome"],
            )?,
            refused: RefusalCounters(counters(
                "rsf_server_refused_total",
                "Calls that the provider's limits refused, by method and RSF's reason",
                &["rpc_method", "reason"],
            )?),
            blocked: counters(
                "rsf_handler_blocked_total",
                "Handlers that blocked their I/O thread for longer than policy allows",
                &["rpc_method"],
            )?,
            pool: PoolMetrics::register(registry)?,
            retries: counter(
                "rsf_client_retries_total",
                "Further attempts that were made after a failure or a timeout",
            )?,
            hedges: counter(
                "rsf_client_hedges_total",
                "Further attempts that were made beside one that had not answered yet",
            )?,
            retry_budget_exhausted: counter(
                "rsf_client_retry_budget_exhausted_total",
                "Further attempts that were due but had no credit",
            )?,
            callback_panics: counter("rsf_callback_panics_total", "Callbacks that panicked")?,
            handler_panics: counter("rsf_handler_panics_total", "Handlers that panicked")?,
            interceptor_panics: counter(
                "rsf_interceptor_panics_total",
                "Interceptors of outgoing calls that panicked",
            )?,
            one_way: counter(
                "rsf_client_one_way_total",
                "One-way calls that were handed to a connection",
            )?,
            one_way_failed: counter(
                "rsf_client_one_way_failed_total",
                "One-way calls that failed when nobody waited for them any more",
            )?,
            authorized: counters(
                "rsf_authorization_total",
                "Calls that authorization judged",
                &["service", "verdict"],
            )?,
            policies_refused: counter(
                "rsf_policies_refused_total",
                "Policies that did not pass the check",
            )?,
            unknown_balancers: counter(
                "rsf_unknown_balancers_total",
                "Policies that name a balancer which is not registered",
            )?,
        })
    }

    pub(crate) fn client_method(&self, service: &str, method: &str) -> MethodMetrics {
        self.method("client", &self.client, &self.client_underway, service, method)
    }

    pub(crate) fn server_method(&self, service: &str, method: &str) -> MethodMetrics {
        self.method("server", &self.server, &self.server_underway, service, method)
    }

    pub(crate) fn ejections(&self, service: &str) -> IntCounter {
        self.ejections.with_label_values(&[service])
    }

    pub(crate) fn kept(&self, service: &str) -> IntGauge {
        self.kept.with_label_values(&[service])
    }

    pub(crate) fn method_breaker(&self, method: &str) -> MethodBreakerMetrics {
        MethodBreakerMetrics {
            state: self.breaker_states.with_label_values(&[method]),
            opened: self.breakers_opened.with_label_values(&[method]),
        }
    }

    pub(crate) fn degraded(&self, method: &str) -> IntCounter {
        self.degraded.with_label_values(&[method])
    }

    /// Counts the calls of one service for which authorization came to `verdict`.
    pub(crate) fn authorized(&self, service: &str, verdict: &'static str) -> IntCounter {
        self.authorized.with_label_values(&[service, verdict])
    }

    pub(crate) fn dedup(&self, service: &str, method: &str) -> DedupMetrics {
        let name = format!("{service}/{method}");
        let counter = |outcome| self.dedup.with_label_values(&[&*name, outcome]);
        DedupMetrics {
            first: counter("first"),
            replayed: counter("replayed"),
            waited: counter("waited"),
            in_progress: counter("in_progress"),
            released: counter("released"),
            mismatch: counter("mismatch"),
            unknown: counter("unknown"),
            store_error_open: counter("store_error_open"),
            store_error_closed: counter("store_error_closed"),
            duplicate: counter("duplicate"),
            unsettled: counter("unsettled"),
        }
    }

    pub(crate) fn refusals(&self, service: &str, method: &str) -> RefusalMetrics {
        self.refused.of(service, method)
    }

    pub(crate) fn blocked(&self, service: &str, method: &str) -> IntCounter {
        self.blocked.with_label_values(&[&format!("{service}/{method}")])
    }

    pub(crate) fn pool(&self) -> PoolMetrics {
        self.pool.clone()
    }

    fn method(
        &self,
        side: &'static str,
        family: &Durations,
        underway: &IntGauge,
        service: &str,
        method: &str,
    ) -> MethodMetrics {
        let name = format!("{service}/{method}");
        MethodMetrics {
            succeeded: family.of(&name, ""),
            family: family.clone(),
            errors: self.errors.clone(),
            underway: underway.clone(),
            side,
            name,
        }
    }
}

/// What a method's breaker tells.
pub(crate) struct MethodBreakerMetrics {
    /// 0 closed, 1 half-open, 2 open.
    pub(crate) state: IntGauge,
    pub(crate) opened: IntCounter,
}

#[cfg(test)]
impl MethodBreakerMetrics {
    /// In no registry.
    pub(crate) fn unregistered() -> Self {
        MethodBreakerMetrics {
            state: IntGauge::new("state", "state").unwrap(),
            opened: IntCounter::new("opened", "opened").unwrap(),
        }
    }
}

/// What became of the calls of one deduplicated method.
pub(crate) struct DedupMetrics {
    /// First with their request id: their handler ran.
    pub(crate) first: IntCounter,
    /// Answered with a stored outcome.
    pub(crate) replayed: IntCounter,
    /// Answered with the outcome of a call that they waited for.
    pub(crate) waited: IntCounter,
    /// Told `duplicate_in_progress`.
    pub(crate) in_progress: IntCounter,
    /// Refused because what they waited for was refused.
    pub(crate) released: IntCounter,
    /// Told `payload_mismatch`.
    pub(crate) mismatch: IntCounter,
    /// Told `outcome_unknown`.
    pub(crate) unknown: IntCounter,
    /// Run though the store failed.
    pub(crate) store_error_open: IntCounter,
    /// Refused because the store failed.
    pub(crate) store_error_closed: IntCounter,
    /// Found afterwards to have run twice.
    pub(crate) duplicate: IntCounter,
    /// Whose end the store did not take in time, or too many waited for it.
    pub(crate) unsettled: IntCounter,
}

/// One method's metrics on one side. Success takes no label lookup.
pub(crate) struct MethodMetrics {
    succeeded: Arc<Series>,
    family: Durations,
    errors: IntCounterVec,
    underway: IntGauge,
    side: &'static str,
    name: String,
}

impl MethodMetrics {
    /// A call begins; `this` is held until it ends.
    #[inline(always)]
    pub(crate) fn begin<M: Deref<Target = MethodMetrics>>(this: M) -> Underway<M> {
        this.begun();
        Underway {
            metrics: this,
            ended: false,
        }
    }

    /// A call begins, and whoever says so says how it ends: with [`MethodMetrics::ended`] or with
    /// [`MethodMetrics::cancelled`].
    #[inline(always)]
    pub(crate) fn begun(&self) {
        self.underway.inc();
    }

    /// A call has ended after so many nanoseconds.
    #[inline(always)]
    pub(crate) fn ended(&self, nanos: u64, error: Option<(Code, Reason)>) {
        self.underway.dec();
        match error {
            None => self.succeeded.observe(nanos),
            Some((code, reason)) => self.failed(nanos, code, reason),
        }
    }

    /// Nobody waits for a call any more.
    #[cold]
    pub(crate) fn cancelled(&self) {
        self.underway.dec();
        let reason = Reason::Cancelled.name();
        self.errors.with_label_values(&[self.side, reason]).inc();
    }

    #[cold]
    fn failed(&self, nanos: u64, code: Code, reason: Reason) {
        self.family.of(&self.name, code.name()).observe(nanos);
        self.errors.with_label_values(&[self.side, reason.name()]).inc();
    }
}

/// A call that is being measured. Dropped without an end, it was cancelled.
pub(crate) struct Underway<M: Deref<Target = MethodMetrics>> {
    metrics: M,
    ended: bool,
}

impl<M: Deref<Target = MethodMetrics>> Underway<M> {
    /// It has taken so many nanoseconds.
    #[inline(always)]
    pub(crate) fn end(mut self, nanos: u64, error: Option<(Code, Reason)>) {
        self.ended = true;
        self.metrics.ended(nanos, error);
    }

    /// Goes on elsewhere: neither an outcome nor a cancellation.
    pub(crate) fn leave(mut self) {
        self.ended = true;
        self.metrics.underway.dec();
    }
}

impl<M: Deref<Target = MethodMetrics>> Drop for Underway<M> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.cancelled();
        }
    }
}
