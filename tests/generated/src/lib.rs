//! What `rsf-build` generates from .proto files that try it, under lints stricter than any application's.
#![deny(
    missing_docs,
    warnings,
    unreachable_pub,
    unused_qualifications,
    rust_2018_idioms
)]
#![deny(
    missing_debug_implementations,
    unused_results,
    single_use_lifetimes,
    unused_lifetimes
)]
#![deny(
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_docs_in_private_items
)]
#![deny(rustdoc::all)]

/// What generated code asks of the crate `rsf`, put together from `rsf-core`.
pub mod rsf {
    pub use rsf_core::call::Call;
    pub use rsf_core::client::{Channel, Client};
    pub use rsf_core::message::{Request, Response};
    pub use rsf_core::method::{MethodDescriptor, ServiceDescriptor};
    pub use rsf_core::server::{CallScope, Handled, Service};
    pub use rsf_core::status::Status;
    pub use rsf_core::wire::Frame;

    /// What generated code is made of.
    pub mod codegen {
        pub use std::sync::Arc;

        pub use bytes::Bytes;
        pub use rsf_core::server::{decode, encode};
        pub use {prost, prost_types};
    }
}

include!(concat!(env!("OUT_DIR"), "/all.rs"));
