//! RSF's data path: the governed call.
//!
//! **Outgoing**, in order ([`client`] has the stack): stub → trace → metrics → interceptors → degrade → deadline →
//! consumer limit → method breaker → route → retry → \[each attempt: balance → node breaker → endpoint → [`wire`]\].
//!
//! **Incoming** ([`server`] has the stack): [`wire`] → metrics → admission (target, wholeness, already late) →
//! authorization → own shard → concurrency threshold → deadline → queue and pool → dedup → catch of panics →
//! interceptors → handler.
//!
//! Beside the path: [`policy`] is what steers it, [`control`] is what it asks of the control plane, [`outcome`] says
//! what each way to fail means, [`context`] is what calls inside calls inherit, [`identity`] is how a caller proves who
//! it is. Applications bring code of their own as [`client::ClientInterceptor`], [`server::ServerInterceptor`],
//! [`client::Balancer`] and [`server::dedup::DedupStore`].
//!
//! What this crate does not do: it opens no registry, names neither Redis nor ZooKeeper, encrypts no connection, exports
//! no traces, serves no HTTP paths but gRPC's, and generates no code. It streams only for tonic's clients and services.
//! Tests own time (`tokio::time`), chance (`fastrand::seed`) and network ([`wire::in_process`]).

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

mod latest;
pub mod metrics;
mod moment;
mod permits;
pub mod runtime;
mod thread_number;
mod timer;

#[cfg(any(test, feature = "simulation"))]
pub mod simulation;

pub use policy_book::{LayerState, PolicyBook};
