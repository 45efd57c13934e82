//! What a consumer may send: the object `call.limit`.

use super::fields::Kind;
use super::group::group;

group! {
    /// What each process of a consumer may send.
    policy LimitPolicy;
    /// What each process of a consumer may send, resolved.
    #[derive(Copy, Eq)]
    resolved LimitRules;
    fields {
        concurrency: u32, Kind::Integer(0, 1_000_000),
            "calls of a method that each consuming process may have under way; one more is refused (`consumer_limit`)";
        rate_per_second: u32, Kind::Integer(1, 1_000_000),
            "calls of a method that each consuming process may begin in a second; one more is refused (`consumer_limit`)";
        burst: u32, Kind::Integer(1, 1_000_000),
            "calls that may begin at once after a quiet time; as many as `rate_per_second` where it is not set";
    }
}
