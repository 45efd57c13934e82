//! T02: a consumer starts while the whole control plane is dead.

use rsf_suite::{Case, Kind};

use crate::outage::start_in_an_outage;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_control_with_an_empty_disk() {
    let mut case = Case::begin("T02-control");
    start_in_an_outage(&mut case, Kind::Embedded, |lists| {
        std::fs::remove_dir_all(lists).expect("the snapshots are there");
    })
    .await;
    case.end_red();
}
