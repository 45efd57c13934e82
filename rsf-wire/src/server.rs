//! The server's role: unary requests go to a [`Handler`], polled in place, spawned when pending; streaming ones become
//! tasks at once.
//!
//! - `connection`: the future that reads, handles and writes.
//! - `in_place`: how long it may be kept from reading and writing by handlers.
//! - `streaming`: requests whose bodies are streams.
//! - `running`: handlers that became tasks, and their replies.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

use crate::client::Ended;
use crate::hpack::{Headers, Literals};
use crate::keepalive::{Keepalive, probe};
use crate::limits::Limits;
use crate::message::MessageError;

mod connection;
mod in_place;
mod running;
mod streaming;

use connection::ServerConnection;
use running::Replies;
pub use streaming::{Answer, Serving, StreamingCall};

const GRPC: (&str, &[u8]) = ("content-type", b"application/grpc");
/// What every gRPC response begins with.
const HEADERS: &[(&str, &[u8])] = &[(":status", b"200"), GRPC];

/// A unary request as it arrived.
#[derive(Debug)]
pub struct Call {
    /// Headers, `:path` included.
    pub headers: Headers,
    /// The body: a message with its prefix, or nothing ([`crate::message::unframe`]); an error where it is over the
    /// handler's limit.
    pub body: Result<Bytes, MessageError>,
    /// What [`Handler::route`] said of it.
    pub route: usize,
}

/// How a request is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Gathered whole, then handed to [`Handler::call`] with this number.
    Unary(usize),
    /// Handed to [`Handler::stream`] at once. It may be any request of HTTP, gRPC or not.
    Streaming,
}

impl Call {
    /// `/package.Service/Method`; empty where it is no text.
    pub fn path(&self) -> &str {
        let path = self.headers.get(":path").unwrap_or_default();
        std::str::from_utf8(path).unwrap_or_default()
    }
}

/// The answer to a unary request.
#[derive(Debug)]
pub enum Response {
    /// A body, and trailers behind it.
    Message {
        /// Headers, beside `:status` and `content-type`.
        headers: Literals,
        /// The message with its prefix.
        body: Bytes,
        /// Trailers with their `grpc-status`; `None` says OK, in a byte.
        trailers: Option<Literals>,
    },
    /// Trailers alone, with their `grpc-status`.
    Status(Literals),
    /// An HTTP status and nothing else, for peers that speak no gRPC.
    Http(u16),
}

impl Response {
    /// OK, with a message and its prefix ([`crate::message::frame`]).
    pub fn ok(body: Bytes) -> Response {
        Response::Message {
            headers: Literals::new(),
            body,
            trailers: None,
        }
    }

    /// A gRPC status (its number) with a message for people.
    pub fn status(code: u32, message: &str) -> Response {
        let mut trailers = Literals::new();
        // Digits and percent-encoded text are valid in any header.
        let _ = trailers.push("grpc-status", code.to_string().as_bytes());
        if !message.is_empty() {
            let _ = trailers.push("grpc-message", percent_encoded(message).as_bytes());
        }
        Response::Status(trailers)
    }
}

/// A handler's future.
pub type Handling = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Handles the requests of connections.
pub trait Handler: Send + Sync + 'static {
    /// Decides by a request's headers how it is taken in. Default: `Unary(0)`, all of them.
    fn route(&self, _headers: &Headers) -> Route {
        Route::Unary(0)
    }

    /// Handles one streaming request. The future becomes a task; when the peer resets the request, or the connection
    /// ends, it is dropped. Default: UNIMPLEMENTED.
    fn stream(&self, call: StreamingCall) -> Serving {
        Box::pin(async move { call.answer.status(12, "this server has no such method") })
    }

    /// Handles one request; `None` where the path is unknown, which is answered UNIMPLEMENTED. The future is polled
    /// first in the connection's own task, as long as [`Limits::in_place_time`] lasts: it must not block. Dropped, it was cancelled by the peer. A panic is
    /// answered INTERNAL.
    fn call(&self, call: Call) -> Option<Handling>;

    /// Whether unary requests that are long or slow to come go to [`Handler::slow`]. Default: no, they are gathered like
    /// all others, for as long as they take.
    fn takes_slow(&self) -> bool {
        false
    }

    /// Handles one unary request of which not all has come, or not all of it soon: how much and how long to gather is the
    /// handler's to decide. `route` is what [`Handler::route`] said of it. Default: UNIMPLEMENTED.
    ///
    /// It acts on nothing less than a whole request: one that meets [`Limits::buffered_bytes`] before is refused in a way
    /// that says that nothing happened (REFUSED_STREAM), and is sent again.
    fn slow(&self, _route: usize, call: StreamingCall) -> Serving {
        self.stream(call)
    }

    /// Bytes of a request's message at most. Default 4 MiB.
    fn max_message_bytes(&self) -> usize {
        4 * 1024 * 1024
    }
}

/// Serves one connection until the peer closes it, or until `drain` resolves and the running calls are done: GOAWAY
/// goes out in two steps with a PING between, so that no request on its way is lost. The caller bounds that time.
pub async fn serve<S, H>(
    io: S,
    handler: Arc<H>,
    limits: Limits,
    drain: impl Future<Output = ()> + Send,
) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler + ?Sized,
{
    let drain = std::pin::pin!(drain);
    let keepalive = limits.keepalive;
    let connection = ServerConnection::new(io, handler, limits, drain);
    let _probing = keepalive.map(|keepalive| Probing::of(connection.replies(), keepalive));
    connection.await
}

/// Probes a connection until it is dropped.
struct Probing(AbortHandle);

impl Probing {
    fn of(connection: &Arc<Replies>, keepalive: Keepalive) -> Probing {
        let probing = probe(Arc::downgrade(connection), keepalive);
        Probing(tokio::spawn(probing).abort_handle())
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = std::fmt::Write::write_fmt(&mut out, format_args!("%{byte:02X}"));
        }
    }
    out
}
