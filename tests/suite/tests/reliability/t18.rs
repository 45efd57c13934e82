//! T18: all of ZooKeeper's data is wiped.

use std::time::Duration;

use rsf_suite::{Case, Kind, Lists, SOON, SiteOptions, members};
use tokio::time::sleep;

use crate::ground::{Ground, PATIENT_MS, THREE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t18_cluster() {
    wipe("T18", true).await.end();
}

/// Policies come back because the console has them in its database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t18_control_without_the_consoles_database() {
    wipe("T18-control", false).await.end_red();
}

async fn wipe(id: &'static str, keep_database: bool) -> Case {
    let mut case = Case::begin(id);
    let options = SiteOptions {
        zookeepers: 3,
        ..SiteOptions::default()
    };
    let mut ground = Ground::start_with(Kind::Cluster, options).await;
    let watched = ground.watch().await;
    ground.site.zookeepers().wipe().await;
    if !keep_database {
        // Not before: a console without a database takes over what it finds in the store.
        ground.site.lose_the_consoles_database().await;
    }
    sleep(Duration::from_secs(5)).await;
    ground.site.zookeepers().restart().await;
    ground.fleet.join("newcomer", &[0, 1]);
    watched.fleet.become_right(SOON * 2).await;

    // A consumer without a disk has all of it from the rebuilt directory.
    let stranger = ground.site.consumer("stranger").await;
    Lists::become_these(&stranger, &THREE, SOON).await;
    let mut timeout = None;
    for _ in 0..100 {
        let policies = members(&stranger).view().policies;
        timeout = policies.get("Get").map(|policy| policy.call.timeout_ms);
        if timeout == Some(PATIENT_MS) {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    case.hold(
        format!("the policy is back: {timeout:?} ms instead of {PATIENT_MS}"),
        timeout == Some(PATIENT_MS),
    );
    stranger.shutdown().await;
    watched.judge(&mut case, 3).await;
    ground.end().await;
    case
}
