//! T25: a provider whose lease lives and whose handlers hang. Nothing tells the directory; the calls themselves must.

use std::time::Duration;

use rsf::Application;
use rsf_suite::{Case, Kind, Lists, Load, LoadReport, SOON, Site, members};
use tokio::time::{Instant, sleep};

use crate::ground::assign;

const RATE: u32 = 300;
/// A call's time; a call that goes to the hung instance ends with it.
const TIMEOUT: &str = "call.timeout_ms=500";
/// How long calls go on with the hung instance among the others.
const HUNG: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t25_embedded() {
    let mut case = Case::begin("T25");
    hang(&mut case, &[TIMEOUT]).await;
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t25_control_without_node_breaker() {
    let mut case = Case::begin("T25-control");
    hang(&mut case, &[TIMEOUT, "call.node_breaker.enabled=false"]).await;
    case.end_red();
}

async fn hang(case: &mut Case, policy: &[&str]) {
    let site = Site::start(Kind::Embedded).await;
    let (_one, _two) = tokio::join!(site.provider("1", &[]), site.provider("2", &[]));
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["shop/1", "shop/2"], SOON).await;
    assign(&site, policy).await;
    let load = Load::start(&customers, RATE).await;
    let hung = site.provider("3", &[("SHOP_LATENCY_MS", "60000")]).await;
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3"], SOON).await;
    let listed = Instant::now();
    let ejected = ejected(&customers, "shop/3").await.map(|at| at - listed);
    sleep(HUNG.saturating_sub(listed.elapsed())).await;
    let still_listed = members(&customers)
        .view()
        .instances
        .iter()
        .any(|i| i.instance == "shop/3");
    let lease_lives = hung.registered().await;
    let report: LoadReport = load.stop().await;
    case.load(&report);
    case.figure("ejected_ms", ejected.map_or(-1, |time| time.as_millis() as i64));
    case.hold("the lease lives", still_listed && lease_lives);
    case.hold(
        format!("ejected within 2 s by its calls alone: {ejected:?}"),
        ejected.is_some_and(|time| time <= Duration::from_secs(2)),
    );
    let share = f64::from(report.total.failed as u32) / f64::from(report.total.succeeded as u32 + 1);
    case.figure("failed_percent", format!("{:.2}", share * 100.0));
    case.hold(
        format!("its trials cost at most 1 % of the calls: {:?}", report.failures),
        share <= 0.01,
    );
    hung.kill9().await;
    customers.shutdown().await;
    site.stop().await;
}

/// When the consumer has ejected an instance; `None` where it has not while the case goes on.
async fn ejected(consumer: &Application, instance: &str) -> Option<Instant> {
    let begun = Instant::now();
    while begun.elapsed() < HUNG {
        let view = members(consumer).view();
        if view
            .instances
            .iter()
            .any(|i| i.instance == instance && i.breaker != "closed")
        {
            return Some(Instant::now());
        }
        sleep(Duration::from_millis(5)).await;
    }
    None
}
