//! What the pump reads: all leases with the source's identity, or a few of them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use redis::{InfoDict, Pipeline};
use tokio::sync::mpsc;

use super::{NO_CLUSTER, RedisLeases, lease};
use crate::lease::{LiveLease, SWEEP_PAGE};
use crate::{Hint, LeaseSource, StoreError, Sweep, limits};

/// How many keys one step of a sweep asks for.
const PAGE: usize = SWEEP_PAGE;
/// What a lease without a TTL counts for. RSF writes none: somebody took it away, and the next renewal gives it back.
const WITHOUT_TTL: Duration = Duration::from_secs(15);

type Values = Vec<Option<Vec<u8>>>;

#[async_trait]
impl LeaseSource for RedisLeases {
    fn name(&self) -> &str {
        &self.address
    }

    async fn sweep(&self) -> Result<Sweep, StoreError> {
        let (sender, mut pages) = mpsc::channel::<Vec<LiveLease>>(1);
        // A key may come twice; a later reading replaces an earlier one.
        let mut leases = HashMap::new();
        let gather = async {
            while let Some(page) = pages.recv().await {
                leases.extend(page.into_iter().map(|live| (live.lease.instance.clone(), live)));
            }
        };
        let (source, ()) = tokio::join!(self.sweep_into(sender), gather);
        Ok(Sweep {
            source: source?,
            leases: leases.into_values().collect(),
        })
    }

    async fn sweep_into(&self, pages: mpsc::Sender<Vec<LiveLease>>) -> Result<String, StoreError> {
        let pattern = format!("{}*", escape_glob(&self.lease_prefix()));
        let mut scan = redis::pipe();
        scan.cmd("SCAN")
            .arg(0)
            .arg("MATCH")
            .arg(&pattern)
            .arg("COUNT")
            .arg(PAGE);
        let ((mut cursor, mut keys),): ((u64, Vec<Vec<u8>>),) = self.query(&scan).await?;
        loop {
            let mut step = redis::pipe();
            step.cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(PAGE);
            let (next, read) = self.read_page(&keys, (cursor != 0).then_some(step)).await?;
            let page: Vec<LiveLease> = read.into_iter().flatten().collect();
            if pages.send(page).await.is_err() {
                return Err(self.unavailable("nobody listens to the sweep any more".to_owned()));
            }
            match next {
                Some((at, found)) => (cursor, keys) = (at, found),
                None => break,
            }
        }
        // Asked last: had the store lost its leases on the way, its identity now differs from the last sweep's.
        let source = self.source().await?;
        *self.swept.lock() = Some(source.clone());
        Ok(source)
    }

    async fn read(&self, instances: &[String]) -> Result<Vec<Option<LiveLease>>, StoreError> {
        let mut found = Vec::with_capacity(instances.len());
        for page in instances.chunks(PAGE) {
            let keys: Vec<Vec<u8>> = page
                .iter()
                .map(|instance| self.lease_key(instance).into_bytes())
                .collect();
            found.extend(self.read_page(&keys, None).await?.1);
        }
        if found.iter().any(Option::is_none) {
            self.check_source().await?;
        }
        Ok(found)
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        self.subscribe().await
    }
}

impl RedisLeases {
    /// Reads the leases at `keys` in one round trip, and with them the next step of a scan.
    async fn read_page(
        &self,
        keys: &[Vec<u8>],
        scan: Option<Pipeline>,
    ) -> Result<(Option<(u64, Vec<Vec<u8>>)>, Vec<Option<LiveLease>>), StoreError> {
        let mut pipeline = scan.clone().unwrap_or_default();
        if !keys.is_empty() {
            pipeline.cmd("MGET").arg(keys);
            for key in keys {
                pipeline.cmd("PTTL").arg(key);
            }
        }
        if pipeline.is_empty() {
            return Ok((None, Vec::new()));
        }
        let answers: Vec<redis::Value> = self.query(&pipeline).await?;
        let mut answers = VecDeque::from(answers);
        let unreadable =
            |error: redis::ParsingError| self.unavailable(format!("it answered nonsense: {error}"));
        let next = match scan {
            Some(_) => {
                let answer = answers.pop_front().unwrap_or(redis::Value::Nil);
                Some(redis::from_redis_value(answer).map_err(unreadable)?)
            }
            None => None,
        };
        if keys.is_empty() {
            return Ok((next, Vec::new()));
        }
        let values: Values =
            redis::from_redis_value(answers.pop_front().unwrap_or(redis::Value::Nil)).map_err(unreadable)?;
        let ttls: Vec<i64> =
            redis::from_redis_value(redis::Value::Array(answers.into())).map_err(unreadable)?;
        let live = keys
            .iter()
            .zip(values)
            .zip(ttls)
            .map(|((key, value), ttl)| self.live(key, value?, ttl))
            .collect();
        Ok((next, live))
    }

