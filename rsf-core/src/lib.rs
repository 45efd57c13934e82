//! RSF's data path: the governed call.

pub mod control;
