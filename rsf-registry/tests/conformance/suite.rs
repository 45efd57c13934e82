//! The cases, each a function of any backend; `conformance!(Fixture)` makes a test of each.

pub(crate) mod acknowledgements;
pub(crate) mod directory;
pub(crate) mod leases;
pub(crate) mod namespaces;
pub(crate) mod outages;
pub(crate) mod policies;
pub(crate) mod reports;
pub(crate) mod shards;

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use rsf_registry::record::{
    Lease, LeaseState, ListHold, ListVersion, ListedInstance, ProvidedService, Removal, RemovalCause,
    ServiceList,
};
use rsf_registry::{Observed, Watch};

/// How long a case waits for what must come. Long enough for a busy machine: no case waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One test for each case of the suite: `conformance!(F)` for any [`Fixture`](crate::fixture::Fixture), and besides
/// `conformance!(outages of F)` where it is an [`Outage`](crate::fixture::Outage) too.
macro_rules! conformance {
    ($fixture:ty) => {
        conformance!(@cases $fixture;
            leases: put_read_sweep, renewal_prolongs, runs_out, stale_incarnation_is_refused,
                stale_sequence_is_refused, renewal_of_unknown, deregistering_leaves_a_tombstone,
                a_tombstone_is_not_renewed, sweep_sees_all,
                changes_are_hinted, bad_leases_are_refused;
            directory: list_round_trip, watch_sees_absent_present_changed, older_list_is_refused,
                second_term_fences_the_first, epoch_rises_to_the_least, services_are_listed, watches_are_apart,
                a_removed_list_is_absent_and_comes_back;
            shards: a_change_brings_one_shard, no_half_written_list_is_ever_seen, a_list_shrinks_out_of_its_shards,
                a_fenced_shard_is_refused;
            policies: publish_and_watch, stale_revision_is_refused, publishing_twice_is_no_error,
                deletion_is_an_empty_document, document_and_revision_go_together;
            acknowledgements: by_scope, last_one_counts, a_late_one_of_an_earlier_start_is_passed_over, run_out;
            reports: who_says_what_of_whom, a_reporters_last_word_counts, an_instance_has_so_many_reporters_and_no_more,
                reports_run_out, bad_reports_are_refused;
            namespaces: unknown_namespace_is_named;
        );
    };
    (outages of $fixture:ty) => {
        conformance!(@cases $fixture;
            outages: unavailable_in_time, watches_survive_a_restart, policies_survive_a_restart,
                epoch_survives_a_restart;
        );
    };
    (@cases $fixture:ty; $($area:ident: $($case:ident),* $(,)?;)*) => {
        $(mod $area {
            #[allow(unused_imports, reason = "the fixture may be named by a path or by its name")]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let fixture = <$fixture as crate::fixture::Fixture>::new().await;
                    crate::suite::$area::$case(&fixture).await;
                }
            )*
        })*
    };
}

/// A lease of `application/name` that provides one service.
pub(crate) fn lease(application: &str, name: &str, incarnation: u64, sequence: u64) -> Lease {
    Lease {
        namespace: "default".into(),
        application: application.into(),
        instance: format!("{application}/{name}"),
        incarnation,
        sequence,
        address: "127.0.0.1:7001".into(),
        admin_address: "127.0.0.1:7002".into(),
        zone: "east".into(),
        tags: HashMap::from([("colour".into(), "blue".into())]),
        weight: 100,
        services: vec![ProvidedService {
            name: "shop.v1.MemberService".into(),
            implementation: "gold".into(),
            schema_hash: "ab12".into(),
        }],
        state: LeaseState::Up.into(),
        version: "0.1.0".into(),
    }
}

/// A list of `count` instances; the sequence is also in `written_unix_ms`, so that a torn list shows.
pub(crate) fn list(service: &str, epoch: u64, sequence: u64, count: usize) -> ServiceList {
    let instance = |n: usize| ListedInstance {
        instance: format!("member/{n}"),
        incarnation: 1_700_000_000_000 + n as u64,
        application: "member".into(),
        address: format!("127.0.0.1:{}", 1 + n % 60_000),
        admin_address: String::new(),
        zone: "east".into(),
        tags: HashMap::from([("n".into(), n.to_string())]),
        weight: 100,
        state: LeaseState::Up.into(),
        schema_hash: "ab12".into(),
    };
    ServiceList {
        service: service.into(),
        version: Some(ListVersion { epoch, sequence }),
        written_unix_ms: sequence,
        instances: (0..count).map(instance).collect(),
        removed: vec![Removal {
            instance: "member/gone".into(),
            incarnation: 7,
            cause: RemovalCause::Expired.into(),
            at_unix_ms: 8,
        }],
        hold: Some(ListHold {
            before: 9,
            since_unix_ms: 10,
        }),
    }
}

/// Waits until `found` yields something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut found: impl FnMut() -> F,
) -> T {
    let search = async {
        loop {
            if let Some(found) = found().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// Waits until a watch shows a state that `wanted` accepts, and returns what that makes of it.
pub(crate) async fn observe<T: std::fmt::Debug, U>(
    watch: &mut Watch<T>,
    what: &str,
    mut wanted: impl FnMut(Observed<T>) -> Option<U>,
) -> U {
    let search = async {
        let mut state = watch.current();
        loop {
            if let Some(found) = wanted(state) {
                return found;
            }
            state = watch
                .changed()
                .await
                .unwrap_or_else(|| panic!("the watch ended before {what}"));
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("never observed: {what}; last {:?}", watch.current()))
}
