//! What governs a call at its consumer: the object `call`, and under `methods` and `consumers` what differs.

use serde::{Deserialize, Serialize};

use super::balance::{Balance, HashPolicy, HashRules, WarmUpPolicy, WarmUpRules};
use super::connections::{ConnectionsPolicy, ConnectionsRules};
use super::degrade::{DegradePolicy, DegradeRules};
use super::fields::{HOUR_MS, Kind};
use super::group::group;
use super::limit::{LimitPolicy, LimitRules};
use super::method_breaker::{MethodBreakerPolicy, MethodBreakerRules};
use super::node_breaker::{NodeBreakerPolicy, NodeBreakerRules};
use super::retry::RetryReasons;
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
            "milliseconds after which an attempt counts against its instance, and a further one may start beside it; it stays alive and may still win";
        priority: Priority, Kind::Word(Priority::WORDS),
            "which calls a provider that has too many serves first and refuses last; calls made inside a call never rank above it. Without one: the surrounding call's, else `normal`";
        @service balance: Balance = Balance::LeastPending, Kind::Choice(Balance::WORDS, Balance::PREFIX),
            "how an instance is chosen (docs/balancing.md); `custom:<name>` is a balancer that the application registers";
    }
    groups {
        retry: RetryPolicy => RetryRules, "when and how often a call is attempted again";
        trace: TracePolicy => TraceRules, "which calls are traced";
        @service connections: ConnectionsPolicy => ConnectionsRules, "how many connections there are, and how they are made and watched over";
        @service hash: HashPolicy => HashRules, "how `consistent_hash` chooses";
        @service warm_up: WarmUpPolicy => WarmUpRules, "how a new instance comes to its full share";
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
            "tries of one call, hedges and the first included (gRFC A6's bound of 5)";
        reasons: RetryReasons = RetryReasons::of(&["attempt_timeout", "connection_lost", "unavailable", "provider_limit", "queue_full", "queue_timeout", "dedup_unavailable"]), Kind::Words(RetryReasons::WORDS),
            "outcomes after which a call is attempted again: the first three only of methods that may run twice, `provider_limit`, `queue_full` and `dedup_unavailable` of all, because the handler never ran; what reached no provider (`connect`, `refused`, `wrong_instance`) is attempted again whatever stands here";
        backoff_ms: u64 = 10, Kind::Integer(0, 60_000),
            "milliseconds before the second attempt; doubles with each further one, with full jitter";
        max_backoff_ms: u64 = 1000, Kind::Integer(0, 60_000),
            "milliseconds at which the doubling stops; a pause that would outlast the deadline is not made, the call fails at once";
        hedge_delay_ms: u64, Kind::Integer(0, HOUR_MS),
            "milliseconds after which a further attempt goes out beside one that has not answered (hedging), of methods that may run twice";
        hedge_percentile: f64, Kind::Number(50.0, 99.9),
            "the same after this percentile of the method's latest answers, as soon as 100 are known; before that `hedge_delay_ms` holds";
        @service budget_percent: u32 = 20, Kind::Integer(0, 100),
            "retries and hedges together as a share of the calls, per consumer and service, over ten seconds";
        @service budget_per_second: u32 = 10, Kind::Integer(0, 10_000),
            "retries and hedges a second that are allowed beyond the share, over ten seconds";
    }
}

/// How much a call matters where a provider has too many. Ordered: what ranks higher is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// May wait, and may be refused first: batches, prefetching.
    Low,
    /// Everything that says nothing.
    #[default]
    Normal,
    /// Served first, refused last: what a customer pays with.
    High,
}

impl Priority {
    pub(super) const WORDS: &'static [&'static str] = &["low", "normal", "high"];
}
