//! A twin of one Redis server and of what RSF asks of it: leases with TTLs, sweeps page by page, notifications as hints.

mod server;

mod client;
mod hints;

pub(crate) use client::RedisClient;
pub(crate) use server::{Comeback, Redis};
