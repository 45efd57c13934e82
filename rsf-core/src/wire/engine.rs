//! The wire over RSF's own engine ([`rsf_wire`]).
//!
//! Unary calls of RSF's own services take the engine's fast path: nothing is boxed or spawned for a call at the client, and
//! at the server a request that is whole when it is read is handled where it was read. Everything else, streams and
//! requests that take their time, goes over the engine's bridge to `http` and is answered as on every other wire.
//!
//! - `client`: connections. A slot is the engine's own slot.
//! - `server`: connections in front of a [`crate::wire::Dispatch`].
//! - `fields`: headers between the engine's fields and `http`'s maps.
//! - `socket`: what both ends ask of the system.

mod client;
mod fields;
mod server;
mod socket;

pub use client::EngineWire;
pub(crate) use rsf_wire::Headers as Fields;
pub use server::serve;
