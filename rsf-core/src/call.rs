//! A call as a value, and the four ways to use it.
//!
//! ```ignore
//! let reply = members.get(request).await?;              // asynchronous
//! let reply = members.get(request).wait()?;             // synchronous
//! let started = members.get(request).start();           // sent now, read later
//! members.get(request).on_complete(|result| { ... });   // callback
//! members.note(request).one_way().await?;               // sent, and not waited for
//! ```

mod one_way;

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{Channel, Running};
use crate::context::Context;
use crate::error::{AttemptLog, RpcError};
use crate::identity::OnBehalf;
use crate::message::{Request, Response};
use crate::metadata::Metadata;
use crate::outcome::Reason;
use crate::runtime::IoRuntime;
use crate::wire::{Frame, UnaryReply};

pub(crate) use one_way::HandOver;
pub use one_way::OneWayCall;

/// A call that has not been sent. Await it, [`wait`](Call::wait) for it, [`start`](Call::start) it, or let it call
/// back ([`on_complete`](Call::on_complete)); dropped, it sends nothing.
#[must_use = "a call is sent when it is awaited, waited for, started, or given a callback"]
pub struct Call<R> {
    unsent: Unsent,
    reply: PhantomData<fn() -> R>,
}

/// What a call is before it is sent.
pub(crate) struct Unsent {
    pub(crate) channel: Channel,
    /// The method's place in the service's descriptor.
    pub(crate) method: usize,
    pub(crate) frame: Result<Frame, RpcError>,
    pub(crate) options: CallOptions,
}

/// What a caller can set for one call.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) metadata: Metadata,
    /// The call that is being handled where this one is made. Taken then and not when it is sent, because a started
    /// call is sent by another task.
    pub(crate) parent: Option<Arc<Context>>,
    /// Boxed: most calls have none, and each would carry the room for them.
    rare: Option<Box<RareOptions>>,
}

/// What few calls set.
#[derive(Debug, Clone, Default)]
struct RareOptions {
    request_id: Option<HeaderValue>,
    routing_key: Option<Box<str>>,
    log: Option<AttemptLog>,
    on_behalf: Option<OnBehalf>,
    one_way: Option<HandOver>,
}

impl CallOptions {
    fn rare_mut(&mut self) -> &mut RareOptions {
        self.rare.get_or_insert_default()
    }

    /// Identifies the logical call, where its caller says how.
    pub(crate) fn request_id(&self) -> Option<&HeaderValue> {
        self.rare.as_ref()?.request_id.as_ref()
    }

    /// What the call is about.
    pub(crate) fn routing_key(&self) -> Option<&str> {
        self.rare.as_ref()?.routing_key.as_deref()
    }

    /// Where somebody wants to know every attempt, those of a success too.
    pub(crate) fn log(&self) -> Option<&AttemptLog> {
        self.rare.as_ref()?.log.as_ref()
    }

    /// Who the call is made for, where that is not this application.
    pub(crate) fn on_behalf(&self) -> Option<&OnBehalf> {
        self.rare.as_ref()?.on_behalf.as_ref()
    }

    /// Whom to tell that the request is handed over, where nobody waits for the reply.
    pub(crate) fn one_way(&self) -> Option<&HandOver> {
        self.rare.as_ref()?.one_way.as_ref()
    }
}

/// A message type that a reply can be read as: every protobuf message, and [`RawMessage`].
pub trait Reply: Sized + Send + 'static {
    /// Reads an encoded message.
    fn read(bytes: Bytes) -> Result<Self, prost::DecodeError>;
}

impl<M: prost::Message + Default + 'static> Reply for M {
    fn read(bytes: Bytes) -> Result<Self, prost::DecodeError> {
        M::decode(bytes)
    }
}

/// An encoded message, for tools that know a method only at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage(pub Bytes);

impl Reply for RawMessage {
    fn read(bytes: Bytes) -> Result<Self, prost::DecodeError> {
        Ok(RawMessage(bytes))
    }
}

