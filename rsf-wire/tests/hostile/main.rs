//! Peers that mean harm, or have lost their wits: each limit holds, is counted, and honest calls go on beside them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

#[path = "../bytes/raw.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod raw;

#[path = "../bytes/peer.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod peer;

mod answered;
mod floods;
mod memory;
mod slow;
mod streaming;
