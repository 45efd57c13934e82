//! Claims and outcomes of deduplicated calls in Redis: one string a call.
//!
//! The string `rsf:<namespace>:dedup:<key in hex>` is
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version, `1` |
//! | 1 | `c`: claimed, `d`: done, `r`: released |
//! | 32 | the payload's hash |
//! | 15 | until when the claim holds: decimal digits of Unix milliseconds by the server's clock |
//! | 3 | how long the owner is: decimal digits |
//! | … | the owner |
//! | … | the outcome, where it is done |
//!
//! Its TTL is the window; that of a claim is lease and window together, so that a claim that ran out stays known; that of
//! a released one is the lease. The
//! string `rsf:<namespace>:dedup-since` holds since when the server has remembered all claims, and the run in which it has
//! (`<Unix milliseconds> <run_id>`). With the data it is lost, and then it starts anew; so it does in another run, for a
//! replica that was promoted or a server that was restarted with its data may lack the last claims.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::aio::ConnectionManager;
use rsf_core::server::dedup::{
    Claim, Claimed, DedupKey, DedupStore, DedupStoreError, Entry, EntryState, Held, PayloadHash,
};

use super::lease::milliseconds;
use super::{Connected, RedisUrl, code_and_detail};
use crate::{StoreError, limits};

/// Version, state, hash, deadline, the owner's length.
const HEADER: usize = 52;
const HASH: std::ops::Range<usize> = 2..34;
const DEADLINE: std::ops::Range<usize> = 34..49;
const OWNER_LENGTH: std::ops::Range<usize> = 49..52;

/// What all scripts begin with.
const PRELUDE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('GET', KEYS[1])
local found = stored
if stored and stored:sub(1, 2) == '1r' then stored = false end
local function owner()
  local length = tonumber(stored:sub(50, 52))
  return length and stored:sub(53, 52 + length)
end
local function claimed(payload, name, lease)
  return '1c' .. payload .. string.format('%015.0f', now + lease) .. string.format('%03d', #name) .. name
end
";

/// KEYS: the call, since when. ARGV: payload, owner, lease, TTL. Answers for how long all claims have been remembered,
/// or what stands and the time.
const CLAIM: &str = r"
if stored then return {stored, now} end
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and info:match('run_id:(%x+)')
local since, before = (redis.call('GET', KEYS[2]) or ''):match('^(%d+) (%x+)$')
since = tonumber(since)
if not since or not run or before ~= run then
  since = now
  redis.call('SET', KEYS[2], string.format('%.0f %s', now, run or ''))
end
redis.call('SET', KEYS[1], claimed(ARGV[1], ARGV[2], tonumber(ARGV[3])), 'PX', ARGV[4])
return math.max(now - since, 0)
";

/// KEYS: the call. ARGV: payload, owner, lease, TTL. Answers 1, 0 where nothing stood there, -1 where another's stands.
const RENEW: &str = r"
if stored and (stored:sub(1, 2) ~= '1c' or owner() ~= ARGV[2]) then return -1 end
redis.call('SET', KEYS[1], claimed(ARGV[1], ARGV[2], tonumber(ARGV[3])), 'PX', ARGV[4])
return stored and 1 or 0
";

/// KEYS: the call. ARGV: owner, TTL, the whole string to be put, whether it is an outcome. Answers as `RENEW`.
const SETTLE: &str = r"
if stored and (stored:sub(1, 1) ~= '1' or owner() ~= ARGV[1]) then return -1 end
if stored or ARGV[4] == '1' then redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2]) end
return stored and 1 or 0
";

/// KEYS: the call. Answers what stands and the time, or nothing.
const LOOK: &str = r"
if found then return {found, now} end
return false
";

/// The claims and outcomes of one namespace in one Redis server (7.0 or later).
///
/// It needs `maxmemory-policy noeviction`: an outcome that goes to make room is a handler that may run twice.
pub struct RedisDedup {
    connection: ConnectionManager,
    scripts: Scripts,
    /// `host:port`, never with credentials.
    address: String,
    /// `rsf:<namespace>:dedup`.
    prefix: String,
}