impl<R: Reply> Call<R> {
    pub(crate) fn new(channel: Channel, method: usize, request: Request<impl prost::Message>) -> Self {
        let (message, metadata) = request.into_parts();
        Self::framed(channel, method, Frame::encode(&message), metadata)
    }

    pub(crate) fn framed(
        channel: Channel,
        method: usize,
        frame: Result<Frame, usize>,
        metadata: Metadata,
    ) -> Self {
        let frame = frame.map_err(|size| {
            RpcError::new(
                Reason::TooLarge,
                false,
                format!("the request has {size} bytes, gRPC allows 4 GiB"),
            )
        });
        let options = CallOptions {
            metadata,
            parent: Context::current(),
            ..CallOptions::default()
        };
        let unsent = Unsent {
            channel,
            method,
            frame,
            options,
        };
        Call {
            unsent,
            reply: PhantomData,
        }
    }

    /// Bounds the whole call, all attempts included. A shorter time that policy or the surrounding call leaves wins.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.unsent.options.timeout = Some(timeout);
        self
    }

    /// Names the logical call, for dedup and logs: 1 to 128 visible ASCII characters. Drawn at random by default.
    pub fn request_id(mut self, id: &str) -> Self {
        match HeaderValue::from_str(id) {
            Ok(value) if (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) => {
                self.unsent.options.rare_mut().request_id = Some(value);
            }
            _ => {
                let problem = "a request id has 1 to 128 visible ASCII characters";
                self.unsent.frame = Err(RpcError::new(Reason::Malformed, false, problem));
            }
        }
        self
    }

    /// Names what the call is about, for routes by shard and for consistent hashing: calls of one key meet the same
    /// instances. Beats the request field that the method's `routing_key` option names.
    pub fn routing_key(mut self, key: &str) -> Self {
        self.unsent.options.rare_mut().routing_key = Some(key.into());
        self
    }

    /// Fills `log` with every attempt, the successful one included, when the call ends.
    pub fn log_attempts(mut self, log: &AttemptLog) -> Self {
        self.unsent.options.rare_mut().log = Some(log.clone());
        self
    }

    /// Makes the call inherit deadline, trace and retry credit from `context`, instead of from the call that is being handled where it
    /// was made. For gateways, which know the caller's trace without handling a call.
    pub fn context(mut self, context: Arc<Context>) -> Self {
        self.unsent.options.parent = Some(context);
        self
    }

    /// Makes the call in the name of another application, whose token it sends instead of one's own: for gateways whose
    /// callers bring their own. The provider checks the token as that of every caller. What this application's policies say
    /// of its calls holds for it all the same.
    pub fn on_behalf(mut self, caller: OnBehalf) -> Self {
        self.unsent.options.rare_mut().on_behalf = Some(caller);
        self
    }

    /// Replaces the request's metadata.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.unsent.options.metadata = metadata;
        self
    }

    /// Blocks this thread until the reply is there. Needs no runtime around it.
    ///
    /// Inside an asynchronous runtime it would stop the runtime's thread; there it returns an error of reason
    /// `wait_in_runtime` and sends nothing. Use `.await` there, or wait inside [`crate::runtime::blocking`]; a handler
    /// that is marked as [`Blocking`](crate::server::Blocking) may wait.
    pub fn wait(self) -> Result<Response<R>, RpcError> {
        check_may_block()?;
        let runtime = self.unsent.channel.runtime().clone();
        block_on(&runtime, self.into_future())
    }

    /// Sends the call now and returns a future for its reply. Dropping the future cancels the call at the provider.
    pub fn start(self) -> StartedCall<R> {
        let runtime = self.unsent.channel.runtime().clone();
        let task = runtime.handle().spawn(self.into_future());
        StartedCall {
            task: AbortOnDropHandle::new(task),
            runtime,
        }
    }

    /// Sends the call now and runs `callback` with its reply or error, on one of the process's callback threads.
    ///
    /// The call is detached: nothing cancels it. A panic in the callback is caught, logged and counted
    /// (`rsf_callback_panics_total`).
    pub fn on_complete(self, callback: impl FnOnce(Result<Response<R>, RpcError>) + Send + 'static) {
        let channel = self.unsent.channel.clone();
        let runtime = channel.runtime().clone();
        let method = self.unsent.method;
        runtime.handle().clone().spawn(async move {
            let result = self.await;
            if runtime
                .run_callback(move || callback(result))
                .await
                .is_err_and(|error| error.is_panic())
            {
                channel.callback_panicked(method);
            }
        });
    }
}

