//! Which pool of instances a call may go to.

use super::key::hash;
use super::stack::{OutboundCall, Stage};
use crate::error::RpcError;
use crate::outcome::Reason;
use crate::wire::UnaryReply;

/// Picks a pool that the snapshot compiled. The first one has all instances that policy lets take calls; routing rules
/// compile more of them.
pub(crate) struct Route<S> {
    inner: S,
}

impl<S> Route<S> {
    pub(crate) fn new(inner: S) -> Self {
        Route { inner }
    }
}

impl<S: Stage> Stage for Route<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        call.key = call.routing_key.as_ref().map(|key| hash(key.as_bytes()));
        if call.pool().is_empty() {
            return Err(RpcError::new(
                Reason::NoInstance,
                false,
                call.snapshot.explain_empty(&call.channel.key),
            ));
        }
        self.inner.call(call).await
    }
}
