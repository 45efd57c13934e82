//! RSF's HTTP adapter: HTTP and JSON in, governed RSF calls out.
//!
//! A caller that has no RSF (PHP, Node, `curl`, a browser's `fetch`, a Connect client) posts JSON to
//! `/package.Service/Method`; the adapter is an RSF consumer like any other, so timeouts, retries, breakers, limits
//! and dedup hold for that caller too. The path of a request, in order:
//!
//! 1. [`server`]: accepts connections, bounded and timed, and drains them at the end.
//! 2. `gateway`: finds the page or the method that a path names, in the `catalog`.
//! 3. `caller`: the application that a bearer token names, where the adapter trusts keys.
//! 4. `head`, `body`: what the headers ask for, and the message, read within its limits.
//! 5. `json`: the body becomes a protobuf message by the method's schema.
//! 6. the governed call, by `rsf-core`.
//! 7. `reply`: the message or the error, as the Connect protocol writes them.
//!
//! The catalog learns services and methods from a [`schema::SchemaSource`], the directory by default, while the
//! adapter runs. The wire is the Connect protocol's unary form; streaming methods, `google.api.http` routes and
//! gRPC-Web are not served, and TLS is left to what stands in front.

pub mod config;

pub mod schema;

mod catalog;

mod accept;
pub mod server;

mod caller;
mod gateway;
mod head;

mod body;
mod encoding;
mod json;
mod metadata;

mod code;
mod failure;
mod reply;

mod pages;

pub mod invoke;

pub use config::{AdapterConfig, AdapterSettings, ConfigErrors};
pub use schema::{DirectorySchemas, SchemaError, SchemaSource, SchemaVersion};
pub use server::Adapter;
