//! The server's role: unary requests go to a [`Handler`], polled in place, spawned when pending.
//!
//! - `connection`: the future that reads, handles and writes.
//! - `running`: handlers that became tasks, and their replies.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::Ended;
use crate::hpack::{Headers, Literals};
use crate::limits::Limits;
use crate::message::MessageError;

mod connection;
mod running;

use connection::ServerConnection;

/// A unary request as it arrived.
#[derive(Debug)]
pub struct Call {
    /// Headers, `:path` included.
    pub headers: Headers,
    /// The body: a message with its prefix, or nothing ([`crate::message::unframe`]); an error where it is over the
    /// handler's limit.
    pub body: Result<Bytes, MessageError>,
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
    /// Handles one request; `None` where the path is unknown, which is answered UNIMPLEMENTED. The future is polled
    /// first in the connection's own task: it must not block. Dropped, it was cancelled by the peer. A panic is
    /// answered INTERNAL.
    fn call(&self, call: Call) -> Option<Handling>;

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
    ServerConnection::new(io, handler, limits, drain).await
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
