//! The engine by chance: bytes that mean nothing or nearly something, and schedules of calls against the h2 crate.
//!
//! `RSF_FUZZ_SECONDS` is how long each target of [`fuzz`] goes on (a second without it), `RSF_FUZZ_SEED` where it
//! begins; `make fuzz` sets them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

#[path = "../bytes/raw.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod raw;

mod fuzz;
mod input;
mod schedules;
