//! The bridge to `http` and `tower`: any HTTP client or server library's types over the engine's streams.
//!
//! - [`HttpClient`]: a connection as a `tower::Service`, for tonic's generated clients and whatever else sends
//!   `http::Request`s.
//! - [`Host`]: a [`Handler`](crate::Handler) in front of a `tower::Service`, such as tonic's `Routes` or axum's `Router`.
//!   Handlers of other kinds hand single requests over with [`request`] and [`respond`].
//! - [`Body`]: what arrives, with its flow control.
//! - `fields`: headers between the engine's fields and `http`'s maps.
//! - `pump`: what is sent, at the pace of windows and socket.

mod body;
mod client;
mod fields;
mod pump;
mod server;

pub use body::Body;
pub use client::{HttpClient, ResponseFuture};
pub use fields::{copy_fields, header_map};
pub use server::{Host, request, respond};

/// Errors of bodies that are not the engine's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
