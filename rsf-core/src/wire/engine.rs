//! The wire over RSF's own engine ([`rsf_wire`]): a spike that holds the [`crate::wire::Wire`] trait to its promise.
//!
//! Unary calls only. Requests of other shapes are gathered whole, sent as one, and answered as one: right for unary
//! calls of hosted tonic services and tonic clients, wrong for streams, of which nothing arrives before their end.
//!
//! - `client`: connections. A slot is the engine's own slot; nothing is boxed or spawned for a call.
//! - `server`: an accept loop in front of a [`crate::wire::Dispatch`].
//! - `fields`: headers between the engine's fields and `http`'s maps.

mod client;
mod fields;
mod server;

pub use client::EngineWire;
pub(crate) use rsf_wire::Headers as Fields;
pub use server::serve;
