//! T21: of two pumps the active one stands still until the other has taken over, and goes on.

use std::time::Duration;

use rsf_suite::{Case, Kind, SOON, SiteOptions};
use rsf_testkit::eventually;
use serde_json::Value;
use tokio::time::sleep;

use crate::ground::Ground;
use crate::raw_directory::RawDirectory;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t21_cluster() {
    take_over("T21", false).await.end();
}

/// What a pump without a fence would do when it goes on: write what it wrote last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t21_control_a_writer_without_a_fence() {
    take_over("T21-control", true).await.end_red();
}

async fn take_over(id: &'static str, unfenced: bool) -> Case {
    let mut case = Case::begin(id);
    let options = SiteOptions {
        lease_ttl_ms: 15_000,
        ..SiteOptions::default()
    };
    let mut ground = Ground::start_with(Kind::Cluster, options).await;
    let (standby, admin) = ground.site.standby_pump("standby").await;
    let watched = ground.watch().await;
    let namespace = ground.site.namespace();
    let raw = RawDirectory::connect(ground.site.zookeepers(), namespace).await;
    let stale = raw.read_all().await;

    // A write is under way when it stops: its fence is what must refuse it later.
    ground.fleet.join("before", &[0, 1, 2, 3]);
    ground.site.pump().pause().await;
    let epoch = eventually(SOON, async || {
        let status = status(&admin).await?;
        let leads = status["role"] == "leading";
        leads
            .then(|| status["epoch"].as_u64())
            .flatten()
            .ok_or_else(|| status.to_string())
    })
    .await;
    ground.fleet.join("meanwhile", &[0, 1]);
    watched.fleet.become_right(SOON).await;
    ground.site.pump().resume();
    if unfenced {
        raw.write_all(&stale).await;
    }
    ground.fleet.join("after", &[2]);
    sleep(Duration::from_secs(5)).await;
    let right = watched.fleet.right_within(SOON).await;
    case.hold(
        format!("the lists are right: {:?}", watched.fleet.differences().first()),
        right.is_some(),
    );
    let now = status(&admin).await.unwrap_or_default();
    case.figure("epoch", epoch);
    case.hold(
        format!("the one that took over leads on: {}", now["role"]),
        now["role"] == "leading" && now["epoch"].as_u64() == Some(epoch),
    );
    watched.judge(&mut case, 3).await;
    standby.kill9().await;
    ground.end().await;
    case
}

async fn status(admin: &str) -> Result<Value, String> {
    let url = format!("{admin}/status");
    let page = async { reqwest::get(&url).await?.error_for_status()?.json().await };
    page.await.map_err(|error: reqwest::Error| error.to_string())
}
