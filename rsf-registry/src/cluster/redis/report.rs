//! Consumers' reports: a hash an instance, one field a reporter, each with a deadline of its own.
//!
//! A field's value is its deadline, fifteen decimal digits of Unix milliseconds by the server's clock, the incarnation in
//! twenty decimal digits, then `a` (it answers) or `g` (it is gone). Each write removes what is overdue; the hash as a
//! whole expires with its last field. It never has more than [`MAX_REPORTERS`] fields, so that neither a write nor a reading
//! grows with the number of consumers, and like the acknowledgements' its writes belong to a class of notifications that RSF
//! does not ask for.

use std::time::Duration;

use async_trait::async_trait;

use super::RedisLeases;
use super::lease::milliseconds;
use crate::limits::{self, MAX_REPORTERS};
use crate::record::{Report, ReportFinding};
use crate::{ReportSource, ReportStore, Reported, StoreError};

const DEADLINE_DIGITS: usize = 15;
const INCARNATION_DIGITS: usize = 20;
/// How many fields of one hash are looked at: more than RSF writes.
const LOOKED_AT: usize = MAX_REPORTERS * 2;
/// How many instances one request asks for.
const PAGE: usize = 500;

/// KEYS: the hashes of the instances. ARGV: TTL in ms, the greatest number of fields, reporter, then for each key what it
/// says: incarnation in twenty digits and the finding. Answers how many were kept.
pub(super) const REPORT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local until_then = string.format('%015.0f', now + ttl)
local kept = 0
for at, key in ipairs(KEYS) do
  local said = ARGV[at + 3]
  local count, own, gone = 0, false, nil
  local all = redis.call('HRANDFIELD', key, most * 2, 'WITHVALUES')
  for i = 1, #all, 2 do
    local deadline = tonumber(all[i + 1]:sub(1, 15))
    if not deadline or deadline <= now then
      redis.call('HDEL', key, all[i])
    else
      count = count + 1
      if all[i] == ARGV[3] then own = true end
      if all[i + 1]:sub(36) == 'g' then gone = all[i] end
    end
  end
  if not own and count >= most and gone and said:sub(21) == 'a' then
    redis.call('HDEL', key, gone)
    count = count - 1
  end
  if own or count < most then
    redis.call('HSET', key, ARGV[3], until_then .. said)
    if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ARGV[1]) end
    kept = kept + 1
  end
end
return kept
";

#[async_trait]
impl ReportStore for RedisLeases {
    async fn report(&self, reports: &[Report], ttl: Duration) -> Result<usize, StoreError> {
        limits::check_reports(reports)?;
        limits::check_ttl("reports", ttl)?;
        let Some(first) = reports.first() else {
            return Ok(0);
        };
        let mut script = self.scripts.report.prepare_invoke();
        for report in reports {
            script.key(self.report_key(&report.instance));
        }
        script
            .arg(milliseconds(ttl))
            .arg(MAX_REPORTERS)
            .arg(&first.reporter);
        for report in reports {
            script.arg(encode(report));
        }
        self.invoke(&script).await
    }
}

#[async_trait]
impl ReportSource for RedisLeases {
    async fn reports(&self, instances: &[String]) -> Result<Reported, StoreError> {
        let mut reported = Reported::default();
        for instances in instances.chunks(PAGE) {
            let mut read = redis::pipe();
            read.cmd("TIME");
            for instance in instances {
                read.cmd("HRANDFIELD").arg(self.report_key(instance));
                read.arg(LOOKED_AT).arg("WITHVALUES");
            }
            let mut answers = self.query::<Vec<redis::Value>>(&read).await?.into_iter();
            let clock: Option<(u64, u64)> =
                answers.next().and_then(|time| redis::from_redis_value(time).ok());
            let Some((seconds, microseconds)) = clock else {
                return Err(self.unavailable("it does not tell the time".to_owned()));
            };
            let now = seconds.saturating_mul(1000).saturating_add(microseconds / 1000);
            for (instance, answer) in instances.iter().zip(answers) {
                take(instance, answer, now, &mut reported);
            }
        }
        Ok(reported)
    }
}

impl RedisLeases {
    fn report_key(&self, instance: &str) -> String {
        format!("{}report:{instance}", self.prefix)
    }
}

fn encode(report: &Report) -> String {
    let finding = match report.finding() {
        ReportFinding::Answers => 'a',
        _ => 'g',
    };
    format!("{:0INCARNATION_DIGITS$}{finding}", report.incarnation)
}

/// Takes in what is said of `instance` and not overdue.
fn take(instance: &str, answer: redis::Value, now: u64, reported: &mut Reported) {
    let Ok(fields) = redis::from_redis_value::<Vec<(Vec<u8>, Vec<u8>)>>(answer) else {
        reported.ill_formed += 1;
        return;
    };
    for (reporter, value) in fields {
        match decode(instance, &reporter, &value) {
            Some((deadline, report)) if deadline > now => reported.reports.push(report),
            Some(_) => {}
            None => reported.ill_formed += 1,
        }
    }
}

/// The deadline and the report of a field; `None` where no consumer writes such a one.
fn decode(instance: &str, reporter: &[u8], value: &[u8]) -> Option<(u64, Report)> {
    let number = |digits: &[u8]| {
        let all = digits.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(digits)
            .ok()
            .filter(|_| all)?
            .parse::<u64>()
            .ok()
    };
    let (deadline, rest) = value.split_at_checked(DEADLINE_DIGITS)?;
    let (incarnation, finding) = rest.split_at_checked(INCARNATION_DIGITS)?;
    let finding = match finding {
        b"a" => ReportFinding::Answers,
        b"g" => ReportFinding::Gone,
        _ => return None,
    };
    let report = Report {
        instance: instance.to_owned(),
        incarnation: number(incarnation)?,
        finding: finding.into(),
        reporter: std::str::from_utf8(reporter).ok()?.to_owned(),
    };
    limits::check_reports(std::slice::from_ref(&report)).ok()?;
    Some((number(deadline)?, report))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_field_is_what_a_consumer_writes_or_nothing() {
        let report = Report {
            instance: "a/1".into(),
            incarnation: u64::MAX,
            finding: ReportFinding::Gone.into(),
            reporter: "b/2".into(),
        };
        let value = format!("001763766000123{}", encode(&report));
        let read = decode("a/1", b"b/2", value.as_bytes());
        assert_eq!(read, Some((1_763_766_000_123, report)));
        for bad in [
            "",
            "001763766000123",
            "00176376600012300000000000000000007x",
            "00176376600012300000000000000000007",
            "00176376600012300000000000000000007aa",
            "+0176376600012300000000000000000007a",
            "00176376600012300000000000000000000a",
            "00176376600012399999999999999999999a",
        ] {
            assert_eq!(decode("a/1", b"b/2", bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(decode("a/1", b"", value.as_bytes()), None);
        assert_eq!(decode("a/1", b"\xff", value.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn noise_never_panics(
            reporter in prop::collection::vec(any::<u8>(), 0..32), value in prop::collection::vec(any::<u8>(), 0..64)
        ) {
            let _ = decode("a/1", &reporter, &value);
        }
    }
}
