//! What governs a call at its provider: the object `provider`.

use std::collections::BTreeMap;

use super::authorization::{AuthorizationPolicy, AuthorizationRules};
use super::dedup::{DedupPolicy, DedupRules};
use super::fields::Kind;
use super::group::{Origins, group};

group! {
    /// The provider's side of a policy.
    policy ProviderPolicy;
    /// What holds for the methods of one service in this process.
    resolved ProviderRules;
    fields {
        @instance pool: u32 = 1024, Kind::Integer(1, 1_000_000),
            "handlers that run at once in an instance";
        @instance queue: u32 = 4096, Kind::Integer(0, 1_000_000),
            "calls that wait for a place in the pool; one more is refused (`queue_full`)";
    }
    maps {
        concurrency: BTreeMap<String, u32>, Kind::Numbers(0, 1_000_000),
            "method name → calls that it may have under way at once, waiting ones included; one more is refused (`provider_limit`)";
        dedup_methods: BTreeMap<String, DedupPolicy>, Kind::Named(DedupPolicy::FIELDS),
            "method name → what differs from `dedup` for that method";
    }
    groups {
        @service authorization: AuthorizationPolicy => AuthorizationRules, "which applications may call which methods";
        dedup: DedupPolicy => DedupRules, "how the outcomes of deduplicated methods are kept and replayed";
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