impl<R: Reply> IntoFuture for Call<R> {
    type Output = Result<Response<R>, RpcError>;
    type IntoFuture = CallFuture<R>;

    #[inline(always)]
    fn into_future(self) -> CallFuture<R> {
        CallFuture {
            run: self.unsent.launch(),
            reply: PhantomData,
        }
    }
}

/// The future of an awaited call. Dropping it cancels the call at the provider.
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<R> {
    run: Running,
    reply: PhantomData<fn() -> R>,
}

impl<R: Reply> Future for CallFuture<R> {
    type Output = Result<Response<R>, RpcError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let reply = std::task::ready!(Pin::new(&mut self.run).poll(cx))?;
        Poll::Ready(decode(reply))
    }
}

#[inline]
fn decode<R: Reply>(reply: UnaryReply) -> Result<Response<R>, RpcError> {
    let bytes = reply.result.map_err(RpcError::handler)?;
    let message = R::read(bytes).map_err(|error| {
        let problem = format!(
            "the reply is no {}: {error}; do both sides use one schema?",
            std::any::type_name::<R>()
        );
        RpcError::new(Reason::Malformed, true, problem)
    })?;
    Ok(Response::from_parts(message, reply.metadata))
}

/// A call under way. Await it or wait for it; dropping it cancels the call at the provider.
#[must_use = "dropping a started call cancels it"]
pub struct StartedCall<R> {
    task: AbortOnDropHandle<Result<Response<R>, RpcError>>,
    runtime: IoRuntime,
}

impl<R: Reply> StartedCall<R> {
    /// Blocks this thread until the reply is there; see [`Call::wait`] for where it may be used.
    pub fn wait(self) -> Result<Response<R>, RpcError> {
        check_may_block()?;
        let runtime = self.runtime.clone();
        block_on(&runtime, self)
    }

    /// Blocks this thread for at most `limit`. `Err` gives the call back, still under way.
    pub fn wait_for(mut self, limit: Duration) -> Result<Result<Response<R>, RpcError>, Self> {
        if let Err(error) = check_may_block() {
            return Ok(Err(error));
        }
        let runtime = self.runtime.clone();
        match block_on(&runtime, async { tokio::time::timeout(limit, &mut self).await }) {
            Ok(result) => Ok(result),
            Err(_) => Err(self),
        }
    }

    /// Whether the reply is there.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl<R: Reply> Future for StartedCall<R> {
    type Output = Result<Response<R>, RpcError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Poll::Ready(match std::task::ready!(Pin::new(&mut self.task).poll(cx)) {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(RpcError::new(
                Reason::ShutDown,
                true,
                "the RSF runtime ended while the call was under way",
            )),
        })
    }
}

fn check_may_block() -> Result<(), RpcError> {
    if IoRuntime::may_block() {
        return Ok(());
    }
    let advice = "wait() would block a thread of an asynchronous runtime; use .await, mark the handler with rsf::Blocking, or wait inside rsf::blocking(...)";
    Err(RpcError::new(Reason::WaitInRuntime, false, advice))
}

/// Drives `future` on this thread, with I/O and timers on RSF's own runtime.
fn block_on<F: Future>(runtime: &IoRuntime, future: F) -> F::Output {
    let _runtime = runtime.handle().enter();
    crate::runtime::drive(future)
}
