//! One instance's lease: written if it is not older than the stored one, renewed if it is the same incarnation.
//!
//! ```text
//! 0      format, 1
//! 1..9   incarnation, big-endian
//! 9..17  sequence, big-endian
//! 17..   the protobuf record `rsf.registry.v1.Lease`
//! ```
//! The numbers stand before the record so that the scripts, which know no protobuf, compare them byte by byte: Lua's
//! numbers are too narrow for them, and its string order follows the server's locale.

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;

use super::RedisLeases;
use crate::record::Lease;
use crate::{LeaseStore, Renewal, StoreError, limits};

const FORMAT: u8 = 1;
const HEADER: usize = 17;

/// KEYS: the lease. ARGV: its bytes, TTL in ms. Answers 1, or the stored header where that is greater.
pub(super) const PUT: &str = r"
local stored = redis.call('GETRANGE', KEYS[1], 0, 16)
if #stored == 17 and stored:byte(1) == 1 then
  for i = 2, 17 do
    local old, new = stored:byte(i), ARGV[1]:byte(i)
    if old > new then return stored end
    if old < new then break end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
";

/// KEYS: the lease. ARGV: format and incarnation, TTL in ms. Answers 1, or 0 where another incarnation is stored.
pub(super) const RENEW: &str = r"
if redis.call('GETRANGE', KEYS[1], 0, 8) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
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
            redis::Value::BulkString(stored) => Err(stale(&key, &stored, lease)),
            _ => Ok(()),
        }
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        limits::check_ttl(instance, ttl)?;
        let mut script = self.scripts.renew.key(self.lease_key(instance));
        script.arg(&header(incarnation, 0)[..9]).arg(milliseconds(ttl));
        let renewed: i64 = self.invoke(&script).await?;
        Ok(if renewed == 1 {
            Renewal::Renewed
        } else {
            Renewal::Unknown
        })
    }
}

fn header(incarnation: u64, sequence: u64) -> [u8; HEADER] {
    let mut header = [FORMAT; HEADER];
    header[1..9].copy_from_slice(&incarnation.to_be_bytes());
    header[9..].copy_from_slice(&sequence.to_be_bytes());
    header
}

fn encode(lease: &Lease) -> Vec<u8> {
    let mut bytes = header(lease.incarnation, lease.sequence).to_vec();
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
    if header[0] != FORMAT {
        return Err(invalid(
            "its format is unknown; upgrade RSF, or something else wrote it",
        ));
    }
    let lease = Lease::decode(record).map_err(|error| invalid(&error.to_string()))?;
    if header != self::header(lease.incarnation, lease.sequence) || lease.instance != instance {
        return Err(invalid("its header or its key does not fit its record"));
    }
    Ok(lease)
}

fn stale(key: &str, stored: &[u8], offered: &Lease) -> StoreError {
    let number = |range| {
        stored
            .get(range)
            .and_then(|b: &[u8]| b.try_into().ok())
            .map_or(0, u64::from_be_bytes)
    };
    StoreError::Stale {
        key: key.to_owned(),
        reason: format!(
            "incarnation {} sequence {} is stored, incarnation {} sequence {} was offered",
            number(1..9),
            number(9..17),
            offered.incarnation,
            offered.sequence
        ),
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
