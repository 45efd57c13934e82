//! Providers that die and providers that end, at 500 calls a second: no idempotent call fails.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test has nothing better to do with an error, and shows what it measured"
)]

use std::time::Duration;

use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Kind, Lists, Load, MEMBERS, Provider, SOON, Site};
use rsf_testkit::eventually;
use tokio::time::Instant;

const RATE: u32 = 500;
/// How long a provider takes for a call, so that there are always some under way at each of the three.
const LATENCY_MS: &str = "50";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_kill_one_of_three_providers() {
    kill_one_of_three_providers(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_kill_one_of_three_providers() {
    kill_one_of_three_providers(Kind::Cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_graceful_restart_of_a_provider() {
    graceful_restart_of_a_provider(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_graceful_restart_of_a_provider() {
    graceful_restart_of_a_provider(Kind::Cluster).await;
}

/// The negative control: without further attempts the calls under way at the killed instance fail, so the tests above
/// would notice if retries did not work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_retries_a_kill_fails_calls() {
    let site = Site::start(Kind::Embedded).await;
    let [_first, killed, _third] = three_providers(&site).await;
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3"], SOON).await;
    let change = PatchPolicy {
        assignments: vec!["call.retry.attempts=1".to_owned()],
        ..PatchPolicy::default()
    };
    let changed = site
        .console()
        .patch(&Scope::Service(MEMBERS.to_owned()), &change)
        .await;
    changed.expect("the change is accepted");
    let load = Load::start(&customers, RATE).await;
    takes_calls(&killed).await;

    killed.kill9().await;
    Lists::become_these(&customers, &["shop/1", "shop/3"], SOON).await;
    let report = load.stop().await;
    println!("{}\n{:?}", report.total, report.failures);
    assert!(
        report.total.failed > 0,
        "no call was under way at the killed instance: {}",
        report.total
    );
    customers.shutdown().await;
    site.stop().await;
}

async fn kill_one_of_three_providers(kind: Kind) {
    let site = Site::start(kind).await;
    let [_first, mut killed, _third] = three_providers(&site).await;
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3"], SOON).await;
    let load = Load::start(&customers, RATE).await;
    takes_calls(&killed).await;

    killed.kill9().await;
    let died = Instant::now();
    let limit = site.lease_ttl() + Duration::from_secs(2);
    Lists::become_these(&customers, &["shop/1", "shop/3"], limit).await;
    let gone_after = died.elapsed();
    assert_eq!(cause_of_leaving(&site, "shop/2").await, "expired");

    killed.restart().await;
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3"], SOON).await;
    takes_calls(&killed).await;

    let report = load.stop().await;
    println!(
        "{kind:?}: gone from the list after {gone_after:?}; {}",
        report.total
    );
    report.assert_none_failed();
    customers.shutdown().await;
    site.stop().await;
}

async fn graceful_restart_of_a_provider(kind: Kind) {
    let site = Site::start(kind).await;
    let [_first, mut restarted, _third] = three_providers(&site).await;
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3"], SOON).await;
    let load = Load::start(&customers, RATE).await;
    takes_calls(&restarted).await;

    restarted.stop().await;
    // It has said good-bye before it ended: the list follows without a lease running out.
    Lists::become_these(&customers, &["shop/1", "shop/3"], Duration::from_secs(2)).await;
    assert_eq!(cause_of_leaving(&site, "shop/2").await, "deregistered");

    restarted.restart().await;
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3"], SOON).await;
    takes_calls(&restarted).await;

    let report = load.stop().await;
    println!("{kind:?}: {}", report.total);
    report.assert_none_failed();
    customers.shutdown().await;
    site.stop().await;
}

async fn three_providers(site: &Site) -> [Provider; 3] {
    let slow = [("SHOP_LATENCY_MS", LATENCY_MS)];
    let (first, second, third) = tokio::join!(
        site.provider("1", &slow),
        site.provider("2", &slow),
        site.provider("3", &slow)
    );
    [first, second, third]
}

/// Waits until a provider has answered so many calls since its start that it must be in use.
async fn takes_calls(provider: &Provider) {
    eventually(SOON, async || match provider.answered().await {
        answered if answered >= 100 => Ok(()),
        answered => Err(format!("{} has answered {answered} calls", provider.instance())),
    })
    .await;
}

/// Why an instance left the members' service, by the console. The list that says so may still be under way.
async fn cause_of_leaving(site: &Site, instance: &str) -> String {
    let console = site.console();
    eventually(SOON, async || {
        let service = console
            .service(MEMBERS)
            .await
            .map_err(|error| error.to_string())?;
        let removed = service
            .removed
            .iter()
            .find(|removed| removed.instance == instance);
        removed
            .map(|removed| removed.cause.clone())
            .ok_or_else(|| format!("{:?}", service.removed))
    })
    .await
}
