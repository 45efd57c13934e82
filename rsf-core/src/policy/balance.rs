//! How an instance is chosen: the word `balance`, and the groups `hash` and `warm_up`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fields::{HOUR_MS, Kind};
use super::group::group;

/// How an instance is chosen among those that are well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Balance {
    /// The least pending calls per weight, of candidates drawn by weight; reported load, failures, slowness and warm-up
    /// count as well.
    LeastPending,
    /// By weight alone.
    Random,
    /// By weight, in a fixed and even order.
    RoundRobin,
    /// The instance that the call's routing key belongs to, as long as it is not loaded beyond its share.
    ConsistentHash,
    /// The least latency × pending calls, where a latency peak counts at once and is forgotten slowly.
    PeakEwma,
    /// The balancer that the application has registered under this name.
    Custom(Arc<str>),
}

/// A text that names no way to choose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no balance; use one of {words}, or `{prefix}<name>`",
    words = Balance::WORDS.join(", "),
    prefix = Balance::PREFIX
)]
pub struct UnknownBalance(String);

impl Balance {
    pub(super) const WORDS: &'static [&'static str] = &[
        "least_pending",
        "random",
        "round_robin",
        "consistent_hash",
        "peak_ewma",
    ];
    /// Before the name of a balancer of the application's own.
    pub(super) const PREFIX: &'static str = "custom:";
}

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(text: &str) -> Result<Self, UnknownBalance> {
        Ok(match text {
            "least_pending" => Balance::LeastPending,
            "random" => Balance::Random,
            "round_robin" => Balance::RoundRobin,
            "consistent_hash" => Balance::ConsistentHash,
            "peak_ewma" => Balance::PeakEwma,
            _ => match text.strip_prefix(Balance::PREFIX) {
                Some(name) if is_name(name) => Balance::Custom(name.into()),
                _ => return Err(UnknownBalance(text.to_owned())),
            },
        })
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Balance::LeastPending => "least_pending",
            Balance::Random => "random",
            Balance::RoundRobin => "round_robin",
            Balance::ConsistentHash => "consistent_hash",
            Balance::PeakEwma => "peak_ewma",
            Balance::Custom(name) => return write!(f, "{}{name}", Balance::PREFIX),
        })
    }
}

impl TryFrom<String> for Balance {
    type Error = UnknownBalance;

    fn try_from(text: String) -> Result<Self, UnknownBalance> {
        text.parse()
    }
}

impl From<Balance> for String {
    fn from(balance: Balance) -> String {
        balance.to_string()
    }
}

/// Whether `name` may stand behind a prefix such as `custom:`.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// [`is_name`] as a regular expression.
pub(super) const NAME_PATTERN: &str = "[A-Za-z0-9_.-]{1,64}";

group! {
    /// How `consistent_hash` chooses.
    policy HashPolicy;
    /// How `consistent_hash` chooses, resolved.
    #[derive(Copy)]
    resolved HashRules;
    fields {
        bounded_load_percent: u32 = 125, Kind::Integer(101, 10_000),
            "the most calls that an instance may have under way from here, in percent of its fair share; beyond it the key's next instance serves";
    }
}

group! {
    /// How a new instance comes to its full share.
    policy WarmUpPolicy;
    /// How a new instance comes to its full share, resolved.
    #[derive(Copy)]
    resolved WarmUpRules;
    fields {
        duration_ms: u64 = 30_000, Kind::Integer(0, HOUR_MS),
            "milliseconds within which the share of an instance that has just started grows from a tenth to the whole; ends early once it answers as fast as the others (1.5 × their median); 0: at once";
    }
}
