//! Degradation: an answer where the service has none.

use super::stack::{OutboundCall, Stage};
use crate::error::RpcError;
use crate::wire::UnaryReply;

/// Answers in the service's place where policy says so.
pub(crate) struct Degrade<S> {
    inner: S,
}

impl<S> Degrade<S> {
    pub(crate) fn new(inner: S) -> Self {
        Degrade { inner }
    }
}

impl<S: Stage> Stage for Degrade<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        self.inner.call(call).await
    }
}
