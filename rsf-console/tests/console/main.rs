//! The console over in-memory stores: its truth, its API, its live figures.

#![allow(clippy::unwrap_used, reason = "the tests' own helpers, outside #[test]")]

mod twin;

mod truth;

mod api;
mod embedded;
mod guards;
mod live;
