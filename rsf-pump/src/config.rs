//! How a pump is configured, and the check that reports every mistake at once.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::evidence::{InquiryConfig, Kind};
use crate::shrink::ShrinkConfig;

/// The settings as they stand in a file, unchecked. Unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PumpSettings {
    /// This pump's name in elections and status; must differ between pumps of one namespace. Default `pump`.
    pub pump: String,
    /// Where the pump keeps its last epoch; without one, a wiped directory falls back on the Unix seconds.
    pub state_file: Option<PathBuf>,
    /// The TTL that instances use, milliseconds, 1 000 to 600 000. Default 15 000.
    pub lease_ttl_ms: u64,
    /// How often all leases are read, milliseconds, 100 to `lease_ttl_ms`. After a reading that took long there is a pause of
    /// its length, of this time at most, unless something asks for another. Default 5 000.
    pub sweep_ms: u64,
    /// How long reading some leases may take before the source counts as stalled, milliseconds. Default 3 000.
    pub read_timeout_ms: u64,
    /// How long a sweep may take before the source counts as stalled, milliseconds. Default 10 000.
    pub sweep_timeout_ms: u64,
    /// How long a write to the directory may take, milliseconds. Default 10 000.
    pub write_timeout_ms: u64,
    /// The least time between two rounds of writes, milliseconds, at most 60 000. Default 1 000.
    pub coalesce_ms: u64,
    /// How long the first change after a quiet time waits for company, milliseconds, at most `coalesce_ms`.
    /// Default 100.
    pub first_delay_ms: u64,
    /// How many lists are written a second at most, 1 to 100 000; what waits longest goes first. Default 5 000.
    pub write_rate: u32,
    /// How long an empty list stays before it is deleted, milliseconds, at least 10 000; 0 keeps it for ever. Default
    /// 604 800 000, a week.
    pub list_retention_ms: u64,
    /// Whether rule R is enforced. `false` publishes every loss at once: for drills and negative controls only.
    /// Default `true`.
    pub shrink_enforced: bool,
    /// The share of a service that may be lost without a word in one window, percent, 1 to 100. Default 20.
    pub shrink_share_percent: u8,
    /// The window of that share, milliseconds, at least 1 000. Default 10 000.
    pub shrink_window_ms: u64,
    /// The share of a service that stays while a hold lasts, percent, 0 to 100. Default 50.
    pub shrink_floor_percent: u8,
    /// How long a hold lasts without evidence, milliseconds, at least the window. Default 300 000.
    pub shrink_hold_ms: u64,
    /// Whether instances that are missing and held are asked themselves: a TCP connection to their service port tells who is
    /// gone and who lives. Default `true`.
    pub probe: bool,
    /// Whether consumers are believed who report, from their own connections, which of them answer and which are gone.
    /// Default `true`.
    pub reports: bool,
    /// How long one question to one kind of evidence may take, milliseconds, 10 to 60 000. Default 1 000.
    pub probe_timeout_ms: u64,
    /// How many held instances are looked into a second at most, 1 to 10 000. Default 100.
    pub probe_rate: u32,
    /// How many are looked into at once, 1 to 10 000. Default 32.
    pub probe_concurrency: u32,
    /// How long a finding stands before it is asked for again, milliseconds, 1 000 to 600 000; it counts for three times
    /// as long. Default 10 000.
    pub probe_interval_ms: u64,
}

impl Default for PumpSettings {
    fn default() -> Self {
        PumpSettings {
            pump: "pump".into(),
            state_file: None,
            lease_ttl_ms: 15_000,
            sweep_ms: 5_000,
            read_timeout_ms: 3_000,
            sweep_timeout_ms: 10_000,
            write_timeout_ms: 10_000,
            coalesce_ms: 1_000,
            first_delay_ms: 100,
            write_rate: 5_000,
            list_retention_ms: 7 * 86_400_000,
            shrink_enforced: true,
            shrink_share_percent: 20,
            shrink_window_ms: 10_000,
            shrink_floor_percent: 50,
            shrink_hold_ms: 300_000,
            probe: true,
            reports: true,
            probe_timeout_ms: 1_000,
            probe_rate: 100,
            probe_concurrency: 32,
            probe_interval_ms: 10_000,
        }
    }
}

/// Checked settings: made by [`PumpSettings::validate`] only.
#[derive(Debug, Clone)]
pub struct PumpConfig {
    pub(crate) pump: String,
    pub(crate) state_file: Option<PathBuf>,
    pub(crate) lease_ttl: Duration,
    pub(crate) sweep: Duration,
    pub(crate) read_timeout: Duration,
    pub(crate) sweep_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) coalesce: Duration,
    pub(crate) first_delay: Duration,
    pub(crate) write_rate: u32,
    pub(crate) list_retention: Option<Duration>,
    pub(crate) shrink: ShrinkConfig,
    /// The kinds of evidence that count.
    pub(crate) evidence: Vec<Kind>,
    pub(crate) inquiry: InquiryConfig,
}

impl PumpConfig {
    /// The checked rule R.
    pub fn shrink(&self) -> &ShrinkConfig {
        &self.shrink
    }

    /// The pump's name.
    pub fn pump(&self) -> &str {
        &self.pump
    }
}

