//! User-written interceptors around outgoing calls.

use super::stack::{OutboundCall, Stage};
use crate::error::RpcError;
use crate::wire::UnaryReply;

/// Runs the application's own code around each call.
pub(crate) struct Intercept<S> {
    inner: S,
}

impl<S> Intercept<S> {
    pub(crate) fn new(inner: S) -> Self {
        Intercept { inner }
    }
}

impl<S: Stage> Stage for Intercept<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        self.inner.call(call).await
    }
}
