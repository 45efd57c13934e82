//! What governs a call at its consumer: the object `call`, and under `methods` and `consumers` what differs.

use serde::{Deserialize, Serialize};

use super::connections::{ConnectionsPolicy, ConnectionsRules};
use super::fields::{HOUR_MS, Kind};
use super::group::group;

group! {
    /// The part of a policy that calls, methods and consumers can have.
    policy CallPolicy;
    /// What holds for the calls of one method.
    resolved CallRules;
    fields {
        timeout_ms: u64 = 3000, Kind::Integer(1, HOUR_MS),
            "milliseconds for the whole logical call, all attempts included; a shorter remaining time of the caller's own call wins";
        attempt_timeout_ms: u64, Kind::Integer(1, HOUR_MS),
            "milliseconds after which a further attempt may start beside the first; the first stays alive and may still win";
        @service balance: Balance = Balance::LeastPending, Kind::Word(Balance::WORDS),
            "how an instance is chosen: the lesser pending per weight of candidates drawn by weight, or by weight alone";
    }
    groups {
        retry: RetryPolicy => RetryRules, "when and how often a call is attempted again";
        @service connections: ConnectionsPolicy => ConnectionsRules, "how many connections there are, and how they are made and watched over";
        @service node_breaker: NodeBreakerPolicy => NodeBreakerRules, "when an instance that fails is left alone";
    }
}

group! {
    /// When a call is attempted again.
    policy RetryPolicy;
    /// When a call is attempted again, resolved.
    resolved RetryRules;
    fields {
        attempts: u32 = 3, Kind::Integer(1, 5),
            "tries of one call, the first included (gRFC A6's bound of 5)";
        backoff_ms: u64 = 10, Kind::Integer(0, 60_000),
            "milliseconds before the second attempt; doubles with each further one, with full jitter";
        max_backoff_ms: u64 = 1000, Kind::Integer(0, 60_000),
            "milliseconds at which the doubling stops";
        @service budget_percent: u32 = 20, Kind::Integer(0, 100),
            "retries as a share of the calls, per consumer and service, over ten seconds";
        @service budget_per_second: u32 = 10, Kind::Integer(0, 10_000),
            "retries a second that are always allowed";
    }
}

group! {
    /// When an instance is left alone.
    policy NodeBreakerPolicy;
    /// When an instance is left alone, resolved.
    #[derive(Copy)]
    resolved NodeBreakerRules;
    fields {
        enabled: bool = true, Kind::Flag, "whether failing instances are ejected";
        consecutive_failures: u32 = 5, Kind::Integer(1, 1000),
            "failures or timeouts in a row that eject an instance";
        ejection_ms: u64 = 5000, Kind::Integer(100, HOUR_MS),
            "milliseconds of the first ejection; grows with each further one, ±20 % jitter";
        max_ejection_ms: u64 = 300_000, Kind::Integer(100, HOUR_MS),
            "milliseconds that an ejection lasts at most";
        max_ejected_percent: u32 = 50, Kind::Integer(0, 100),
            "the largest share of the instances that may be ejected; beyond it all serve (panic mode)";
    }
}

/// How an instance is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The lesser pending calls per weight, of candidates drawn by weight.
    LeastPending,
    /// By weight alone.
    Random,
}

impl Balance {
    pub(super) const WORDS: &'static [&'static str] = &["least_pending", "random"];
}
