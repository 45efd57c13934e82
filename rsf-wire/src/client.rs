//! The client's role: calls in a slab, polled in place, over one connection.
//!
//! - `state`: what callers and the connection share, under one mutex.
//! - `streaming`: calls whose bodies are streams, beside the unary ones.
//! - [`ClientConnection`]: the future that reads and writes; spawn it.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::frame;
use crate::hpack::{Headers, Literals};
use crate::keepalive::{Keepalive, PROBE, Probed, probe};
use crate::limits::Limits;
use crate::message::MessageError;

mod connection;
mod state;
mod streaming;

pub use streaming::{Head, Opened};

pub use connection::{ClientConnection, Ended};
use state::State;

/// A unary request.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `/package.Service/Method`.
    pub path: &'a str,
    /// Headers that stay from call to call, beside those of gRPC: indexed, a byte each from the second call on. Names
    /// lower-case, values without NUL, CR and LF.
    pub constant: &'a [(&'a str, &'a [u8])],
    /// Headers of this call.
    pub varying: Literals,
    /// The message with its prefix ([`crate::message::frame`]).
    pub body: Bytes,
}

/// What the peer answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Headers, `:status` included.
    pub headers: Headers,
    /// The body: a message with its prefix, or nothing ([`crate::message::unframe`]); an error where it is over
    /// [`Limits::message_bytes`], and its rest was refused.
    pub body: Result<Bytes, MessageError>,
    /// Trailers; `None` where the peer sent only headers, which then hold the status.
    pub trailers: Option<Headers>,
}

impl Reply {
    /// `grpc-status`, from the trailers or where there are none from the headers. `None` where it is missing or no
    /// number.
    pub fn grpc_status(&self) -> Option<u32> {
        let status = self
            .trailers
            .as_ref()
            .unwrap_or(&self.headers)
            .get("grpc-status")?;
        std::str::from_utf8(status).ok()?.parse().ok()
    }
}

/// Why there is no answer, and how far the request got.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct CallError {
    /// How far.
    pub fate: Fate,
    /// For people.
    pub reason: Arc<str>,
}

/// How far an unanswered request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No byte of it was handed to the socket.
    NotWritten,
    /// The peer says that it did not look at it (REFUSED_STREAM, or above GOAWAY's last stream).
    Refused,
    /// It may have been handled.
    Written,
}

/// A connection's life; it only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Takes calls.
    Ready,
    /// Takes calls, but not for much longer: the numbers of streams run out. Time to open another connection.
    Aging,
    /// Finishes what it has.
    Draining,
    /// Gone.
    Closed,
}

/// Names a pending call of one connection. Not to be used any more once the call finished or was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

/// The callers' end of a connection. Dropping it closes the connection, and fails what is under way.
pub struct Client {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    watch: Box<dyn Fn(Life) + Send + Sync>,
}

impl Client {
    /// Makes a connection out of a byte stream. `authority` is the `host:port` that requests name. `watch` hears of
    /// each step of the connection's life; steps of several threads may come out of order, and the latest counts.
    pub fn new<S>(
        io: S,
        authority: &str,
        limits: Limits,
        watch: impl Fn(Life) + Send + Sync + 'static,
    ) -> (Client, ClientConnection<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Client::with_scheme(b"http", io, authority, limits, watch)
    }

    /// The same out of a byte stream that is encrypted: requests name `https`.
    pub fn over_tls<S>(
        io: S,
        authority: &str,
        limits: Limits,
        watch: impl Fn(Life) + Send + Sync + 'static,
    ) -> (Client, ClientConnection<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        Client::with_scheme(b"https", io, authority, limits, watch)
    }

    fn with_scheme<S>(
        scheme: &'static [u8],
        io: S,
        authority: &str,
        limits: Limits,
        watch: impl Fn(Life) + Send + Sync + 'static,
    ) -> (Client, ClientConnection<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(scheme, authority, limits.clone())),
            watch: Box::new(watch),
        });
        let connection = ClientConnection::new(io, shared.clone(), &limits);
        (Client { shared }, connection)
    }

    /// Hands a request over. The outcome, refusal included, is polled out of the slot.
    pub fn send(&self, request: Request<'_>) -> Slot {
        Slot(self.shared.with(|state| state.send(request)))
    }

    /// Asks for the outcome; a finished slot is free again.
    pub fn poll(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Result<Reply, CallError>> {
        self.shared.state.lock().poll(slot.0, cx)
    }

    /// Sends a request and waits. Dropping the future cancels the call at the peer.
    pub async fn call(&self, request: Request<'_>) -> Result<Reply, CallError> {
        let mut pending = Pending {
            client: self,
            slot: Some(self.send(request)),
        };
        std::future::poll_fn(|cx| pending.poll(cx)).await
    }

    /// Gives a call up: the peer is told by RST_STREAM, and the slot is free again.
    pub fn cancel(&self, slot: Slot) {
        self.shared.with(|state| state.cancel(slot.0));
    }

    /// Where the connection's life is.
    pub fn life(&self) -> Life {
        self.shared.state.lock().life()
    }

    /// Calls that are pending: those that wait for a stream, and those whose outcome was not polled yet, included.
    pub fn pending(&self) -> usize {
        self.shared.state.lock().pending()
    }

    /// Probes the connection by PING whenever it is silent; to be spawned, ends with the connection.
    pub fn keep_alive(&self, keepalive: Keepalive) -> impl Future<Output = ()> + Send + use<> {
        probe(Arc::downgrade(&self.shared), keepalive)
    }

    /// Takes no new calls, lets the running ones finish, then closes.
    pub fn close(&self) {
        self.shared.with(State::close);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.with(State::abandon);
    }
}

impl Shared {
    /// Changes the state, then wakes the connection and tells the watcher where that is needed, outside the lock.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let before = state.life();
        let result = change(&mut state);
        let (wakers, after) = (state.take_wakers(), state.life());
        let connection = state.wake_connection();
        drop(state);
        if let Some(waker) = connection {
            waker.wake();
        }
        if after != before {
            (self.watch)(after);
        }
        for waker in wakers {
            waker.wake();
        }
        result
    }
}

impl Probed for Shared {
    fn heard(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.life() < Life::Closed).then_some(state.heard + state.relieved)
    }

    fn ping(&self) {
        self.with(|state| frame::write_ping(state.out.control(), false, PROBE));
    }

    fn give_up(&self) {
        self.with(State::fall_silent);
    }
}

struct Pending<'a> {
    client: &'a Client,
    slot: Option<Slot>,
}

impl Pending<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, CallError>> {
        let Some(slot) = self.slot else {
            return Poll::Pending;
        };
        let outcome = std::task::ready!(self.client.poll(slot, cx));
        self.slot = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.client.cancel(slot);
        }
    }
}
