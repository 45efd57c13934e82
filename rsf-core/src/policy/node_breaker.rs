//! When an instance that fails is left alone: the object `call.node_breaker`.

use super::fields::{HOUR_MS, Kind};
use super::group::group;

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
        consecutive_timeouts: u32 = 3, Kind::Integer(1, 1000),
            "timeouts without a success between them that eject an instance";
        consecutive_busy: u32, Kind::Integer(1, 1000),
            "refusals by its threshold or queue without a success between them that eject an instance; none, because under overload an ejected instance is missing to the others";
        ejection_ms: u64 = 5000, Kind::Integer(100, HOUR_MS),
            "milliseconds of the first ejection; each further one lasts one such step longer, ±20 % jitter";
        max_ejection_ms: u64 = 300_000, Kind::Integer(100, HOUR_MS),
            "milliseconds at which ejections stop growing";
        ejection_decay_ms: u64 = 10_000, Kind::Integer(100, HOUR_MS),
            "milliseconds without an ejection that take one step off the next one's length";
        max_ejected_percent: u32 = 50, Kind::Integer(0, 100),
            "the largest share of the instances that may be ejected, rounded down, yet one of two or more unless it is 0, and never the last one; beyond it all others serve";
    }
}
