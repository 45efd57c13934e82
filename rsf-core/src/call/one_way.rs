//! One-way calls: sent, handled, and not waited for.

use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::{Call, Reply, Unsent, block_on, check_may_block};
use crate::error::RpcError;
use crate::outcome::Reason;

/// A call whose caller does not wait for the reply; made by [`Call::one_way`].
#[must_use = "a call is sent when it is awaited or waited for"]
pub struct OneWayCall(Unsent);

impl<R: Reply> Call<R> {
    /// Does not wait for the reply: awaited, or [waited](OneWayCall::wait) for, the call ends as soon as the request is
    /// handed to a connection.
    ///
    /// The provider handles it like every call, within the call's time. What fails before the request is handed over is
    /// reported; what fails afterwards is counted (`rsf_client_one_way_failed_total`) and logged, nothing more. It is
    /// attempted again only where it provably never reached the handler, of an idempotent method too. Dropping the
    /// future before it is handed over cancels the call; afterwards nothing does but its deadline, and a graceful end of
    /// the application waits for it.
    pub fn one_way(self) -> OneWayCall {
        OneWayCall(self.unsent)
    }
}

impl OneWayCall {
    /// Blocks this thread until the request is handed over; see [`Call::wait`] for where it may be used.
    pub fn wait(self) -> Result<(), RpcError> {
        check_may_block()?;
        let runtime = self.0.channel.runtime().clone();
        block_on(&runtime, self.into_future())
    }

    async fn send(self) -> Result<(), RpcError> {
        let OneWayCall(mut unsent) = self;
        unsent.frame = Ok(unsent.frame?);
        let (handed_over, handed) = oneshot::channel();
        unsent.options.rare_mut().one_way = Some(HandOver(Arc::new(Mutex::new(Some(handed_over)))));
        let sent = AbortOnDropHandle::new(unsent.launch_one_way());
        // The sender goes with the call, so this waits for one or the other.
        if handed.await.is_ok() {
            sent.detach();
            return Ok(());
        }
        sent.await.unwrap_or_else(|_| {
            let problem = "the RSF runtime ended while the call was under way";
            Err(RpcError::new(Reason::ShutDown, false, problem))
        })
    }
}

impl IntoFuture for OneWayCall {
    type Output = Result<(), RpcError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<(), RpcError>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Tells the caller of a one-way call that the request is handed to a connection.
#[derive(Debug, Clone)]
pub(crate) struct HandOver(Arc<Mutex<Option<oneshot::Sender<()>>>>);

impl HandOver {
    /// Tells it. `true` the first time.
    pub(crate) fn done(&self) -> bool {
        let caller = self.0.lock().take();
        caller.map(|caller| caller.send(()).ok()).is_some()
    }

    /// Whether it has been told.
    pub(crate) fn is_done(&self) -> bool {
        self.0.lock().is_none()
    }
}
