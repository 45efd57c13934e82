//! RSF's own gRPC engine: calls over HTTP/2, in both roles, over any byte stream.
//!
//! **One call's path.** [`Client::send`] writes HEADERS and DATA into the connection's one output buffer and leaves a
//! [`Slot`] behind → the connection's future ([`ClientConnection`]) writes what has gathered → the peer's
//! [`serve`] reads frames ([`frame`]), decodes the header block ([`hpack`]), polls the [`Handler`] in place and spawns
//! it only when it is pending, or others have taken their time → the reply's HEADERS, DATA and trailers gather in the server's buffer → the client's
//! connection fills the slot and wakes whoever polls it.
//!
//! - [`limits`]: what a peer may ask for; [`refusals`]: how often it asked for more.
//! - [`frame`]: HTTP/2 frames, read and written; nothing that a peer sends panics.
//! - [`hpack`]: header blocks. What stays from call to call is indexed and decoded once; what varies stands at the end
//!   as unindexed literals.
//! - [`message`]: gRPC's length-prefixed message; [`compression`]: compressed ones.
//! - [`client`], [`server`]: the two roles.
//! - [`stream`]: bodies that are read and written while they last, for calls that are not unary.
//! - [`bridge`]: `http` and `tower` over them, for tonic's clients and services and for any other of HTTP.
//! - `tls` (a feature, on by default): byte streams that are encrypted, and agreed on HTTP/2.
//!
//! It knows nothing of governance: no retries, deadlines, routes or names. A caller that loses interest cancels; a
//! timeout is a header like others.
//!
//! Which messages are compressed is for callers and handlers to say.

pub mod limits;
pub mod refusals;

pub mod frame;
pub mod hpack;
pub mod message;

pub mod compression;

mod budget;
mod closed;
mod inbound;
mod keepalive;
mod noise;
mod outbound;
mod streams;

pub mod stream;

pub mod client;
pub mod server;

pub mod bridge;

#[cfg(feature = "tls")]
pub mod tls;

pub use client::{CallError, Client, ClientConnection, Fate, Head, Life, Opened, Reply, Request, Slot};
pub use frame::{ConnectionError, ErrorCode};
pub use hpack::{Beginning, Headers, Literals, Name};
pub use keepalive::Keepalive;
pub use limits::Limits;
pub use refusals::Refusal;
pub use server::{Answer, Call, Handler, Response, Route, StreamingCall, serve};
pub use stream::{Incoming, Outgoing, StreamError};
