//! RSF's data path: the governed call.

pub mod control;
pub mod method;
pub mod policy;