    fn live(&self, key: &[u8], value: Vec<u8>, ttl: i64) -> Option<LiveLease> {
        let remaining = match ttl {
            -2 => return None,
            -1 => WITHOUT_TTL,
            ttl => Duration::from_millis(u64::try_from(ttl).unwrap_or(0)),
        };
        let instance = std::str::from_utf8(key)
            .ok()?
            .strip_prefix(&self.lease_prefix())?;
        // Checked as it was when it was written: one lease of another make must not spoil a whole list.
        let read =
            lease::decode(instance, &value).and_then(|lease| limits::check_lease(&lease).map(|()| lease));
        match read {
            Ok(lease) => Some(LiveLease { lease, remaining }),
            Err(error) => {
                tracing::warn!(%error, "left out a stored lease");
                None
            }
        }
    }

    /// Which server this is, with which data: its run, its replication history, and a key that is lost with the rest.
    ///
    /// Fails where the server refuses writes, for then it refuses renewals too and leases expire without meaning it.
    pub(super) async fn source(&self) -> Result<String, StoreError> {
        let canary = format!("{}canary", self.prefix);
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("server");
        pipeline.cmd("INFO").arg("replication");
        // A write that changes nothing and needs no memory: a full server still renews, a read-only one does not.
        pipeline.cmd("PERSIST").arg(&canary).ignore();
        pipeline.cmd("GET").arg(&canary);
        let (server, replication, kept): (InfoDict, InfoDict, Option<String>) = self.query(&pipeline).await?;
        let canary = match kept {
            Some(kept) => kept,
            None => self.plant(&canary).await?,
        };
        if server
            .get::<String>("redis_mode")
            .is_some_and(|mode| mode == "cluster")
        {
            return Err(StoreError::Refused {
                backend: "redis",
                reason: format!("{}: {NO_CLUSTER}", self.address),
            });
        }
        let run: String = server.get("run_id").unwrap_or_default();
        let history: String = replication.get("master_replid").unwrap_or_default();
        Ok(format!("{run}/{history}/{canary}"))
    }

    /// Writes a canary with a name of its own, unless another reader was faster.
    async fn plant(&self, canary: &str) -> Result<String, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("SET")
            .arg(canary)
            .arg(format!("{:016x}", fastrand::u64(..)))
            .arg("NX")
            .ignore();
        pipeline.cmd("GET").arg(canary);
        let (planted,): (Option<String>,) = self.query(&pipeline).await?;
        Ok(planted.unwrap_or_default())
    }

    /// Refuses to believe that a lease is gone where the store itself may have lost it since the last sweep.
    async fn check_source(&self) -> Result<(), StoreError> {
        let source = self.source().await?;
        match &*self.swept.lock() {
            Some(swept) if *swept != source => {
                Err(self.unavailable("it lost its data since the last sweep".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Takes the special meaning from the characters of a `MATCH` or `PSUBSCRIBE` pattern. No others: a user's right to a
/// pattern is compared with it letter by letter.
pub(super) fn escape_glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_with_glob_characters_matches_itself_only() {
        assert_eq!(escape_glob("rsf:a*b[c]-d:"), r"rsf:a\*b\[c\]-d:");
    }
}
