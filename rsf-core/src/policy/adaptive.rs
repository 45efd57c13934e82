//! The pool that sizes itself: the group `provider.adaptive`.

use super::fields::Kind;
use super::group::group;

group! {
    /// A pool whose size follows from the handlers' latency.
    policy AdaptivePolicy;
    /// A pool whose size follows from the handlers' latency, resolved. The algorithm and its numbers are Gradient2 of
    /// Netflix's concurrency-limits.
    #[derive(Copy)]
    resolved AdaptiveRules;
    fields {
        enabled: bool = false, Kind::Flag,
            "whether the learned limit is used instead of `pool`";
        initial: u32 = 20, Kind::Integer(1, 1_000_000),
            "handlers at once until something is learned";
        min: u32 = 4, Kind::Integer(1, 1_000_000),
            "the least that the limit may become";
        max: u32 = 200, Kind::Integer(1, 1_000_000),
            "the most that the limit may become";
        smoothing: f64 = 0.2, Kind::Number(0.01, 1.0),
            "how much of each step is taken";
        tolerance: f64 = 1.5, Kind::Number(1.0, 10.0),
            "how many times the long-term latency the recent one may be before the limit shrinks";
        window_ms: u64 = 1000, Kind::Integer(10, 60_000),
            "milliseconds of latencies that one step goes by; with fewer than ten calls it waits for more";
    }
}
