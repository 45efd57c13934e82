//! gRPC over HTTP/2 by hyper, driven directly.
//!
//! - [`body`]: one body type for everything that goes out, and the reading of gRPC frames that come in.
//! - [`client`]: connections as [`crate::wire::Wire`] wants them, [`greeting`]: which of them are ready.
//! - [`server`]: an accept loop in front of a [`crate::wire::Dispatch`].

mod body;
mod client;
mod greeting;
mod server;

pub use client::Http2Wire;
pub use server::{ServerOptions, serve};
