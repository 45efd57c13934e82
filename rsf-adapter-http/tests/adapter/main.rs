//! The adapter as its callers meet it: over TCP, in front of real RSF providers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails where it stands"
)]

mod support;

mod callers;
mod calls;
mod clients;
mod idempotency;
mod limits;
mod refusals;
mod schemas;
