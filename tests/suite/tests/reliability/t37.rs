//! T37: every provider, the pump and the console are restarted in good order, one after the other, under load.

use std::time::Duration;

use rsf_suite::{Case, Kind, Lists, Load, Provider, SOON, Site};
use tokio::time::{Instant, sleep};

use crate::ground::assign;

const RATE: u32 = 500;
const ALL: [&str; 3] = ["shop/1", "shop/2", "shop/3"];
/// So that there are always calls under way at each instance.
const LATENCY: [(&str, &str); 1] = [("SHOP_LATENCY_MS", "20")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t37_embedded() {
    let mut case = Case::begin("T37");
    roll(&mut case, Kind::Embedded, true).await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t37_cluster() {
    let mut case = Case::begin("T37-cluster");
    roll(&mut case, Kind::Cluster, true).await;
    case.end();
}

/// Without the graceful end calls that are under way break off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t37_control_without_grace() {
    let mut case = Case::begin("T37-control");
    roll(&mut case, Kind::Embedded, false).await;
    case.end_red();
}

async fn roll(case: &mut Case, kind: Kind, graceful: bool) {
    let mut site = Site::start(kind).await;
    let providers = tokio::join!(
        site.provider("1", &LATENCY),
        site.provider("2", &LATENCY),
        site.provider("3", &LATENCY)
    );
    let mut providers: [Provider; 3] = providers.into();
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &ALL, SOON).await;
    one_attempt(&site).await;
    let load = Load::start(&customers, RATE).await;
    let mut slowest = Duration::ZERO;
    for provider in &mut providers {
        let begun = Instant::now();
        if graceful {
            provider.stop().await;
        } else {
            provider.kill9().await;
        }
        slowest = slowest.max(begun.elapsed());
        provider.restart().await;
        Lists::become_these(&customers, &ALL, SOON).await;
        sleep(Duration::from_millis(500)).await;
    }
    if graceful {
        site.roll_control_plane().await;
        sleep(Duration::from_secs(1)).await;
        Lists::become_these(&customers, &ALL, SOON).await;
    }
    let report = load.stop().await;
    case.load(&report);
    case.figure("slowest_end_ms", slowest.as_millis());
    case.hold(
        format!("no call fails: {:?}", report.failures),
        report.total.failed == 0,
    );
    customers.shutdown().await;
    site.stop().await;
}

/// One attempt a call, so that none is saved by a second one; and patience, because it is not speed that is judged.
async fn one_attempt(site: &Site) {
    assign(site, &["call.retry.attempts=1", "call.timeout_ms=10000"]).await;
}
