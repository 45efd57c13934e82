//! Metrics of incoming calls, and panics in handlers.

use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::provider::HostedMethod;
use super::stack::{InboundCall, Stage};
use crate::error::{REASON, framework_status};
use crate::message::Response;
use crate::metrics::{MethodMetrics, Underway};
use crate::moment::nanos;
use crate::outcome::Reason;
use crate::status::{Code, Status};
use crate::wire::Frame;

/// Counts and times a call, refusals included. Dropped before its end, it was cancelled.
pub(super) struct Measured {
    arrived: Instant,
    /// `None` once it has ended.
    underway: Option<Underway<Measuring>>,
}

impl Measured {
    pub(super) fn begin(method: &Arc<HostedMethod>, arrived: Instant) -> Self {
        Measured {
            arrived,
            underway: Some(MethodMetrics::begin(Measuring(method.clone()))),
        }
    }

    /// The call ends now, with this answer.
    pub(super) fn end(&mut self, now: Instant, answer: Result<(), &Status>) {
        if let Some(underway) = self.underway.take() {
            let took = now.saturating_duration_since(self.arrived);
            underway.end(nanos(took), answer.err().map(failure));
        }
    }
}

/// What a status says in metrics.
pub(super) fn failure(status: &Status) -> (Code, Reason) {
    let reason = status.metadata().get(REASON).and_then(Reason::from_name);
    (status.code(), reason.unwrap_or(Reason::Handler))
}

/// The metrics of the method that is called.
struct Measuring(Arc<HostedMethod>);

impl Deref for Measuring {
    type Target = MethodMetrics;

    fn deref(&self) -> &MethodMetrics {
        &self.0.metrics
    }
}

/// What a caller is told of a handler that panicked; counted and logged.
pub(super) fn panicked(method: &HostedMethod, panics: &IntCounter) -> Status {
    panics.inc();
    let path = &method.path;
    tracing::error!(method = path, "a handler panicked");
    let problem = format!("the handler of {path} panicked; see the provider's log");
    framework_status(Reason::Panic, problem)
}

/// What a caller is told where what stands around a handler panicked; logged.
#[cold]
pub(super) fn panicked_around(method: &HostedMethod) -> Status {
    let path = &method.path;
    tracing::error!(method = path, "what stands around a handler panicked");
    let problem = format!("what the provider has put around {path} panicked; see the provider's log");
    framework_status(Reason::Panic, problem)
}

/// Turns a panic in a handler, or in an interceptor around it, into a status. The process and the connection live on.
pub(super) struct Catch<S> {
    inner: S,
    panics: IntCounter,
}

impl<S> Catch<S> {
    pub(super) fn new(inner: S, panics: IntCounter) -> Self {
        Catch { inner, panics }
    }
}

impl<S: Stage> Stage for Catch<S> {
    async fn call(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        // Nothing of ours is left half-changed: nobody looks at what is left of the call, and the stages hold no state of
        // their own.
        match AssertUnwindSafe(self.inner.call(call)).catch_unwind().await {
            Ok(result) => result,
            Err(_) => Err(panicked(&call.method, &self.panics)),
        }
    }
}
