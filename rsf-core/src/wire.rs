//! The wire: what the data path asks of a connection, and what a connection asks of the server.
//!
//! The trait is shaped for an engine that keeps pending calls in a slab and polls them in place: a request goes out
//! with [`Connection::send`] and leaves a [`Slot`] behind; the reply is polled out of the slot; dropping the
//! [`Exchange`] cancels at the peer. No task and no allocation is implied. Behind it stand:
//!
//! - [`http2`]: gRPC over HTTP/2 by hyper, driven directly.
//! - [`in_process`]: one process, no socket; messages are serialized all the same.
//! - [`engine`]: RSF's own engine.
//!
//! A [`WireStack`] says which of the two on sockets a process uses.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::identity::Peer;
use crate::message::Response;
use crate::metadata::Metadata;
use crate::status::Status;

mod accept;
mod answer;
mod body;
mod compression;
mod greeting;

pub(crate) mod budget;
pub(crate) mod headers;
pub(crate) mod load_report;
mod pending;
pub(crate) mod priority;
pub(crate) mod status_header;

pub mod http2;
pub mod in_process;

pub mod engine;

mod stack;

pub use budget::BodyPlace;
pub use compression::Compression;
pub use rsf_wire::compression::Encoding;
pub use stack::{UnknownWireStack, WireStack};

/// Bytes of a message at most, by default.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of all headers of a request or reply at most.
pub const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Makes connections.
pub trait Wire: Send + Sync + 'static {
    /// Connects, within the caller's own time limit.
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>>;
}

/// Whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`.
    pub address: Arc<str>,
    /// How a silent connection is probed. Only for peers that expect it: servers of other makes take frequent PINGs for
    /// an attack (gRPC A8) and say GOAWAY.
    pub keepalive: Option<Keepalive>,
}

/// How a silent connection is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence after which a PING is sent. Default 5 s.
    pub interval: Duration,
    /// Time without an answer to it after which the connection is closed. Default 4 s.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Keepalive {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(4),
        }
    }
}

/// Why no connection came about. Nothing was sent.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot connect to {address}: {reason}")]
pub struct ConnectError {
    /// Whom to.
    pub address: Arc<str>,
    /// In the system's words.
    pub reason: String,
    /// The host answered that nobody listens there: more than silence, which a partition looks like too.
    pub refused: bool,
}

/// A connection that carries many calls at once.
pub trait Connection: Send + Sync + 'static {
    /// Hands a unary request over. The outcome, refusal included, is polled out of the slot.
    fn send(&self, request: &UnaryRequest<'_>) -> Slot;

    /// Asks for the outcome of a slot; a finished slot is free again and must not be polled any more.
    fn poll(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>>;

    /// Gives a slot up: the peer is told to cancel, and the slot is free again.
    fn cancel(&self, slot: Slot);

    /// The connection's life. Ends in `Closed`.
    fn state(&self) -> watch::Receiver<ConnectionState>;

    /// Sends a request of any shape over the same connection: streaming calls, and unchanged tonic clients.
    fn http(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, WireError>>;

    /// Takes no new calls, lets the running ones finish, then closes.
    fn close(&self);
}

/// Names a pending call on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

/// A connection's life; it only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionState {
    /// Takes calls.
    Ready,
    /// Takes calls, but not for much longer: another connection is to be made before this one drains.
    Aging,
    /// The peer said GOAWAY, or we close: running calls finish, new ones go elsewhere.
    Draining,
    /// Gone.
    Closed,
}

/// A unary request, ready for the wire. Borrowed: all attempts of a call share what it is made of, and a wire that
/// writes at once copies nothing.
#[derive(Debug, Clone, Copy)]
pub struct UnaryRequest<'a> {
    /// The gRPC path.
    pub path: &'a http::uri::PathAndQuery,
    /// The length-prefixed message.
    pub frame: &'a Frame,
    /// The logical call's remaining time.
    pub timeout: Option<Duration>,
    /// Attempts before this one.
    pub previous_attempts: u32,
    /// An earlier attempt may have run: a provider that deduplicates and knows nothing of it must not run it.
    pub repeated: bool,
    /// Identifies the logical call to dedup and logs.
    pub request_id: &'a RequestId,
    /// W3C `traceparent`.
    pub trace: Option<TraceParent>,
    /// The calling application.
    pub caller: Option<&'a http::HeaderValue>,
    /// `namespace/instance` that must be the one to answer; absent once the connection is verified.
    pub target: Option<&'a http::HeaderValue>,
    /// The implementation; absent for the default.
    pub implementation: Option<&'a http::HeaderValue>,
    /// RSF's own headers that most calls do not have.
    pub own: &'a [(http::HeaderName, http::HeaderValue)],
    /// The application's own.
    pub metadata: &'a Metadata,
}

/// RSF's own headers that most calls do not have, such as a token; the others are fields of [`UnaryRequest`]. Values that
/// differ from call to call are marked as sensitive, so that they enter no header table.
pub type OwnHeaders = Vec<(http::HeaderName, http::HeaderValue)>;

/// A message with gRPC's five-byte prefix, encoded once and shared by all attempts.
#[derive(Debug, Clone)]
pub struct Frame(Bytes);

impl Frame {
    /// Encodes a message. `Err` holds its size where it passes 4 GiB, which the prefix cannot say.
    pub fn encode(message: &impl prost::Message) -> Result<Frame, usize> {
        let size = message.encoded_len();
        let length = u32::try_from(size).map_err(|_| size)?;
        let mut out = BytesMut::with_capacity(size + 5);
        out.put_u8(0);
        out.put_u32(length);
        message.encode_raw(&mut out);
        Ok(Frame(out.freeze()))
    }

