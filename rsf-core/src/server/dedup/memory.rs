//! A store in the process's own memory.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::store::{
    Claim, Claimed, DedupKey, DedupStore, DedupStoreError, Entry, EntryState, Held, PayloadHash,
};

/// Bytes of memory at most, unless [`MemoryDedup::bounded`] says otherwise.
const BYTES: usize = 64 * 1024 * 1024;
/// What an entry takes beside its outcome: the key twice, hash, owner, times and the maps' own.
const ENTRY_BYTES: usize = 320;
/// Overdue entries that one claim removes at most while there is room: two, so that they go faster than new ones come.
const REMOVALS: usize = 2;

/// Claims and outcomes in memory: they end with the process. Full, it refuses new claims; it never forgets early.
///
/// Right where every call of a method meets the same store. Between instances it shares nothing; one that is
/// [`of_one_instance`](MemoryDedup::of_one_instance) knows that, and a call that may have run elsewhere ends with
/// `outcome_unknown` instead of running again.
#[derive(Debug)]
pub struct MemoryDedup {
    entries: Mutex<Entries>,
    /// Since when all claims are remembered; `None` where others hold some of them.
    whole_since: Option<Instant>,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<DedupKey, Stored>,
    /// When to look whether an entry is overdue; it may have been renewed since.
    overdue: BinaryHeap<Reverse<(Instant, DedupKey)>>,
    bytes: usize,
}

#[derive(Debug)]
struct Stored {
    owner: Arc<str>,
    payload: PayloadHash,
    /// Until when the claim holds.
    claimed: Instant,
    outcome: Option<Bytes>,
    released: bool,
    /// Until when it is kept.
    kept: Instant,
}

impl MemoryDedup {
    /// A store that all providers of its methods share: for tests, and where all of them are in one process.
    pub fn new() -> Self {
        MemoryDedup {
            entries: Mutex::default(),
            whole_since: Some(Instant::now()),
            most_bytes: BYTES,
        }
    }

    /// A store that other instances of the application do not see.
    pub fn of_one_instance() -> Self {
        MemoryDedup {
            whole_since: None,
            ..MemoryDedup::new()
        }
    }

    /// Takes so many bytes at most, 64 MiB by default.
    pub fn bounded(mut self, bytes: usize) -> Self {
        self.most_bytes = bytes;
        self
    }

    fn put(&self, key: &DedupKey, claim: &Claim, now: Instant) -> Result<Claimed, DedupStoreError> {
        let mut entries = self.entries.lock();
        entries.remove_overdue(now, self.most_bytes);
        if let Some(stored) = entries.held(key, now) {
            return Ok(Claimed::Stands(stored.entry(now)));
        }
        if entries.bytes + ENTRY_BYTES > self.most_bytes {
            return Err(DedupStoreError {
                store: "memory".to_owned(),
                reason: format!(
                    "{} outcomes fill its {} bytes; shorten provider.dedup.window_ms, or set RSF_DEDUP to a Redis",
                    entries.by_key.len(),
                    self.most_bytes
                ),
            });
        }
        entries.insert(*key, Stored::claimed(claim, now));
        let memory = self.whole_since.map(|since| now.saturating_duration_since(since));
        Ok(Claimed::New {
            memory: memory.unwrap_or_default(),
        })
    }

    fn prolong(&self, key: &DedupKey, claim: &Claim, now: Instant) -> Held {
        let mut entries = self.entries.lock();
        match entries.held(key, now) {
            Some(stored) if stored.owner != claim.owner || stored.outcome.is_some() => Held::Taken,
            Some(stored) => {
                stored.claimed = now + claim.lease;
                stored.kept = stored.claimed + claim.window;
                Held::Ours
            }
            None => {
                entries.insert(*key, Stored::claimed(claim, now));
                Held::Lost
            }
        }
    }