/// Everything that is wrong with some settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pump's configuration is invalid:{}", .problems.iter().map(|p| format!("\n  - {p}")).collect::<String>())]
pub struct InvalidConfig {
    /// One line for each mistake, naming the field, its value and what is allowed.
    pub problems: Vec<String>,
}

impl PumpSettings {
    /// Checks every field and reports all mistakes together.
    pub fn validate(self) -> Result<PumpConfig, InvalidConfig> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(InvalidConfig { problems });
        }
        let ms = Duration::from_millis;
        Ok(PumpConfig {
            pump: self.pump,
            state_file: self.state_file,
            lease_ttl: ms(self.lease_ttl_ms),
            sweep: ms(self.sweep_ms),
            read_timeout: ms(self.read_timeout_ms),
            sweep_timeout: ms(self.sweep_timeout_ms),
            write_timeout: ms(self.write_timeout_ms),
            coalesce: ms(self.coalesce_ms),
            first_delay: ms(self.first_delay_ms),
            write_rate: self.write_rate,
            list_retention: (self.list_retention_ms > 0).then(|| ms(self.list_retention_ms)),
            shrink: ShrinkConfig {
                enforced: self.shrink_enforced,
                lease_ttl: ms(self.lease_ttl_ms),
                share_percent: self.shrink_share_percent,
                window: ms(self.shrink_window_ms),
                floor_percent: self.shrink_floor_percent,
                max_hold: ms(self.shrink_hold_ms),
            },
            evidence: [(Kind::Probe, self.probe), (Kind::Reports, self.reports)]
                .into_iter()
                .filter_map(|(kind, counts)| counts.then_some(kind))
                .collect(),
            inquiry: InquiryConfig {
                timeout: ms(self.probe_timeout_ms),
                gap: Duration::from_secs(1) / self.probe_rate.max(1),
                concurrency: usize::try_from(self.probe_concurrency).unwrap_or(1),
                interval: ms(self.probe_interval_ms),
            },
        })
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |field: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.push(format!(
                    "{field} = {value} is out of range: use {least} to {most}"
                ));
            }
        };
        check("lease_ttl_ms", self.lease_ttl_ms, 1_000, 600_000);
        check(
            "sweep_ms",
            self.sweep_ms,
            100,
            self.lease_ttl_ms.clamp(100, 600_000),
        );
        check("read_timeout_ms", self.read_timeout_ms, 100, 60_000);
        check("sweep_timeout_ms", self.sweep_timeout_ms, 100, 300_000);
        check("write_timeout_ms", self.write_timeout_ms, 100, 300_000);
        check("coalesce_ms", self.coalesce_ms, 0, 60_000);
        check(
            "first_delay_ms",
            self.first_delay_ms,
            0,
            self.coalesce_ms.min(60_000),
        );
        if self.list_retention_ms > 0 {
            check(
                "list_retention_ms",
                self.list_retention_ms,
                10_000,
                10 * 365 * 86_400_000,
            );
        }
        check("write_rate", self.write_rate.into(), 1, 100_000);
        check("shrink_share_percent", self.shrink_share_percent.into(), 1, 100);
        check("shrink_window_ms", self.shrink_window_ms, 1_000, 600_000);
        check("shrink_floor_percent", self.shrink_floor_percent.into(), 0, 100);
        check(
            "shrink_hold_ms",
            self.shrink_hold_ms,
            self.shrink_window_ms.min(600_000),
            86_400_000,
        );
        check("probe_timeout_ms", self.probe_timeout_ms, 10, 60_000);
        check("probe_rate", self.probe_rate.into(), 1, 10_000);
        check("probe_concurrency", self.probe_concurrency.into(), 1, 10_000);
        check("probe_interval_ms", self.probe_interval_ms, 1_000, 600_000);
        let printable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        if self.pump.is_empty() || self.pump.len() > 200 || !self.pump.chars().all(printable) {
            problems.push(format!(
                "pump = {:?} is no name: use 1 to 200 letters, digits and . _ - :",
                self.pump
            ));
        }
        if self
            .state_file
            .as_ref()
            .is_some_and(|path| path.file_name().is_none())
        {
            problems.push("state_file names no file: give a path such as /var/lib/rsf/pump.state".into());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        let config = PumpSettings::default().validate().expect("defaults");
        assert_eq!(config.sweep, Duration::from_secs(5));
        assert!(config.shrink.enforced);
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let settings = PumpSettings {
            pump: "a b".into(),
            lease_ttl_ms: 0,
            first_delay_ms: 2_000,
            shrink_share_percent: 0,
            write_rate: 0,
            probe_rate: 0,
            state_file: Some("/".into()),
            ..PumpSettings::default()
        };
        let error = settings.validate().expect_err("invalid");
        let fields = [
            "pump",
            "lease_ttl_ms",
            "first_delay_ms",
            "shrink_share_percent",
            "write_rate",
            "probe_rate",
            "state_file",
        ];
        for field in fields {
            assert!(
                error.problems.iter().any(|p| p.starts_with(field)),
                "{field} in {error}"
            );
        }
        assert!(
            error
                .to_string()
                .contains("lease_ttl_ms = 0 is out of range: use 1000 to 600000")
        );
    }
}
