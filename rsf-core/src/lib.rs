//! RSF's data path: the governed call.
//!
//! **Outgoing**, in order ([`client`] has the stack): stub → trace and metrics → interceptors → deadline → route → retry →
//! \[each attempt: balance → node breaker → endpoint → [`wire`]\].
//!
//! **Incoming** ([`server`] has the stack): [`wire`] → metrics → admission (target, deadline) → authorization → concurrency
//! threshold → queue and pool → interceptors → handler.
//!
//! Beside the path: [`policy`] is what steers it, [`control`] is what it asks of the control plane, [`outcome`] says
//! what each way to fail means, [`context`] is what calls inside calls inherit, [`identity`] is how a caller proves who
//! it is. Applications add code of their own around calls as [`client::ClientInterceptor`] and
//! [`server::ServerInterceptor`].
//!
//! What this crate does not do: it opens no registry, names neither Redis nor ZooKeeper, serves no HTTP paths but
//! gRPC's, and generates no code. Tests own time (`tokio::time`), chance (`fastrand::seed`) and network
//! ([`wire::in_process`]).

pub mod call;
pub mod context;
pub mod identity;
pub mod message;
pub mod metadata;
pub mod method;
pub mod status;

pub mod error;
pub mod outcome;

pub mod control;
pub mod policy;
mod policy_book;
mod routing;

pub mod client;
pub mod server;
pub mod wire;

pub mod metrics;
mod permits;
pub mod runtime;
mod timer;

#[cfg(any(test, feature = "simulation"))]
pub mod simulation;

pub use policy_book::PolicyBook;
