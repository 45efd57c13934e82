//! The provider's side of a call, from the wire to the handler.
//!
//! 1. [`service`]: what generated code implements, and how a handler's message is decoded and encoded.
//! 2. [`provider`]: the methods of a process, found by path, and what stands beside them (health, reflection, tonic).
//! 3. [`stack`]: the one place where the path of a call is composed.
//!
//! The path of one call, in order:
//!
//! 1. [`observe`] counts and times it.
//! 2. [`admission`]: is it meant for this instance, is it whole, is it still in time.
//! 3. [`authorize`]: who calls, and may they; behind it, does this instance own the call's [`shard`].
//! 4. [`limits`]: the method's concurrency threshold; behind it [`admission`] ends what outlives its deadline; then queue
//!    and pool.
//! 5. [`dedup`]: the outcome of an earlier call with this request id, where the method is deduplicated.
//! 6. [`observe`] again: panics are caught.
//! 7. [`intercept`]: the application's own code.
//! 8. The handler, within its [`crate::context::Context`]; on a thread of its own where it blocks ([`blocking`]).
//!
//! Up to the threshold nothing waits, and all of it is decided when the call comes. Most calls find a place in the pool then,
//! and nothing else stands before their handler: [`handling`] is all that is left of their path, in the handler's own
//! allocation. The other calls go on through the stages.
//!
//! Beside the path: [`follow`] loads policies into the methods, [`load`] reports how busy the instance is, [`drain`] ends
//! it without a failed call, [`beside`] is health and reflection. Hosted tonic services pass admission (their own deadlines
//! apart), authorization and limits; dedup and interceptors do not see them.
//!
//! What it does not do: it cannot end a handler that blocks, and does not encrypt what goes over the wire.

mod admission;
mod authorize;
mod beside;
mod blocking;
pub mod dedup;
mod drain;
mod follow;
mod handling;
mod intercept;
mod limits;
mod load;
mod observe;
mod provider;
mod service;
mod shard;
mod stack;

pub use blocking::{Blocking, UnknownMethod};
pub use handling::{CallScope, Handled};
pub use intercept::{ServerCall, ServerInterceptor, ServerNext};
pub use provider::{ProvidedService, Provider, ProviderBuilder, ProviderError, ProviderIdentity};
pub use service::{Service, decode, encode, handle};
