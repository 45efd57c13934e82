//! The harness of the data path's tests: an echo service whose handler each test writes, providers that can be killed
//! and drained, and a consumer, over either wire.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test program compiles the harness for itself and uses a part of it"
)]

/// Makes a test of each case over each wire, the engine's pairings included where it is built.
#[allow(unused_macros, reason = "some test programs choose their wires themselves")]
macro_rules! on_all_wires {
    ($($case:ident)*) => {
        mod http2 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(crate::support::Kind::Http2).await })*
        }
        mod in_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(crate::support::Kind::InProcess).await })*
        }
        mod engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(crate::support::Kind::Engine).await })*
        }
        mod engine_to_http2 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(crate::support::Kind::EngineToHttp2).await })*
        }
        mod http2_to_engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case(crate::support::Kind::Http2ToEngine).await })*
        }
    };
}

mod echo;
mod fleet;

use std::time::Duration;

pub use echo::{Counts, ECHO, Echo, GET, Note, PUT, Seen, descriptor, note, number, previous};
pub use fleet::{Fleet, Kind, Node, Peer};

/// How long a test waits for something that must happen.
pub const SOON: Duration = Duration::from_secs(10);

/// The value of a counter, summed over all its labels that contain `label`.
pub fn counted(registry: &prometheus::Registry, name: &str, label: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
    let fits = |metric: &&prometheus::proto::Metric| {
        label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
    };
    let sum: f64 = metrics
        .iter()
        .filter(fits)
        .map(|metric| {
            metric.get_counter().get_value()
                + metric.get_gauge().get_value()
                + metric.get_histogram().get_sample_count() as f64
        })
        .sum();
    assert!(sum >= 0.0, "{name} is {sum}: more was counted down than up");
    sum as u64
}

/// Looks until `condition` holds; fails when it does not in time.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        tokio::time::timeout(SOON, looking).await.is_ok(),
        "not in time: {what}"
    );
}
