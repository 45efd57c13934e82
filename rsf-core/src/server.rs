//! The provider's side of a call, from the wire to the handler.
//!
//! 1. [`service`]: what generated code implements, and how a handler's message is decoded and encoded.
//! 2. [`provider`]: the methods of a process, found by path, and what stands beside them (health, reflection, tonic).
//! 3. [`stack`]: the one place where the path of a call is composed.

mod admission;
mod authorize;
mod beside;
mod blocking;
pub mod dedup;
mod drain;
mod follow;
mod intercept;
mod limits;
mod load;
mod observe;
mod provider;
mod service;
mod shard;
mod stack;

pub use blocking::{Blocking, UnknownMethod};
pub use intercept::{ServerCall, ServerInterceptor, ServerNext};
pub use provider::{ProvidedService, Provider, ProviderBuilder, ProviderError, ProviderIdentity};
pub use service::{Service, handle};
