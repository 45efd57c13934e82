//! User-written interceptors around incoming calls.

use super::stack::{InboundCall, Stage};
use crate::message::Response;
use crate::status::Status;
use crate::wire::Frame;

/// Runs the application's own code around each handler.
pub(super) struct Intercept<S> {
    inner: S,
}

impl<S> Intercept<S> {
    pub(super) fn new(inner: S) -> Self {
        Intercept { inner }
    }
}

impl<S: Stage> Stage for Intercept<S> {
    async fn call(&self, call: InboundCall) -> Result<Response<Frame>, Status> {
        self.inner.call(call).await
    }
}
