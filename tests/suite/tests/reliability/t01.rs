//! T01: Redis, ZooKeeper, pump and console are killed and stay dead for a minute.

use std::time::Duration;

use rsf_suite::{Case, Kind, Lists, Load, Site};
use tokio::time::sleep;

use crate::ground::{RATE, three_and_customers};
use crate::outage::judge_calls;

/// Ten minutes in the table; what could run out meanwhile (leases, sessions, deadlines) does in one.
const OUTAGE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_embedded() {
    all_dead("T01-embedded", Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_cluster() {
    all_dead("T01", Kind::Cluster).await;
}

/// The guard is what a consumer keeps of the lists. One that has never seen any has nobody to call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t01_control_without_a_list() {
    let mut case = Case::begin("T01-control");
    let mut site = Site::start(Kind::Embedded).await;
    let _provider = site.provider("1", &[]).await;
    site.kill_control_plane().await;
    let stranger = site.consumer("stranger").await;
    judge_calls(&mut case, &stranger).await;
    stranger.shutdown().await;
    case.end_red();
}

async fn all_dead(id: &'static str, kind: Kind) {
    let mut case = Case::begin(id);
    let mut site = Site::start(kind).await;
    let (_providers, customers) = three_and_customers(&site).await;
    let (load, list) = (Load::start(&customers, RATE).await, Lists::watch(&customers));
    site.kill_control_plane().await;
    sleep(OUTAGE).await;
    let shortest = list.shortest().await;
    let report = load.stop().await;
    case.figure("outage_s", OUTAGE.as_secs());
    case.load(&report);
    case.figure("list_min", format!("{shortest}/3"));
    case.hold(
        format!("calls failed: {:?}", report.failures),
        report.total.failed == 0,
    );
    case.hold(format!("the list had {shortest} of 3 instances"), shortest == 3);
    customers.shutdown().await;
    case.end();
}
