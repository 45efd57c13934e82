//! T09: the pump's subscription is killed, again and again, while 200 instances come.

use std::time::Duration;

use rsf_suite::{Case, Fleet, FleetLists, Kind, Site, SiteOptions};
use tokio::time::Instant;

use crate::ground::seconds;
use crate::plain_subscriber::misses_changes;

const CHANGES: usize = 200;
/// How long after the last kill everything must be seen: 2 s, and what a busy machine needs.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t09_cluster() {
    let mut case = Case::begin("T09");
    let mut site = Site::start_with(Kind::Cluster, without_sweeps()).await;
    let fleet = Fleet::start(&site, 50, 20).await;
    let lists = FleetLists::watch(&fleet).await;
    let mut killed = 0;
    for change in 0..CHANGES {
        fleet.join(&format!("new-{change}"), &[change % fleet.services()]);
        if change % 10 == 0 {
            let answer = site.redis().tell("CLIENT KILL TYPE pubsub").await;
            killed += usize::from(!answer.starts_with(":0"));
        }
    }
    fleet.all_registered().await;
    site.redis().tell("CLIENT KILL TYPE pubsub").await;
    let last = Instant::now();
    let right = lists.right_within(SEEN_WITHIN * 4).await;
    case.figure("kills", killed);
    case.figure("changes", CHANGES);
    case.figure("seen_s", seconds(last.elapsed()));
    case.hold(
        format!("all changes are seen: {:?}", lists.differences()),
        right.is_some_and(|took| took <= SEEN_WITHIN),
    );
    lists.judge(&mut case);
    site.stop().await;
    case.end();
}

/// Who only subscribes misses what happens after the kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t09_control_a_plain_subscriber() {
    misses_changes("T09-control", "CLIENT KILL TYPE pubsub", CHANGES, SEEN_WITHIN).await;
}

/// The pump reads everything as often as a TTL, so a long one keeps its sweeps out of the case.
pub(crate) fn without_sweeps() -> SiteOptions {
    SiteOptions {
        lease_ttl_ms: 120_000,
        ..SiteOptions::default()
    }
}
