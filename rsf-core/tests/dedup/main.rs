//! Deduplicated methods: one run for each request id, in every state that a claim can be in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod world;

mod states;

mod owner;

mod stores;

mod backlog;

mod door;
