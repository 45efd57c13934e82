//! gRPC over HTTP/2 by hyper, driven directly.
//!
//! - [`client`]: connections as [`crate::wire::Wire`] wants them.
//! - [`server`]: connections in front of a [`crate::wire::Dispatch`].

mod client;
mod server;

pub use client::Http2Wire;
pub use server::{ServerOptions, serve};
