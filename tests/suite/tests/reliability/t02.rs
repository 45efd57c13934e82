//! T02: a consumer starts while the whole control plane is dead.

use rsf::{Application, Settings};
use rsf_suite::{Case, Kind, Lists, SOON, Site};

use crate::ground::patient;
use crate::outage::{judge_calls, start_in_an_outage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_embedded() {
    let mut case = Case::begin("T02-embedded");
    start_in_an_outage(&mut case, Kind::Embedded, |_| {}).await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_cluster() {
    let mut case = Case::begin("T02");
    start_in_an_outage(&mut case, Kind::Cluster, |_| {}).await;
    case.end();
}

/// With an empty disk, and a consumer that runs on and is asked for what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_from_a_peer() {
    let mut case = Case::begin("T02-peer");
    let mut site = Site::start(Kind::Cluster).await;
    let _providers = tokio::join!(site.provider("1", &[]), site.provider("2", &[]));
    let peer = site.consumer("peer").await;
    Lists::become_these(&peer, &["shop/1", "shop/2"], SOON).await;
    patient(&site).await;
    site.kill_control_plane().await;
    let settings = Settings {
        peers: vec![peer.admin_address().to_owned()],
        ..site.settings("newcomer")
    };
    let newcomer = Application::builder("newcomer").settings(settings).start().await;
    let newcomer = newcomer.expect("a consumer starts");
    judge_calls(&mut case, &newcomer).await;
    newcomer.shutdown().await;
    peer.shutdown().await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_control_with_an_empty_disk() {
    let mut case = Case::begin("T02-control");
    start_in_an_outage(&mut case, Kind::Embedded, |lists| {
        std::fs::remove_dir_all(lists).expect("the snapshots are there");
    })
    .await;
    case.end_red();
}
