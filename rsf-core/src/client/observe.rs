//! Trace and metrics of the logical call.

use std::sync::Arc;

use tracing::Level;

use super::stack::{Guard, OutboundCall, Outcome};
use crate::context::Context;
use crate::metrics::{MethodMetrics, Underway};
use crate::wire::TraceParent;

/// Gives the call its place in the trace: a child of the call that is being handled, or a trace of its own.
pub(crate) struct Trace {}

impl Guard for Trace {
    type Pass = ();

    #[inline(always)]
    fn enter(call: &mut OutboundCall) -> Result<(), Outcome> {
        let percent = call.policy().call.trace.sample_percent;
        call.trace = Some(place_in_trace(
            call.options.parent.as_deref(),
            percent,
            call.number,
        ));
        Ok(())
    }

    #[inline(always)]
    fn leave((): (), call: &mut OutboundCall, outcome: &mut Outcome) {
        if let Err(error) = outcome
            && tracing::enabled!(Level::DEBUG)
        {
            let trace = call
                .trace
                .map(|trace| format!("{:032x}", trace.trace_id))
                .unwrap_or_default();
            tracing::debug!(method = %call.method().path, request_id = %call.request_id, trace, %error, "call failed");
        }
    }
}

/// A call's place in the trace: a child of the call that is being handled where it is made, or a trace of its own, of
/// which `percent` are kept. `number` is drawn for the call.
#[inline(always)]
pub(super) fn place_in_trace(parent: Option<&Context>, percent: f64, number: u64) -> TraceParent {
    let span_id = number.max(1);
    match parent.and_then(Context::trace) {
        Some(parent) => TraceParent { span_id, ..parent },
        None => TraceParent {
            trace_id: (u128::from(fastrand::u64(..)) << 64) | u128::from(fastrand::u64(..).max(1)),
            span_id,
            sampled: sampled(percent),
        },
    }
}

/// Whether a new trace is kept.
#[inline(always)]
fn sampled(percent: f64) -> bool {
    percent > 0.0 && fastrand::f64() * 100.0 < percent
}

/// Counts and times the call as its caller saw it.
pub(crate) struct Measure {}

impl Guard for Measure {
    type Pass = Underway<Arc<MethodMetrics>>;

    #[inline(always)]
    fn enter(call: &mut OutboundCall) -> Result<Self::Pass, Outcome> {
        Ok(MethodMetrics::begin(call.method().metrics.clone()))
    }

    #[inline(always)]
    fn leave(underway: Self::Pass, call: &mut OutboundCall, outcome: &mut Outcome) {
        let error = outcome.as_ref().err().map(|error| (error.code(), error.reason()));
        underway.end(call.now.since(call.begun), error);
    }
}
