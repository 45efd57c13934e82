//! Trace and metrics of the logical call.

use tracing::Level;

use super::stack::{OutboundCall, Stage};
use crate::context::Context;
use crate::error::RpcError;
use crate::wire::{TraceParent, UnaryReply};

/// Gives the call its place in the trace: a child of the call that is being handled, or a trace of its own.
pub(crate) struct Trace<S> {
    inner: S,
}

impl<S> Trace<S> {
    pub(crate) fn new(inner: S) -> Self {
        Trace { inner }
    }
}

impl<S: Stage> Stage for Trace<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        let percent = call.policy().call.trace.sample_percent;
        call.trace = Some(place_in_trace(call.parent.as_deref(), percent));
        let result = self.inner.call(call).await;
        if let Err(error) = &result
            && tracing::enabled!(Level::DEBUG)
        {
            let trace = call
                .trace
                .map(|trace| format!("{:032x}", trace.trace_id))
                .unwrap_or_default();
            tracing::debug!(method = %call.method().path, request_id = %call.request_id, trace, %error, "call failed");
        }
        result
    }
}

/// A call's place in the trace: a child of the call that is being handled where it is made, or a trace of its own, of
/// which `percent` are kept.
pub(super) fn place_in_trace(parent: Option<&Context>, percent: f64) -> TraceParent {
    let span_id = fastrand::u64(1..);
    match parent.and_then(Context::trace) {
        Some(parent) => TraceParent { span_id, ..parent },
        None => TraceParent {
            trace_id: fastrand::u128(1..),
            span_id,
            sampled: sampled(percent),
        },
    }
}

/// Whether a new trace is kept.
fn sampled(percent: f64) -> bool {
    percent > 0.0 && fastrand::f64() * 100.0 < percent
}

/// Counts and times the call as its caller saw it.
pub(crate) struct Measure<S> {
    inner: S,
}

impl<S> Measure<S> {
    pub(crate) fn new(inner: S) -> Self {
        Measure { inner }
    }
}

impl<S: Stage> Stage for Measure<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        let channel = call.channel.clone();
        let metrics = &channel.methods[call.method].metrics;
        let underway = metrics.begin();
        let result = self.inner.call(call).await;
        let error = result.as_ref().err().map(|error| (error.code(), error.reason()));
        underway.end(call.now.since(call.begun), error);
        result
    }
}
