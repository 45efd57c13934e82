//! Acknowledgements: a hash a scope, one field an instance, each with a deadline of its own.
//!
//! A field's value is its deadline, fifteen decimal digits of Unix milliseconds by the server's clock, the incarnation in
//! twenty decimal digits, then the protobuf record `rsf.registry.v1.Acknowledgement`. A late word of an earlier start does
//! not replace that of a newer one; the scripts compare digits, since Lua's numbers are too narrow. Redis 7.0 has no TTL of single fields, so that readers leave out
//! what is overdue and remove it, and each write looks at two random fields and removes them where they are overdue:
//! what nobody reads stays small as well. The hash as a whole expires with its last field.
//!
//! A hash and not keys of their own: a hash's writes belong to a class of notifications that RSF does not ask for, and
//! the pump's sweep does not have to walk past them.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use prost::Message;

use super::RedisLeases;
use super::lease::milliseconds;
use crate::record::Acknowledgement;
use crate::{Acknowledgements, StoreError, limits};

/// How many fields one step of a reading asks for.
const PAGE: usize = 5000;
/// How many overdue fields are removed in one request.
const REMOVALS: usize = 500;
const DEADLINE_DIGITS: usize = 15;
const INCARNATION_DIGITS: usize = 20;

/// KEYS: the hash. ARGV: TTL in ms, instance, incarnation in twenty digits, record.
pub(super) const ACKNOWLEDGE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[1])
local held = redis.call('HGET', KEYS[1], ARGV[2])
local alive_until = held and tonumber(held:sub(1, 15))
if alive_until and alive_until > now then
  for i = 1, 20 do
    local old, new = held:byte(15 + i) or 0, ARGV[3]:byte(i)
    if old > new then return 0 end
    if old < new then break end
  end
end
redis.call('HSET', KEYS[1], ARGV[2], string.format('%015.0f', now + ttl) .. ARGV[3] .. ARGV[4])
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
local some = redis.call('HRANDFIELD', KEYS[1], 2, 'WITHVALUES')
for i = 1, #some, 2 do
  local deadline = tonumber(some[i + 1]:sub(1, 15))
  if not deadline or deadline <= now then redis.call('HDEL', KEYS[1], some[i]) end
end
return 1
";

/// KEYS: the hash. ARGV: instances whose acknowledgements were overdue; those that came anew meanwhile stay.
pub(super) const FORGET: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, field in ipairs(ARGV) do
  local value = redis.call('HGET', KEYS[1], field)
  local deadline = value and tonumber(value:sub(1, 15))
  if value and (not deadline or deadline <= now) then redis.call('HDEL', KEYS[1], field) end
end
return 1
";

#[async_trait]
impl Acknowledgements for RedisLeases {
    async fn acknowledge(
        &self,
        acknowledgements: &[Acknowledgement],
        ttl: Duration,
    ) -> Result<(), StoreError> {
        for acknowledgement in acknowledgements {
            limits::check_acknowledgement(acknowledgement)?;
            limits::check_ttl(&acknowledgement.instance, ttl)?;
        }
        // All at once: they share the connection, and so one round trip.
        let writes = acknowledgements.iter().map(|acknowledgement| async move {
            let mut script = self
                .scripts
                .acknowledge
                .key(self.acknowledgement_key(&acknowledgement.scope));
            script
                .arg(milliseconds(ttl))
                .arg(&acknowledgement.instance)
                .arg(format!("{:0INCARNATION_DIGITS$}", acknowledgement.incarnation))
                .arg(acknowledgement.encode_to_vec());
            self.invoke::<()>(&script).await
        });
        try_join_all(writes).await.map(drop)
    }

    async fn acknowledged(&self, scope: &str) -> Result<Vec<Acknowledgement>, StoreError> {
        let key = self.acknowledgement_key(scope);
        let mut clock = redis::pipe();
        clock.cmd("TIME");
        let ((seconds, microseconds),): ((u64, u64),) = self.query(&clock).await?;
        let now = seconds.saturating_mul(1000).saturating_add(microseconds / 1000);
        let mut found = HashMap::new();
        let mut overdue = Vec::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::pipe();
            scan.cmd("HSCAN").arg(&key).arg(cursor).arg("COUNT").arg(PAGE);
            let ((next, fields),): ((u64, Vec<(Vec<u8>, Vec<u8>)>),) = self.query(&scan).await?;
            for (instance, value) in fields {
                match decode(scope, &instance, &value) {
                    Some((deadline, acknowledgement)) if deadline > now => {
                        found.insert(instance, acknowledgement);
                    }
                    Some(_) => overdue.push(instance),
                    None => tracing::warn!(key, "left out a stored acknowledgement that is not valid"),
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        self.forget(&key, &overdue).await;
        Ok(found.into_values().collect())
    }

    fn lost_with_leases(&self) -> bool {
        true
    }
}

impl RedisLeases {
    fn acknowledgement_key(&self, scope: &str) -> String {
        format!("{}ack:{scope}", self.prefix)
    }

    /// Removes overdue fields; what cannot be removed now is removed by a later reading.
    async fn forget(&self, key: &str, overdue: &[Vec<u8>]) {
        for instances in overdue.chunks(REMOVALS) {
            let mut script = self.scripts.forget.key(key);
            for instance in instances {
                script.arg(instance);
            }
            if let Err(error) = self.invoke::<()>(&script).await {
                tracing::debug!(key, %error, "could not remove overdue acknowledgements");
                return;
            }
        }
    }
}

/// The deadline and the record of a field; `None` where it is not what this scope's instance wrote.
fn decode(scope: &str, instance: &[u8], value: &[u8]) -> Option<(u64, Acknowledgement)> {
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u64>().ok();
    let (deadline, rest) = value.split_at_checked(DEADLINE_DIGITS)?;
    let (incarnation, record) = rest.split_at_checked(INCARNATION_DIGITS)?;
    let record = Acknowledgement::decode(record).ok()?;
    let fits = record.scope == scope
        && record.instance.as_bytes() == instance
        && number(incarnation) == Some(record.incarnation);
    Some((number(deadline).filter(|_| fits)?, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_believed_only_in_its_own_place() {
        let record = Acknowledgement {
            instance: "a/1".into(),
            scope: "fleet".into(),
            incarnation: u64::MAX,
            ..Default::default()
        };
        let mut value = b"00176376600012318446744073709551615".to_vec();
        value.extend(record.encode_to_vec());
        let mut other = value.clone();
        other[34] -= 1;
        assert_eq!(decode("fleet", b"a/1", &other), None);
        assert_eq!(decode("fleet", b"a/1", &value), Some((1_763_766_000_123, record)));
        assert_eq!(decode("fleet", b"a/2", &value), None);
        assert_eq!(decode("service/x", b"a/1", &value), None);
        assert_eq!(decode("fleet", b"a/1", b"short"), None);
        assert_eq!(decode("fleet", b"a/1", b"0017637660001x3"), None);
    }
}
