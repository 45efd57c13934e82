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
        None => {
            let trace_id = fastrand::u128(..).max(1);
            TraceParent {
                trace_id,
                span_id,
                sampled: sampled(percent, trace_id as u64),
            }
        }
    }
}

/// Whether a new trace is kept: by the lower half of its id, which is drawn anyway.
#[inline(always)]
fn sampled(percent: f64, low: u64) -> bool {
    // The bits that a floating-point number can tell apart.
    let lot = (low >> 11) as f64 / (1_u64 << 53) as f64;
    lot * 100.0 < percent
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
        underway.end(call.now.nanos_since(call.begun), error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_per_cent_of_new_traces_are_kept() {
        for (percent, kept) in [
            (0.0, 0..=0),
            (1.0, 820..=1180),
            (50.0, 49_000..=51_000),
            (100.0, 100_000..=100_000),
        ] {
            let traces = (0..100_000).map(|number| place_in_trace(None, percent, number));
            let found = traces.filter(|trace| trace.sampled).count();
            // About six standard deviations.
            assert!(kept.contains(&found), "{found} of 100 000 at {percent} %");
        }
    }
}