struct Scripts {
    claim: redis::Script,
    renew: redis::Script,
    settle: redis::Script,
    look: redis::Script,
}

impl std::fmt::Debug for RedisDedup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisDedup")
            .field("address", &self.address)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisDedup {
    /// The store at a `redis[s]://[user:password@]host:port[/db]` URL, for one environment. Connects with the first
    /// request; call it inside a Tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Refused`] where the URL makes no sense, [`StoreError::Invalid`] for a name that is no namespace.
    pub fn open(url: &str, namespace: &str) -> Result<Self, StoreError> {
        let url = RedisUrl::behind(&[], url).map_err(super::invalid_url)?;
        RedisDedup::at(&url, namespace)
    }

    pub(crate) fn at(url: &RedisUrl, namespace: &str) -> Result<Self, StoreError> {
        limits::check_namespace(namespace)?;
        let Connected { connection, .. } = super::connect(url)?;
        let address = url.address().to_owned();
        let script = |body: &str| redis::Script::new(&format!("{PRELUDE}{body}"));
        Ok(RedisDedup {
            connection,
            scripts: Scripts {
                claim: script(CLAIM),
                renew: script(RENEW),
                settle: script(SETTLE),
                look: script(LOOK),
            },
            address,
            prefix: format!("rsf:{namespace}:dedup"),
        })
    }

    fn key(&self, key: &DedupKey) -> String {
        format!("{}:{key}", self.prefix)
    }

    async fn invoke<T: redis::FromRedisValue>(
        &self,
        script: &redis::ScriptInvocation<'_>,
    ) -> Result<T, DedupStoreError> {
        let mut connection = self.connection.clone();
        let result = script.invoke_async(&mut connection).await;
        result.map_err(|error| {
            let (code, detail) = code_and_detail(&error);
            let reason = match code.as_str() {
                "OOM" => "it is full: raise `maxmemory` or shorten provider.dedup.window_ms".to_owned(),
                "READONLY" => "it is a replica: name the primary in RSF_DEDUP".to_owned(),
                "NOAUTH" | "WRONGPASS" => "give a valid user and password in RSF_DEDUP".to_owned(),
                "" => error.to_string(),
                code => format!("it answered {code} {detail}"),
            };
            self.error(reason)
        })
    }

    fn error(&self, reason: String) -> DedupStoreError {
        DedupStoreError {
            store: format!("redis at {}", self.address),
            reason,
        }
    }

    fn held(&self, answer: i64) -> Held {
        match answer {
            1 => Held::Ours,
            0 => Held::Lost,
            _ => Held::Taken,
        }
    }
}

impl DedupStore for RedisDedup {
    fn claim<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Claimed, DedupStoreError>> {
        Box::pin(async move {
            let mut script = self.scripts.claim.key(self.key(key));
            script
                .key(format!("{}-since", self.prefix))
                .arg(&claim.payload[..])
                .arg(&*claim.owner)
                .arg(milliseconds(claim.lease))
                .arg(milliseconds(claim.lease + claim.window));
            let answer: redis::Value = self.invoke(&script).await?;
            match &answer {
                redis::Value::Int(memory) => Ok(Claimed::New {
                    memory: Duration::from_millis(u64::try_from(*memory).unwrap_or(0)),
                }),
                redis::Value::Array(found) => found_entry(found)
                    .map(Claimed::Stands)
                    .ok_or_else(|| self.error("it answered nonsense".to_owned())),
                _ => Err(self.error("it answered nonsense".to_owned())),
            }
        })
    }

    fn renew<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Held, DedupStoreError>> {
        Box::pin(async move {
            let mut script = self.scripts.renew.key(self.key(key));
            script
                .arg(&claim.payload[..])
                .arg(&*claim.owner)
                .arg(milliseconds(claim.lease))
                .arg(milliseconds(claim.lease + claim.window));
            self.invoke(&script).await.map(|answer| self.held(answer))
        })
    }

