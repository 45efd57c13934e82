//! T17: ZooKeeper has no quorum while one list changes fifty times.

use std::time::Duration;

use rsf_suite::{Case, Kind, SOON, SiteOptions};
use tokio::time::{Instant, sleep};

use crate::ground::{Ground, seconds};

const CHANGES: usize = 50;
/// A minute in the table; sessions, which live for seconds, end in it as well.
const OUTAGE: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t17_cluster() {
    change_much("T17", true).await.end();
}

/// With a quorum the pump writes as often as its window allows, which the case would see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t17_control_with_a_quorum() {
    change_much("T17-control", false).await.end_red();
}

async fn change_much(id: &'static str, without_quorum: bool) -> Case {
    let mut case = Case::begin(id);
    let options = SiteOptions {
        zookeepers: 3,
        lease_ttl_ms: 15_000,
        ..SiteOptions::default()
    };
    let mut ground = Ground::start_with(Kind::Cluster, options).await;
    let watched = ground.watch().await;
    let before = lists_written(&ground).await;
    if without_quorum {
        for server in &ground.site.zookeepers().servers[..2] {
            server.kill9().await;
        }
    }
    let begun = Instant::now();
    for change in 0..CHANGES {
        ground.fleet.join(&format!("new-{change}"), &[0]);
        sleep(OUTAGE / CHANGES as u32).await;
    }
    if without_quorum {
        // All at once: one alone waits for another.
        ground.site.zookeepers().restart().await;
    }
    let back = Instant::now();
    watched.fleet.become_right(SOON * 2).await;
    case.figure("outage_s", seconds(back - begun));
    case.figure("recover_s", seconds(back.elapsed()));
    let written = lists_written(&ground).await - before;
    case.figure("changes", CHANGES);
    case.figure("written", written);
    case.hold(format!("one write of the list: {written}"), written == 1);
    watched.judge(&mut case, 3).await;
    ground.end().await;
    case
}

async fn lists_written(ground: &Ground) -> u64 {
    // Its status may be half a second old.
    sleep(Duration::from_secs(1)).await;
    let status = ground.site.pump_status().await.expect("the pump's status");
    status["counters"]["lists_written"].as_u64().expect("a count")
}
