//! A twin of a ZooKeeper ensemble and of what RSF keeps in it: lists, the epoch, the pumps' election, sessions, watches.

mod server;

mod link;
mod watched;
mod writer;

pub(crate) use link::Link;
pub(crate) use server::{SERVERS, ZooKeeper};
pub(crate) use writer::ZooKeeperClient;
