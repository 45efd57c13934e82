//! The embedded registry itself: its file after a kill and a restart, its port against bad input.

#![allow(clippy::expect_used, reason = "a broken expectation is a failed test")]

#[path = "../support/server.rs"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod server;

mod file;
mod port;
