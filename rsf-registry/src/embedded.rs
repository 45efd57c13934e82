//! The embedded backend: one process keeps the registry in one file and serves it over gRPC; nothing to install.
//!
//! - [`EmbeddedStore`] owns the file; the pump and the console run in its process and use [`EmbeddedNamespace`].
//! - [`serve_guarded`] offers it to the instances as `rsf.registry.v1.Registry`, for a token.
//! - [`EmbeddedRegistry`] is an instance's side of that service.

mod tables;

mod leases;
mod namespace;
mod reports;
mod store;

mod service;

mod shards;

mod client;

pub use client::EmbeddedRegistry;
pub use namespace::EmbeddedNamespace;
pub use service::{serve, serve_guarded};
pub use store::EmbeddedStore;

/// The request metadata that names the namespace.
pub const NAMESPACE_KEY: &str = "rsf-namespace";

/// The trailer that lists the served namespaces where another one was asked for.
pub const NAMESPACES_KEY: &str = "rsf-namespaces";

/// The trailer that says who holds a lease that was not written: `<incarnation> <sequence> <left: true or false>`.
pub const HOLDER_KEY: &str = "rsf-holder";
