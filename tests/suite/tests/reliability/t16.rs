//! T16: of three ZooKeeper servers the leader is killed, or stands still.

use std::time::Duration;

use rsf_suite::{Case, Kind, SiteOptions};
use tokio::time::{Instant, sleep};

use crate::ground::{Ground, seconds};

/// What a busy machine needs beside the bound.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_killed() {
    lose_the_leader("T16-killed", 3, false, Duration::from_secs(5))
        .await
        .end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_stopped() {
    lose_the_leader("T16-stopped", 3, true, Duration::from_secs(15))
        .await
        .end();
}

/// One server has nobody to take its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_control_one_server() {
    lose_the_leader("T16-control", 1, true, Duration::from_secs(15))
        .await
        .end_red();
}

async fn lose_the_leader(id: &'static str, servers: usize, only_stop: bool, within: Duration) -> Case {
    let mut case = Case::begin(id);
    let options = SiteOptions {
        zookeepers: servers,
        // Nothing but ZooKeeper is late here: an instance's lease outlives the case.
        lease_ttl_ms: 15_000,
        ..SiteOptions::default()
    };
    let mut ground = Ground::start_with(Kind::Cluster, options).await;
    let watched = ground.watch().await;
    let leader = match servers {
        1 => 0,
        _ => ground.site.zookeepers().leader().await,
    };
    let lost = &ground.site.zookeepers().servers[leader];
    if only_stop {
        lost.pause().await;
    } else {
        lost.kill9().await;
    }
    let fault = Instant::now();
    // It registers with Redis at once; only the pump's write takes a ZooKeeper.
    ground.fleet.join("newcomer", &[0, 1, 2]);
    let right = watched.fleet.right_within((within + SLACK) * 2).await;
    case.figure(
        "written_s",
        right.map_or_else(|| "never".to_owned(), |_| seconds(fault.elapsed())),
    );
    case.hold(
        format!(
            "written again within {within:?}: {:?}",
            watched.fleet.differences()
        ),
        right.is_some_and(|took| took <= within + SLACK),
    );
    let lost = &mut ground.site.zookeepers().servers[leader];
    if only_stop {
        lost.resume();
    } else {
        lost.restart().await;
    }
    sleep(Duration::from_secs(3)).await;
    ground.fleet.join("later", &[0]);
    watched.fleet.become_right(rsf_suite::SOON).await;
    watched.judge(&mut case, 3).await;
    ground.end().await;
    case
}
