//! One conformance suite for all backends of the control path.
//!
//! [`suite`] holds the cases, [`fixture`] what a backend gives to be tested; each further module is one backend.

#![allow(clippy::expect_used, reason = "a broken expectation is a failed test")]

#[macro_use]
mod suite;

mod fixture;

#[path = "../support/server.rs"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod server;

mod cluster;
mod embedded;
mod network;
