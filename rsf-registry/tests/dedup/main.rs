//! One conformance suite for all stores of outcomes, and what only a server can do wrong.

#![allow(clippy::expect_used, reason = "a broken expectation is a failed test")]

#[macro_use]
mod suite;

mod memory;
mod redis;
