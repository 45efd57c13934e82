//! One conformance suite for all backends of the control path.
//!
//! [`suite`] holds the cases, [`fixture`] what a backend gives to be tested; each further module is one backend.

#[macro_use]
mod suite;

mod fixture;

mod embedded;
mod network;
