//! Peers that RSF did not write: grpcio both ways with gRPC's interop cases, the h2 crate both ways, and curl.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

mod testing;

mod curl;
mod grpcio;
mod h2;
