//! Peers that RSF did not write: gRPC's interop cases with grpcio, grpc-js and tonic, each both ways; the h2 crate both ways;
//! curl, nghttp and h2load; and Python's hpack, hyperframe and h2, scripted byte by byte.
//!
//! A tool that is missing fails its tests, which say how to install it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

mod interop;
mod testing;

mod curl;
mod frames;
mod grpcio;
mod h2;
mod nghttp;
mod node;
mod tonic;
