//! One instance's lease: written if it is not older than the stored one, renewed if it is the same incarnation.
//!
//! ```text
//! 0      format: 1, or 2 of an instance that has left
//! 1..9   incarnation, big-endian
//! 9..17  sequence, big-endian
//! 17..   the protobuf record `rsf.registry.v1.Lease`
//! ```
//! The numbers stand before the record so that the scripts, which know no protobuf, compare them byte by byte: Lua's
//! numbers are too narrow for them, and its string order follows the server's locale. A renewal compares the first nine
//! bytes, so that a late one neither prolongs nor shortens the word that the instance has left.

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;

use super::RedisLeases;
use crate::record::{Lease, LeaseState};
use crate::{LeaseStore, Renewal, StoreError, limits};

const FORMAT: u8 = 1;
const FORMAT_LEFT: u8 = 2;
const HEADER: usize = 17;
/// Format and incarnation.
const INCARNATION_HEADER: usize = 9;

/// KEYS: the lease. ARGV: its bytes, TTL in ms. Answers 1, or what is stored where that is greater.
pub(super) const PUT: &str = r"
local stored = redis.call('GETRANGE', KEYS[1], 0, 16)
if #stored == 17 and (stored:byte(1) == 1 or stored:byte(1) == 2) then
  for i = 2, 17 do
    local old, new = stored:byte(i), ARGV[1]:byte(i)
    if old > new then return redis.call('GET', KEYS[1]) end
    if old < new then break end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
";

/// KEYS: the lease. ARGV: format, incarnation and sequence. Removes the lease unless a greater one is stored.
pub(super) const REMOVE: &str = r"
local stored = redis.call('GETRANGE', KEYS[1], 0, 16)
for i = 2, #stored do
  local old, new = stored:byte(i), ARGV[1]:byte(i)
  if old > new then return 0 end
  if old < new then break end
end
return redis.call('DEL', KEYS[1])
";

/// KEYS: a lease. Changes nothing, and by its first line is refused where a write would be: by a replica, a full
/// server, one that cannot save, for a user that may not.
pub(super) const READY: &str = r"#!lua
return 1
";

#[async_trait]
impl LeaseStore for RedisLeases {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        limits::check_lease(lease)?;
        limits::check_ttl(&lease.instance, ttl)?;
        let key = self.lease_key(&lease.instance);
        let mut script = self.scripts.put.key(&key);
        script.arg(encode(lease)).arg(milliseconds(ttl));
        let answer: redis::Value = self.invoke(&script).await?;
        match answer {
            redis::Value::BulkString(stored) => Err(superseded(&lease.instance, &stored)),
            _ => Ok(()),
        }
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        limits::check_ttl(instance, ttl)?;
        self.renew_in_batch(instance, incarnation, ttl).await
    }
}

impl RedisLeases {
    /// Removes the lease of an instance that has a later one elsewhere.
    pub(super) async fn remove(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut script = self.scripts.remove.key(self.lease_key(&lease.instance));
        script.arg(&header(lease)[..]);
        self.invoke(&script).await
    }

    /// Whether the lease of `instance` could be written now; writes nothing.
    pub(super) async fn ready(&self, instance: &str) -> Result<(), StoreError> {
        self.invoke(&self.scripts.ready.key(self.lease_key(instance)))
            .await
    }
}

/// What stands before the sequence in the lease of this incarnation that has not left.
pub(super) fn incarnation_header(incarnation: u64) -> [u8; INCARNATION_HEADER] {
    let mut bytes = [FORMAT; INCARNATION_HEADER];
    bytes[1..].copy_from_slice(&incarnation.to_be_bytes());
    bytes
}

fn header(lease: &Lease) -> [u8; HEADER] {
    let mut header = [FORMAT; HEADER];
    header[..INCARNATION_HEADER].copy_from_slice(&incarnation_header(lease.incarnation));
    header[INCARNATION_HEADER..].copy_from_slice(&lease.sequence.to_be_bytes());
    if lease.state() == LeaseState::Deregistered {
        header[0] = FORMAT_LEFT;
    }
    header
}

fn encode(lease: &Lease) -> Vec<u8> {
    let mut bytes = header(lease).to_vec();
    bytes.extend(lease.encode_to_vec());
    bytes
}

/// What the key of `instance` holds; [`StoreError::Invalid`] where it is not this instance's lease.
pub(super) fn decode(instance: &str, bytes: &[u8]) -> Result<Lease, StoreError> {
    let invalid = |reason: &str| StoreError::Invalid {
        key: instance.to_owned(),
        reason: reason.to_owned(),
    };
    let (header, record) = bytes
        .split_at_checked(HEADER)
        .ok_or_else(|| invalid("it is shorter than its header"))?;
    if !matches!(header[0], FORMAT | FORMAT_LEFT) {
        return Err(invalid(
            "its format is unknown; upgrade RSF, or something else wrote it",
        ));
    }
    let lease = Lease::decode(record).map_err(|error| invalid(&error.to_string()))?;
    if header != self::header(&lease) || lease.instance != instance {
        return Err(invalid("its header or its key does not fit its record"));
    }
    Ok(lease)
}

fn superseded(instance: &str, stored: &[u8]) -> StoreError {
    let number = |range| {
        stored
            .get(range)
            .and_then(|b: &[u8]| b.try_into().ok())
            .map_or(0, u64::from_be_bytes)
    };
    let left = decode(instance, stored).is_ok_and(|lease| lease.state() == LeaseState::Deregistered);
    StoreError::Superseded {
        instance: instance.to_owned(),
        incarnation: number(1..9),
        sequence: number(9..17),
        left,
    }
}

/// Whole milliseconds, at least one: Redis refuses a TTL of zero.
pub(super) fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis())
        .unwrap_or(u64::MAX)
        .clamp(1, 1 << 50)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lease() -> Lease {
        Lease {
            instance: "order/a".to_owned(),
            incarnation: u64::MAX,
            sequence: 3,
            ..Default::default()
        }
    }

    #[test]
    fn a_lease_comes_back_under_its_own_key_only() {
        let bytes = encode(&lease());
        assert_eq!(decode("order/a", &bytes).unwrap(), lease());
        assert!(matches!(
            decode("order/b", &bytes),
            Err(StoreError::Invalid { .. })
        ));
    }

    proptest! {
        #[test]
        fn noise_never_panics_and_a_damaged_header_never_passes(
            noise in prop::collection::vec(any::<u8>(), 0..256), at in 0..HEADER, bit in 0..8
        ) {
            let _ = decode("order/a", &noise);
            let mut bytes = encode(&lease());
            bytes[at] ^= 1u8 << bit;
            prop_assert!(decode("order/a", &bytes).is_err());
        }
    }
}
