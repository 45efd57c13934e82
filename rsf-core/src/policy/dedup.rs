//! What governs deduplicated methods at their provider: the object `provider.dedup`.

use serde::{Deserialize, Serialize};

use super::fields::{HOUR_MS, Kind};
use super::group::group;

/// A day, the longest time that outcomes are kept.
const DAY_MS: u64 = 86_400_000;

group! {
    /// How the outcomes of deduplicated methods are kept and replayed.
    policy DedupPolicy;
    /// How the outcomes of deduplicated methods are kept and replayed, resolved.
    #[derive(Copy)]
    resolved DedupRules;
    fields {
        window_ms: u64 = 600_000, Kind::Integer(1000, DAY_MS),
            "milliseconds that an outcome is kept and replayed, from the handler's end";
        claim_ms: u64 = 5000, Kind::Integer(100, 60_000),
            "milliseconds that a claim holds without renewal; an owner that died is found out after this long (`outcome_unknown`)";
        wait_ms: u64 = 60_000, Kind::Integer(0, HOUR_MS),
            "milliseconds that a duplicate waits for the first one's outcome, its own deadline permitting; then, or at once with 0, `duplicate_in_progress`";
        waiting: u32 = 1000, Kind::Integer(0, 1_000_000),
            "duplicates that wait at once in an instance; they hold no place in the pool; one more is told `duplicate_in_progress`";
        finish_ms: u64 = 1000, Kind::Integer(0, HOUR_MS),
            "milliseconds that a handler may go on after its caller's deadline, so that its outcome is known";
        store_down: StoreDown = StoreDown::Closed, Kind::Word(StoreDown::WORDS),
            "what a call meets while the store fails: a refusal (`dedup_unavailable`), or the handler without protection against running twice";
        store_timeout_ms: u64 = 250, Kind::Integer(1, 10_000),
            "milliseconds after which the store counts as failing";
        max_reply_bytes: u64 = 65_536, Kind::Integer(0, 4_194_304),
            "bytes of a reply that is kept; of a larger one only that it was given, and duplicates are told `outcome_unknown`";
    }
}

/// What a call meets while the store of outcomes fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreDown {
    /// It is refused before the handler: nothing runs twice.
    Closed,
    /// It runs: a declared exception to "nothing runs twice".
    Open,
}

impl StoreDown {
    pub(super) const WORDS: &'static [&'static str] = &["closed", "open"];
}
