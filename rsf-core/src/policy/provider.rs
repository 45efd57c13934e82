//! What governs a call at its provider: the object `provider`.

use std::collections::BTreeMap;

use super::adaptive::{AdaptivePolicy, AdaptiveRules};
use super::authorization::{AuthorizationPolicy, AuthorizationRules};
use super::call::Priority;
use super::dedup::{DedupPolicy, DedupRules};
use super::document::PolicyError;
use super::fields::{HOUR_MS, Kind};
use super::group::{Origins, group, join};

group! {
    /// The provider's side of a policy.
    policy ProviderPolicy;
    /// What holds for the methods of one service in this process.
    resolved ProviderRules;
    fields {
        @instance pool: u32 = 1024, Kind::Integer(1, 1_000_000),
            "handlers that run at once in an instance";
        @instance queue: u32 = 4096, Kind::Integer(0, 1_000_000),
            "calls that wait for a place in the pool; one more is refused (`queue_full`). Calls of low priority may fill half of it";
        @instance queue_timeout_ms: u64, Kind::Integer(1, HOUR_MS),
            "milliseconds that a call waits at most for a place in the pool, its own deadline apart; then it is refused (`queue_timeout`)";
        @instance body_budget_mib: u32 = 1024, Kind::Integer(1, 1_048_576),
            "MiB of request messages over 64 KiB that an instance holds at once; one more is refused (`provider_limit`)";
        @instance watchdog_ms: u64 = 100, Kind::Integer(0, 60_000),
            "milliseconds that a handler may block its I/O thread before its method is moved to threads of its own, checked to a quarter; 0 switches the watch off";
        @service max_priority: Priority = Priority::High, Kind::Word(Priority::WORDS),
            "the highest priority that calls have here and further down, whatever their callers say (`rsf-priority`)";
    }
    maps {
        concurrency: BTreeMap<String, u32>, Kind::Numbers(0, 1_000_000),
            "method name → calls that it may have under way at once, waiting ones included; one more is refused (`provider_limit`)";
        pool_share: BTreeMap<String, u32>, Kind::Numbers(1, 100),
            "method name → percent of the pool that it may take at most; what is beyond waits";
        queue_share: BTreeMap<String, u32>, Kind::Numbers(0, 100),
            "method name → percent of the queue that it may fill at most; one more is refused (`queue_full`)";
        groups: BTreeMap<String, LimitGroupPolicy>, Kind::Named(LimitGroupPolicy::FIELDS),
            "name → methods of a service that share one limit";
        dedup_methods: BTreeMap<String, DedupPolicy>, Kind::Named(DedupPolicy::FIELDS),
            "method name → what differs from `dedup` for that method";
    }
    groups {
        @service authorization: AuthorizationPolicy => AuthorizationRules, "which applications may call which methods";
        dedup: DedupPolicy => DedupRules, "how the outcomes of deduplicated methods are kept and replayed";
        @instance adaptive: AdaptivePolicy => AdaptiveRules, "a pool whose size follows from the handlers' latency";
    }
}

group! {
    /// Methods that share one limit.
    policy LimitGroupPolicy;
    /// Methods that share one limit, resolved.
    resolved LimitGroupRules;
    fields {
        methods: Vec<String>, Kind::TextList(200, 1000),
            "names of the methods";
        concurrency: u32, Kind::Integer(0, 1_000_000),
            "calls that the group may have under way at once, waiting ones included; one more is refused (`provider_limit`)";
        pool_share: u32, Kind::Integer(1, 100),
            "percent of the pool that the group may take at most; what is beyond waits";
        queue_share: u32, Kind::Integer(0, 100),
            "percent of the queue that the group may fill at most; one more is refused (`queue_full`)";
    }
}

impl ProviderPolicy {
    /// What the kinds of the fields cannot say: a group that limits nothing, bounds that exclude each other.
    pub(super) fn check(&self, errors: &mut Vec<PolicyError>) {
        let mut error = |path: &str, problem: String| {
            errors.push(PolicyError {
                path: join("provider", path),
                problem,
            });
        };
        for (name, group) in &self.groups {
            let path = format!("groups.{name}");
            let methods = group.methods.as_deref().unwrap_or_default();
            if methods.is_empty() {
                error(&path, "has no methods; name them under `methods`".to_owned());
            }
            for (place, method) in methods.iter().enumerate() {
                if methods[..place].contains(method) {
                    error(
                        &format!("{path}.methods[{place}]"),
                        format!("`{method}` is named twice"),
                    );
                }
            }
            if group.concurrency.is_none() && group.pool_share.is_none() && group.queue_share.is_none() {
                let problem = "limits nothing; set `concurrency`, `pool_share` or `queue_share`";
                error(&path, problem.to_owned());
            }
        }
        if let (Some(min), Some(max)) = (self.adaptive.min, self.adaptive.max)
            && min > max
        {
            let problem = format!("{min} is more than `max`, {max}; the limit moves between them");
            error("adaptive.min", problem);
        }
    }
}

impl ProviderRules {
    /// What holds for the outcomes of one deduplicated method.
    pub fn dedup_of(&self, method: &str) -> DedupRules {
        let mut rules = self.dedup;
        if let Some(own) = self.dedup_methods.get(method) {
            rules.apply("", own, &"".into(), &mut Origins::new());
        }
        rules
    }
}
