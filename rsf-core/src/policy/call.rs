//! What governs a call at its consumer: the object `call`, and under `methods` and `consumers` what differs.

use serde::{Deserialize, Serialize};

use super::connections::{ConnectionsPolicy, ConnectionsRules};
use super::degrade::{DegradePolicy, DegradeRules};
use super::fields::{HOUR_MS, Kind};
use super::group::group;
use super::limit::{LimitPolicy, LimitRules};
use super::method_breaker::{MethodBreakerPolicy, MethodBreakerRules};
use super::node_breaker::{NodeBreakerPolicy, NodeBreakerRules};
use super::routing::{RoutingPolicy, RoutingRules};
use super::trace::{TracePolicy, TraceRules};

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
        trace: TracePolicy => TraceRules, "which calls are traced";
        @service connections: ConnectionsPolicy => ConnectionsRules, "how many connections there are, and how they are made and watched over";
        @service node_breaker: NodeBreakerPolicy => NodeBreakerRules, "when an instance that fails is left alone";
        method_breaker: MethodBreakerPolicy => MethodBreakerRules, "when a method that fails or is slow as a whole is not called for a while";
        limit: LimitPolicy => LimitRules, "what each process of a consumer may send";
        degrade: DegradePolicy => DegradeRules, "what answers in the method's place, and when";
        @service routing: RoutingPolicy => RoutingRules, "which instances a call may go to";
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
