//! Metrics of incoming calls, and panics in handlers.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::stack::{InboundCall, Stage};
use crate::error::{REASON, framework_status};
use crate::message::Response;
use crate::metrics::MethodMetrics;
use crate::outcome::Reason;
use crate::status::Status;
use crate::wire::Frame;

/// Counts and times each call, refusals included.
pub(super) struct Measure<S> {
    inner: S,
}

impl<S> Measure<S> {
    pub(super) fn new(inner: S) -> Self {
        Measure { inner }
    }
}

impl<S: Stage> Stage for Measure<S> {
    async fn call(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        let method = call.method.clone();
        let begun = call.arrived;
        let underway = MethodMetrics::begin(&method.metrics);
        let result = self.inner.call(call).await;
        let error = result.as_ref().err().map(|status| {
            let reason = status.metadata().get(REASON).and_then(Reason::from_name);
            (status.code(), reason.unwrap_or(Reason::Handler))
        });
        underway.end(begun.elapsed(), error);
        result
    }
}

/// Turns a handler's panic into a status. The process and the connection live on.
pub(super) struct Catch<S> {
    inner: S,
    panics: prometheus::IntCounter,
}

impl<S> Catch<S> {
    pub(super) fn new(inner: S, panics: prometheus::IntCounter) -> Self {
        Catch { inner, panics }
    }
}

impl<S: Stage> Stage for Catch<S> {
    async fn call(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        // Nothing of ours is left half-changed: nobody looks at what is left of the call, and the stages hold no state of
        // their own.
        match AssertUnwindSafe(self.inner.call(call)).catch_unwind().await {
            Ok(result) => result,
            Err(_) => {
                self.panics.inc();
                let path = &call.method.path;
                tracing::error!(method = path, "a handler panicked");
                let problem = format!("the handler of {path} panicked; see the provider's log");
                Err(framework_status(Reason::Panic, problem))
            }
        }
    }
}