    fn settle<'a>(
        &'a self,
        key: &'a DedupKey,
        claim: &'a Claim,
        outcome: Option<&'a Bytes>,
    ) -> BoxFuture<'a, Result<Held, DedupStoreError>> {
        Box::pin(async move {
            let mut script = self.scripts.settle.key(self.key(key));
            let kept = if outcome.is_some() {
                claim.window
            } else {
                claim.lease
            };
            script
                .arg(&*claim.owner)
                .arg(milliseconds(kept))
                .arg(ended(claim, outcome))
                .arg(u8::from(outcome.is_some()));
            self.invoke(&script).await.map(|answer| self.held(answer))
        })
    }

    fn look<'a>(&'a self, key: &'a DedupKey) -> BoxFuture<'a, Result<Option<Entry>, DedupStoreError>> {
        Box::pin(async move {
            let script = self.scripts.look.key(self.key(key));
            match self.invoke(&script).await? {
                redis::Value::Nil => Ok(None),
                redis::Value::Array(found) => found_entry(&found)
                    .map(Some)
                    .ok_or_else(|| self.error("it answered nonsense".to_owned())),
                _ => Err(self.error("it answered nonsense".to_owned())),
            }
        })
    }
}

/// The string of a call that is done, or released.
fn ended(claim: &Claim, outcome: Option<&Bytes>) -> Vec<u8> {
    let bytes = outcome.map_or(0, Bytes::len);
    let mut stored = Vec::with_capacity(HEADER + claim.owner.len() + bytes);
    stored.extend(if outcome.is_some() { b"1d" } else { b"1r" });
    stored.extend(claim.payload);
    stored.extend(format!("{:015}{:03}{}", 0, claim.owner.len(), claim.owner).into_bytes());
    stored.extend(outcome.into_iter().flatten());
    stored
}

/// What a script found, with the server's time.
fn found_entry(found: &[redis::Value]) -> Option<Entry> {
    match found {
        [redis::Value::BulkString(stored), redis::Value::Int(now)] => {
            Some(read(stored, *now).unwrap_or(Entry {
                payload: PayloadHash::default(),
                state: EntryState::Unreadable,
            }))
        }
        _ => None,
    }
}

fn read(stored: &[u8], now: i64) -> Option<Entry> {
    let number = |range| std::str::from_utf8(stored.get(range)?).ok()?.parse::<u64>().ok();
    let payload = stored.get(HASH)?.try_into().ok()?;
    let outcome = HEADER + usize::try_from(number(OWNER_LENGTH)?).ok()?;
    let state = match stored.get(..2)? {
        b"1c" if number(DEADLINE)? > u64::try_from(now).ok()? => EntryState::InProgress,
        b"1c" => EntryState::Abandoned,
        b"1r" => EntryState::Released,
        b"1d" => EntryState::Done(Bytes::copy_from_slice(stored.get(outcome..)?)),
        _ => return None,
    };
    Some(Entry { payload, state })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn noise_is_unreadable_and_never_panics(noise in prop::collection::vec(any::<u8>(), 0..128)) {
            let entry = read(&noise, 0);
            prop_assert!(entry.is_none() || noise[0] == b'1');
        }

        #[test]
        fn what_is_done_comes_back(owner in "[a-z#/]{1,999}", outcome in prop::collection::vec(any::<u8>(), 0..64)) {
            let outcome = Bytes::from(outcome);
            let claim = Claim {
                owner: owner.into(),
                payload: Claim::hash(&outcome),
                lease: Duration::from_secs(1),
                window: Duration::from_secs(2),
            };
            let entry = read(&ended(&claim, Some(&outcome)), 7).unwrap();
            prop_assert_eq!(entry, Entry { payload: claim.payload, state: EntryState::Done(outcome) });
        }
    }
}
