//! What deduplication asks of a store of outcomes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sha2::{Digest as _, Sha256};

/// Where claims and outcomes stand. All instances that provide a method should share one: what a store does not know, it
/// cannot keep from running twice.
///
/// Each operation is atomic. RSF bounds each by `provider.dedup.store_timeout_ms` and repeats what matters, so that an
/// implementation neither waits long nor tries again by itself; it must bear being dropped at any await point.
pub trait DedupStore: Send + Sync + 'static {
    /// Puts the claim where nothing stands, or something released; otherwise tells what stands and changes nothing.
    fn claim<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Claimed, DedupStoreError>>;

    /// Makes a claim of this owner hold for another lease. Puts it anew where nothing stands: the store has lost it.
    fn renew<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Held, DedupStoreError>>;

    /// Ends this owner's claim, expired or not: replaces it by the outcome for a window, where there is one. Otherwise the
    /// call is free to be claimed again, and [`EntryState::Released`] says so for a lease. Puts the outcome also where
    /// nothing stands. Never touches what another owner put.
    fn settle<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
        outcome: Option<&'a Bytes>,
    ) -> BoxFuture<'a, Result<Held, DedupStoreError>>;

    /// What stands at `key`.
    fn look<'a>(&'a self, key: &'a DedupKey) -> BoxFuture<'a, Result<Option<Entry>, DedupStoreError>>;
}

/// Names one logical call: a SHA-256 of the caller, the service key, the method and the request id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupKey([u8; 32]);

impl DedupKey {
    /// The key of a call.
    pub fn of(caller: &str, service: &str, method: &str, request_id: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [caller, service, method, request_id] {
            // The length first: `a` + `bc` must not meet `ab` + `c`.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        DedupKey(hash.finalize().into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for DedupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DedupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SHA-256 of a request's message.
pub type PayloadHash = [u8; 32];

/// What an owner puts before its handler begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Who: unique for each claim; at most 999 bytes.
    pub owner: Arc<str>,
    /// What was asked for.
    pub payload: PayloadHash,
    /// How long the claim holds without renewal.
    pub lease: Duration,
    /// How long an outcome is kept. A claim that ran out stays as long, so that its call is known to have begun.
    pub window: Duration,
}

impl Claim {
    /// The hash that stands for a message.
    pub fn hash(message: &[u8]) -> PayloadHash {
        Sha256::digest(message).into()
    }
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// Nothing stood there; now the claim does.
    New {
        /// For how long the store has remembered every claim of the fleet. Zero for a store that knows but a part of
        /// them, little for one that has just lost its data.
        memory: Duration,
    },
    /// Somebody was first.
    Stands(Entry),
}

/// What stands in a store for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was asked for first.
    pub payload: PayloadHash,
    /// How far it got.
    pub state: EntryState,
}

/// How far a claimed call got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryState {
    /// Its handler runs: the claim holds.
    InProgress,
    /// Its outcome, as it was given to [`DedupStore::settle`].
    Done(Bytes),
    /// The claim ran out: its owner died, or the owner and the store have lost each other.
    Abandoned,
    /// Given up before the handler began: nothing has happened.
    Released,
    /// Written by a version of RSF that this one cannot read, or by another program.
    Unreadable,
}

/// Whether an owner still holds what it claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It does.
    Ours,
    /// Nothing stood there: the store has lost the claim. What was to be put stands now.
    Lost,
    /// Another owner's claim or outcome stands there, and goes on to. The call has run twice, or does.
    Taken,
}

/// A store that could not do what it was asked for; whether it has is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{store}: {reason}")]
pub struct DedupStoreError {
    /// Which store, with its address and without credentials.
    pub store: String,
    /// What happened and what to do.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_makes_another_key() {
        let key = DedupKey::of("order", "shop.v1.Stock", "Reserve", "1");
        for other in [
            DedupKey::of("orders", "hop.v1.Stock", "Reserve", "1"),
            DedupKey::of("order", "shop.v1.StockR", "eserve", "1"),
            DedupKey::of("order", "shop.v1.Stock:gold", "Reserve", "1"),
            DedupKey::of("order", "shop.v1.Stock", "Reserve", "2"),
            DedupKey::of("", "shop.v1.Stock", "Reserve", "1"),
        ] {
            assert_ne!(key, other);
        }
        assert_eq!(key, DedupKey::of("order", "shop.v1.Stock", "Reserve", "1"));
        assert_eq!(key.to_string().len(), 64);
    }
}