    /// Frames a message that is encoded already.
    pub fn from_message(message: &[u8]) -> Result<Frame, usize> {
        let length = u32::try_from(message.len()).map_err(|_| message.len())?;
        let mut out = BytesMut::with_capacity(message.len() + 5);
        out.put_u8(0);
        out.put_u32(length);
        out.put_slice(message);
        Ok(Frame(out.freeze()))
    }

    /// Prefix and message.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The message alone.
    pub fn message(&self) -> Bytes {
        self.0.slice(5..)
    }

    /// Bytes of the message.
    pub fn message_len(&self) -> usize {
        self.0.len() - 5
    }
}

/// The request id of a logical call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestId {
    /// Drawn by RSF.
    Number(u64),
    /// Chosen by the caller: 1 to 128 visible ASCII characters.
    Text(http::HeaderValue),
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Number(number) => write!(f, "{number:016x}"),
            RequestId::Text(text) => f.write_str(text.to_str().unwrap_or_default()),
        }
    }
}

/// The W3C trace context that a call carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Names the whole trace; never zero.
    pub trace_id: u128,
    /// Names the calling span; never zero.
    pub span_id: u64,
    /// Whether the trace is kept.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent` header of version 00.
    pub fn parse(text: &str) -> Option<TraceParent> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 || flags.len() != 2
        {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok()?;
        let span_id = u64::from_str_radix(span, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (trace_id != 0 && span_id != 0).then_some(TraceParent {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

/// What a peer answered: a message, or a status.
#[derive(Debug, Clone)]
pub struct UnaryReply {
    /// The message, without prefix, or the status.
    pub result: Result<Bytes, Status>,
    /// Headers and trailers together, read when asked for.
    pub metadata: Metadata,
}

/// Why no answer came, and how far the request got.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct WireError {
    /// How far the request got.
    pub fate: Fate,
    /// In the wire's words.
    pub reason: String,
}

/// How far an unanswered request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It provably was not written.
    NotWritten,
    /// The peer provably did not look at it.
    Refused,
    /// It may have been handled. (An answer of any kind is a [`UnaryReply`].)
    Written,
}

/// A request under way. Resolves to its outcome; dropped before that, it cancels at the peer.
pub struct Exchange {
    connection: Arc<dyn Connection>,
    slot: Option<Slot>,
}

impl Exchange {
    /// Sends a request over a connection.
    pub fn start(connection: Arc<dyn Connection>, request: &UnaryRequest<'_>) -> Exchange {
        let slot = connection.send(request);
        Exchange {
            connection,
            slot: Some(slot),
        }
    }
}

impl Future for Exchange {
    type Output = Result<UnaryReply, WireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(slot) = self.slot else {
            let reason = "polled after it had finished".to_owned();
            return Poll::Ready(Err(WireError {
                fate: Fate::Written,
                reason,
            }));
        };
        let outcome = std::task::ready!(self.connection.poll(slot, cx));
        self.slot = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.connection.cancel(slot);
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// The refusal of a message of `length` bytes.
fn too_large(length: usize, limit: usize) -> Status {
    crate::error::framework_status(
        crate::outcome::Reason::TooLarge,
        format!("the message has {length} bytes, at most {limit} are allowed; split it, or raise the limit"),
    )
}

/// What a wire asks of the server behind it.
pub trait Dispatch: Send + Sync + 'static {
    /// The number of the unary method at `path` of `implementation` (empty: the default); `None` where it is not
    /// RSF's to handle. A wire may remember the answer.
    fn method(&self, path: &str, implementation: &str) -> Option<usize>;

    /// Whether a unary request may come in, as far as its headers tell; asked by wires that have the headers before the
    /// body. A request that is refused is handed on all the same, with the refusal as its message, so that it is counted.
    ///
    /// # Errors
    /// The status to refuse the request with.
    fn admit(&self, _method: usize, _metadata: &Metadata, _peer: Option<&Peer>) -> Result<(), Status> {
        Ok(())
    }

    /// Handles one unary request. Dropping the future cancels the handler.
    fn unary(&self, method: usize, request: InboundRequest) -> BoxFuture<'static, InboundReply>;

    /// Handles every other request: hosted tonic services, health, reflection, and the answer to unknown paths.
    fn http(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, http::Response<tonic::body::Body>>;

    /// How full the instance is: 1 is full, more is a queue. Wires report it to consumers; `None` where nobody measures.
    fn utilization(&self) -> Option<f32> {
        None
    }

    /// Makes `place` cover the `bytes` that have come of a large body. It is kept until the request is answered.
    ///
    /// # Errors
    /// The status to refuse the request with, where the process holds too many bytes already.
    fn hold_body(&self, _place: &mut Option<BodyPlace>, _bytes: usize) -> Result<(), Status> {
        Ok(())
    }

    /// Bytes of a request message at most.
    fn max_message_bytes(&self) -> usize {
        MAX_MESSAGE_BYTES
    }
}

/// A unary request as it arrived.
#[derive(Debug)]
pub struct InboundRequest {
    /// The message, or why there is none.
    pub message: Result<Bytes, Status>,
    /// The caller's remaining time.
    pub timeout: Option<Duration>,
    /// The other headers, read when asked for.
    pub metadata: Metadata,
    /// Who the wire has proven to be at the other end; `None` where it proves nothing.
    pub peer: Option<Peer>,
}

/// The answer to a unary request: the length-prefixed message with the application's own metadata, or the status.
pub type InboundReply = Result<Response<Frame>, Status>;
