//! T10: somebody turns Redis' notifications off while instances come.

use std::time::Duration;

use rsf_suite::{Case, Fleet, FleetLists, Kind, Site};
use tokio::time::Instant;

use crate::ground::seconds;
use crate::plain_subscriber::misses_changes;
use crate::t09::without_sweeps;

const OFF: &str = "CONFIG SET notify-keyspace-events \"\"";
const CHANGES: usize = 50;
/// How long after the change it must be seen without notifications: noticed within 5 s, and what a busy machine needs.
const SEEN_WITHIN: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t10_cluster() {
    let mut case = Case::begin("T10");
    let mut site = Site::start_with(Kind::Cluster, without_sweeps()).await;
    let fleet = Fleet::start(&site, 50, 20).await;
    let lists = FleetLists::watch(&fleet).await;
    site.redis().tell(OFF).await;
    for change in 0..CHANGES {
        fleet.join(&format!("new-{change}"), &[change % fleet.services()]);
    }
    fleet.all_registered().await;
    let changed = Instant::now();
    let right = lists.right_within(SEEN_WITHIN * 3).await;
    case.figure("changes", CHANGES);
    case.figure("seen_s", seconds(changed.elapsed()));
    case.hold(
        format!("all changes are seen: {:?}", lists.differences()),
        right.is_some_and(|took| took <= SEEN_WITHIN),
    );
    lists.judge(&mut case);
    site.stop().await;
    case.end();
}

/// Who only subscribes is told nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t10_control_a_plain_subscriber() {
    misses_changes("T10-control", OFF, CHANGES, SEEN_WITHIN).await;
}
