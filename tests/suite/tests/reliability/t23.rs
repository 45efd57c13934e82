//! T23: a provider is killed (SIGKILL) with calls under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_core::outcome::Reason;
use rsf_suite::{Case, Kind, Lists, Load, LoadReport, MEMBERS, SOON, Site};
use shop::v1::{MemberServiceClient, RegisterMemberRequest};
use tokio::task::JoinSet;
use tokio::time::interval;

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

/// Calls that must not run twice: those fail that were under way to the instance, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t23_not_idempotent_embedded() {
    let mut case = Case::begin("T23-not-idempotent");
    let site = Site::start(Kind::Embedded).await;
    let slow = [("SHOP_LATENCY_MS", "50")];
    let _one = site.provider("1", &slow).await;
    let two = site.provider("2", &slow).await;
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["shop/1", "shop/2"], SOON).await;
    let under_way = Arc::new(AtomicU64::new(0));
    let mut calls = JoinSet::new();
    let mut ticks = interval(Duration::from_millis(2));
    let mut at_the_kill = None;
    for number in 0..3000 {
        ticks.tick().await;
        if number == 1500 {
            at_the_kill = Some(under_way.load(Ordering::Relaxed));
            two.kill9().await;
        }
        let members: MemberServiceClient = customers.client();
        let under_way = under_way.clone();
        calls.spawn(async move {
            under_way.fetch_add(1, Ordering::Relaxed);
            let request = RegisterMemberRequest {
                name: format!("Member {number}"),
                email: format!("{number}@t23.example"),
            };
            let result = members.register(request).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            result.map(drop)
        });
    }
    let results = calls.join_all().await;
    let failures: Vec<_> = results
        .iter()
        .filter_map(|result| result.as_ref().err())
        .collect();
    let most = at_the_kill.unwrap_or_default();
    case.figure("calls", results.len());
    case.figure("failed", failures.len());
    case.figure("under_way_at_the_kill", most);
    case.hold("no more fail than were under way", failures.len() as u64 <= most);
    for failure in failures {
        // The method is deduplicated, in the memory of each instance alone here: the further attempt at the other one is
        // told that nobody knows.
        let unknown = matches!(failure.reason(), Reason::ConnectionLost | Reason::OutcomeUnknown);
        let lost = unknown && failure.may_have_run();
        case.hold(format!("fails only what may have run: {failure}"), lost);
    }
    case.end();
    customers.shutdown().await;
    site.stop().await;
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
