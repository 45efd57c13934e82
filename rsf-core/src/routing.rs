//! What routing reads and decides, the same at the consumer, at the provider and where policies are checked.
//!
//! 1. [`field`]: a field of a request, found in its encoded bytes.
//! 2. [`key`]: what a call is about: a field, a metadata value, or what the caller named.
//! 3. [`shard`]: keys → zones and tags.
//! 4. [`expression`]: a small total language that reads fields and metadata.
//!
//! Which instances a call may go to is decided in `client/route`; `server/shard` checks shards again.

pub(crate) mod field;
pub(crate) mod key;

pub(crate) mod shard;

pub(crate) mod expression;
