//! RSF for applications: provide services, call services, governed while they run.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let app = rsf::Application::builder("order").start().await?;
//! // let members = app.client::<MemberServiceClient>();
//! // let reply = members.get(GetMemberRequest { id: 7 }).await?;       // asynchronous
//! // let reply = members.get(GetMemberRequest { id: 7 }).wait()?;      // synchronous
//! // let started = members.get(GetMemberRequest { id: 7 }).start();    // sent now, read later
//! // members.get(GetMemberRequest { id: 7 }).on_complete(|result| {}); // callback
//! app.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! 1. [`Settings`]: how the process is configured: code beats `RSF_*` beats the file; all errors at once.
//! 2. [`Application`]: the process's place in the fleet: ports, registration, clients, graceful end.
//! 3. The types that generated code and handlers use, re-exported from `rsf-core`.
//!
//! Generated code comes from `rsf-build`; the registry, the pump and the console run as processes of their own
//! (`rsf dev` has them all in one).

pub mod admin;
mod application;
mod settings;
pub mod state;

pub use application::{Application, ApplicationBuilder, StartError};
pub use settings::{InvalidSettings, Settings};

pub use bytes::Bytes;
pub use rsf_core::call::{Call, CallFuture, OneWayCall, RawMessage, Reply, StartedCall};
pub use rsf_core::client::{
    Balancer, Candidates, Channel, Client, ClientCall, ClientInterceptor, ClientNext, Consumer, RoutingKey,
    TonicChannel,
};
pub use rsf_core::context::{Context, spawn, spawn_blocking};
pub use rsf_core::error::{AttemptLog, AttemptRecord, RpcError};
pub use rsf_core::identity;
pub use rsf_core::identity::Identity;
pub use rsf_core::message::{Request, Response};
pub use rsf_core::metadata::Metadata;
pub use rsf_core::method::{MethodDescriptor, ServiceDescriptor};
pub use rsf_core::outcome::Reason;
pub use rsf_core::policy::Priority;
pub use rsf_core::runtime::blocking;
pub use rsf_core::server::dedup;
pub use rsf_core::server::{
    Blocking, CallScope, Handled, ServerCall, ServerInterceptor, ServerNext, Service, UnknownMethod, handle,
};
pub use rsf_core::status::{Code, Status};
pub use rsf_core::wire::{Compression, Encoding, Frame};

/// What generated code names besides; not for use by hand.
#[doc(hidden)]
pub mod codegen {
    pub use bytes::Bytes;
    pub use prost;
    pub use prost_types;
    pub use rsf_core::server::{decode, encode};
    pub use std::sync::Arc;
}