    fn end(&self, key: &DedupKey, claim: &Claim, outcome: Option<&Bytes>, now: Instant) -> Held {
        let mut entries = self.entries.lock();
        let held = match entries.held(key, now) {
            Some(stored) if stored.owner != claim.owner => return Held::Taken,
            Some(_) => Held::Ours,
            None => Held::Lost,
        };
        let stored = match outcome {
            Some(outcome) => Stored {
                outcome: Some(outcome.clone()),
                kept: now + claim.window,
                ..Stored::claimed(claim, now)
            },
            None if held == Held::Lost => return held,
            None => Stored {
                released: true,
                kept: now + claim.lease,
                ..Stored::claimed(claim, now)
            },
        };
        entries.insert(*key, stored);
        held
    }
}

impl Default for MemoryDedup {
    fn default() -> Self {
        Self::new()
    }
}

impl Stored {
    fn claimed(claim: &Claim, now: Instant) -> Self {
        let claimed = now + claim.lease;
        Stored {
            owner: claim.owner.clone(),
            payload: claim.payload,
            claimed,
            outcome: None,
            released: false,
            kept: claimed + claim.window,
        }
    }

    fn entry(&self, now: Instant) -> Entry {
        let state = match &self.outcome {
            _ if self.released => EntryState::Released,
            Some(outcome) => EntryState::Done(outcome.clone()),
            None if self.claimed > now => EntryState::InProgress,
            None => EntryState::Abandoned,
        };
        Entry {
            payload: self.payload,
            state,
        }
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.outcome.as_ref().map_or(0, Bytes::len)
    }
}

impl Entries {
    fn get(&mut self, key: &DedupKey, now: Instant) -> Option<&mut Stored> {
        self.by_key.get_mut(key).filter(|stored| stored.kept > now)
    }

    /// What keeps others from claiming the call.
    fn held(&mut self, key: &DedupKey, now: Instant) -> Option<&mut Stored> {
        self.get(key, now).filter(|stored| !stored.released)
    }

    fn insert(&mut self, key: DedupKey, stored: Stored) {
        self.remove(&key);
        self.bytes += stored.bytes();
        self.overdue.push(Reverse((stored.kept, key)));
        self.by_key.insert(key, stored);
    }

    fn remove(&mut self, key: &DedupKey) {
        if let Some(stored) = self.by_key.remove(key) {
            self.bytes -= stored.bytes();
        }
    }

    fn remove_overdue(&mut self, now: Instant, most_bytes: usize) {
        let mut removed = 0;
        while (removed < REMOVALS || self.bytes + ENTRY_BYTES > most_bytes)
            && let Some(Reverse((due, key))) = self.overdue.peek().copied()
            && due <= now
        {
            self.overdue.pop();
            match self.by_key.get(&key) {
                Some(stored) if stored.kept <= now => {
                    self.remove(&key);
                    removed += 1;
                }
                // Renewed since, without a place in the queue of its own.
                Some(stored) => self.overdue.push(Reverse((stored.kept, key))),
                None => {}
            }
        }
    }
}

impl DedupStore for MemoryDedup {
    fn claim<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Claimed, DedupStoreError>> {
        Box::pin(async { self.put(key, claim, Instant::now()) })
    }

    fn renew<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Held, DedupStoreError>> {
        Box::pin(async { Ok(self.prolong(key, claim, Instant::now())) })
    }

    fn settle<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
        outcome: Option<&'a Bytes>,
    ) -> BoxFuture<'a, Result<Held, DedupStoreError>> {
        Box::pin(async move { Ok(self.end(key, claim, outcome, Instant::now())) })
    }

    fn look<'a>(&'a self, key: &'a DedupKey) -> BoxFuture<'a, Result<Option<Entry>, DedupStoreError>> {
        Box::pin(async {
            let now = Instant::now();
            Ok(self.entries.lock().get(key, now).map(|stored| stored.entry(now)))
        })
    }
}
