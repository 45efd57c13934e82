//! The pump against twins of its stores, with their faults; the clock is paused and nothing waits for real.

#![allow(clippy::expect_used, reason = "a test's steps may not fail")]

mod twin;
mod world;

mod backup;
mod embedded;
mod evidence;
mod leadership;
mod liveness;
mod publishing;
mod reports;
mod several_sources;
mod source_faults;
