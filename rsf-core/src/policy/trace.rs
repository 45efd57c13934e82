//! Which calls are traced: the object `call.trace`.

use super::fields::Kind;
use super::group::group;

group! {
    /// Which calls are traced.
    policy TracePolicy;
    /// Which calls are traced, resolved.
    #[derive(Copy)]
    resolved TraceRules;
    fields {
        sample_percent: f64 = 0.0, Kind::Number(0.0, 100.0),
            "share of the new traces that are kept, by the `sampled` flag of `traceparent`; a call made inside another one keeps that one's flag";
    }
}
