//! How a consumer is connected to the instances of a service: the group `connections`.

use super::fields::{HOUR_MS, Kind};
use super::group::group;

group! {
    /// How many connections there are, and how they are made and watched over.
    policy ConnectionsPolicy;
    /// How many connections there are, and how they are made and watched over, resolved.
    #[derive(Copy)]
    resolved ConnectionsRules;
    fields {
        floor: u32 = 16, Kind::Integer(0, 20_000),
            "connections that are made ahead of the first call and kept without calls; further ones are made on demand";
        idle_close_ms: u64 = 300_000, Kind::Integer(0, 24 * HOUR_MS),
            "milliseconds without a call after which a connection above the floor closes; 0: never";
        subset: u32 = 1024, Kind::Integer(0, 20_000),
            "instances that one consumer uses at most, each consumer others, in all in proportion to their weights; 0: all";
        subset_zone_percent: u32 = 50, Kind::Integer(0, 100),
            "the share of the subset and of the floor that comes from the consumer's own zone, the rest from the others, as far as they have so many; 0: zones do not count";
        keepalive_ms: u64 = 5000, Kind::Integer(0, HOUR_MS),
            "milliseconds of silence after which a PING probes a connection; 0: never. Only towards instances of the registry: foreign servers take frequent PINGs for an attack";
        keepalive_timeout_ms: u64 = 4000, Kind::Integer(10, HOUR_MS),
            "milliseconds that the answer to a PING may take before the connection counts as dead";
        connect_timeout_ms: u64 = 1000, Kind::Integer(10, 60_000),
            "milliseconds that making a connection may take";
        max_pause_ms: u64 = 5000, Kind::Integer(50, HOUR_MS),
            "milliseconds between two attempts to connect at most; the pause begins with 50 and doubles, with jitter, and a waiting call cuts it short";
    }
}
