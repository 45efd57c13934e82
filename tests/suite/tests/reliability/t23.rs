//! T23: a provider is killed (SIGKILL) with calls under way.

use std::time::Duration;

use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Case, Kind, Lists, Load, LoadReport, MEMBERS, SOON, Site};

const RATE: u32 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t23_embedded() {
    let mut case = Case::begin("T23");
    let report = kill_in_mid_call(&mut case, None).await;
    case.hold(
        format!("no idempotent call fails: {:?}", report.failures),
        report.total.failed == 0,
    );
    case.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t23_control_without_retries() {
    let mut case = Case::begin("T23-control");
    let report = kill_in_mid_call(&mut case, Some("call.retry.attempts=1")).await;
    case.hold("no idempotent call fails", report.total.failed == 0);
    case.end_red();
}

async fn kill_in_mid_call(case: &mut Case, policy: Option<&str>) -> LoadReport {
    let site = Site::start(Kind::Embedded).await;
    let slow = [("SHOP_LATENCY_MS", "50")];
    let _one = site.provider("1", &slow).await;
    let two = site.provider("2", &slow).await;
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["shop/1", "shop/2"], SOON).await;
    if let Some(assignment) = policy {
        let change = PatchPolicy {
            assignments: vec![assignment.to_owned()],
            ..PatchPolicy::default()
        };
        let scope = Scope::Service(MEMBERS.to_owned());
        site.console()
            .patch(&scope, &change)
            .await
            .expect("the change is accepted");
    }
    let load = Load::start(&customers, RATE).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    two.kill9().await;
    Lists::become_these(&customers, &["shop/1"], SOON).await;
    let report = load.stop().await;
    case.load(&report);
    customers.shutdown().await;
    site.stop().await;
    report
}
