//! The whole control plane dead for a minute, at 500 calls a second: no call fails, and all comes back by itself.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test has nothing better to do with an error, and shows what it measured"
)]

use std::path::Path;
use std::time::Duration;

use rsf::{Application, Reason};
use rsf_console::model::{Accepted, PatchPolicy};
use rsf_core::control::Scope;
use rsf_suite::{Kind, Lists, Load, MEMBERS, Provider, SOON, Site, members};
use rsf_testkit::eventually;
use shop::v1::{GetMemberRequest, MemberServiceClient};
use tokio::time::{Instant, sleep, sleep_until};

const RATE: u32 = 500;
const OUTAGE: Duration = Duration::from_secs(60);
/// Time for a call. More than a busy machine needs: what is judged is whether a call fails for want of the control
/// plane.
const PATIENT_MS: u64 = 10_000;
/// The same after the outage: another value, so that the change is seen.
const STILL_PATIENT_MS: u64 = 9_000;
const THREE: [&str; 3] = ["shop/1", "shop/2", "shop/3"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_control_plane_dead_for_a_minute() {
    dead_for_a_minute(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_control_plane_dead_for_a_minute() {
    dead_for_a_minute(Kind::Cluster).await;
}

async fn dead_for_a_minute(kind: Kind) {
    let mut site = Site::start(kind).await;
    let providers = tokio::join!(
        site.provider("1", &[]),
        site.provider("2", &[]),
        site.provider("3", &[])
    );
    let customers = site.consumer("customers").await;
    Lists::become_these(&customers, &THREE, SOON).await;
    set_timeout(&site, PATIENT_MS).await;
    timeout_becomes(&customers, PATIENT_MS).await;
    snapshot_of_a_consumer(&site, "newcomer").await;

    let load = Load::start(&customers, RATE).await;
    let list = Lists::watch(&customers);
    site.kill_control_plane().await;
    let back = Instant::now() + OUTAGE;

    let newcomer = starts_from_its_snapshot(&site, "newcomer").await;
    let stranger = fails_clearly_without_a_snapshot(&site, "stranger").await;

    let providers: [Provider; 3] = providers.into();
    sleep_until(back).await;
    for provider in &providers {
        assert!(
            !provider.registered().await,
            "{} believes in a dead registry",
            provider.instance()
        );
    }
    site.restart_control_plane().await;
    let restarted = Instant::now();
    // A control plane that is back knows no lease at first. Nobody may be taken off the lists for that.
    all_are_registered(
        &site,
        &["customers/customers", "newcomer/newcomer", "stranger/stranger"],
    )
    .await;
    for provider in &providers {
        let registered = async || provider.registered().await.then_some(()).ok_or("not registered");
        eventually(SOON, registered).await;
    }
    let recovered = restarted.elapsed();
    set_timeout(&site, STILL_PATIENT_MS).await;
    for consumer in [&customers, &newcomer, &stranger] {
        timeout_becomes(consumer, STILL_PATIENT_MS).await;
        all_answered(consumer, 50).await;
    }
    let _fourth = site.provider("4", &[]).await;
    Lists::become_these(&customers, &["shop/1", "shop/2", "shop/3", "shop/4"], SOON).await;
    adapter_answers(&site).await;
    sleep(2 * site.lease_ttl()).await;

    let shortest = list.shortest().await;
    let report = load.stop().await;
    println!(
        "{kind:?}: all registered again after {recovered:?}; shortest list {shortest}; {}",
        report.total
    );
    report.assert_none_failed();
    assert_eq!(shortest, 3, "{kind:?}: the list shrank");
    assert!(report.total.elapsed > OUTAGE);
    for consumer in [customers, newcomer, stranger] {
        consumer.shutdown().await;
    }
    site.stop().await;
}

/// Lets a consumer use the service once, so that the disk of its state folder knows it.
async fn snapshot_of_a_consumer(site: &Site, name: &str) {
    let consumer = site.consumer(name).await;
    Lists::become_these(&consumer, &THREE, SOON).await;
    timeout_becomes(&consumer, PATIENT_MS).await;
    for kind in ["lists", "policies"] {
        let folder = site
            .state(name)
            .join("snapshots")
            .join(site.namespace())
            .join(kind);
        eventually(SOON, async || {
            let files = files_in(&folder);
            let saved = files.iter().any(|file| file.ends_with(".rsf"));
            if saved {
                Ok(())
            } else {
                Err(format!("{files:?} in {}", folder.display()))
            }
        })
        .await;
    }
    consumer.shutdown().await;
}

fn files_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

async fn starts_from_its_snapshot(site: &Site, name: &str) -> Application {
    let consumer = site.consumer(name).await;
    all_answered(&consumer, 50).await;
    Lists::become_these(&consumer, &THREE, SOON).await;
    timeout_becomes(&consumer, PATIENT_MS).await;
    consumer
}

async fn fails_clearly_without_a_snapshot(site: &Site, name: &str) -> Application {
    let consumer = site.consumer(name).await;
    let client: MemberServiceClient = consumer.client();
    let error = client
        .get(GetMemberRequest { id: 1 })
        .await
        .expect_err("nobody can know an instance");
    assert_eq!(error.reason(), Reason::NoInstance, "{error}");
    let text = error.to_string();
    let registry = site.registry_shown();
    for part in [
        MEMBERS,
        "Start the registry",
        "RSF_REGISTRY",
        "disk",
        registry.as_str(),
    ] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    consumer
}

async fn all_answered(consumer: &Application, calls: u64) {
    let client: MemberServiceClient = consumer.client();
    for id in 1..=calls {
        let reply = client.get(GetMemberRequest { id }).await;
        let member = reply.unwrap_or_else(|error| panic!("{} calls: {error}", consumer.instance()));
        assert_eq!(member.into_inner().id, id);
    }
}

async fn set_timeout(site: &Site, ms: u64) {
    let change = PatchPolicy {
        assignments: vec![format!("call.timeout_ms={ms}")],
        ..PatchPolicy::default()
    };
    let console = site.console();
    for service in [MEMBERS, "shop.v1.StockService"] {
        let changed = console.patch(&Scope::Service(service.to_owned()), &change).await;
        let Accepted { message, .. } = changed.expect("the change is accepted");
        assert_eq!(message, "", "the change is in the store at once");
    }
}

async fn timeout_becomes(consumer: &Application, ms: u64) {
    let channel = members(consumer);
    eventually(SOON, async || {
        let policies = channel.view().policies;
        match policies.get("Get").map(|policy| policy.call.timeout_ms) {
            Some(seen) if seen == ms => Ok(()),
            seen => Err(format!("timeout {seen:?} instead of {ms} ms")),
        }
    })
    .await;
}

/// The registry has everybody's lease again, and the published list is whole.
async fn all_are_registered(site: &Site, consumers: &[&str]) {
    let console = site.console();
    eventually(SOON, async || {
        let instances = console.instances().await.map_err(|error| error.to_string())?;
        let wanted = consumers.iter().chain(&THREE);
        let missing: Vec<_> = wanted
            .filter(|&id| {
                !instances
                    .iter()
                    .any(|one| one.instance == *id && one.state == "up")
            })
            .collect();
        let listed = console
            .service(MEMBERS)
            .await
            .map_err(|error| error.to_string())?
            .instances
            .len();
        if missing.is_empty() && listed == 3 {
            Ok(())
        } else {
            Err(format!("{missing:?} are missing, {listed} of 3 are listed"))
        }
    })
    .await;
}

async fn adapter_answers(site: &Site) {
    let url = format!("{}/shop.v1.MemberService/Get", site.adapter_url());
    let client = reqwest::Client::new();
    eventually(SOON, async || {
        let request = client
            .post(&url)
            .header("content-type", "application/json")
            .body(r#"{"id":7}"#);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
        if status.is_success() && text.contains("Member 7") {
            Ok(())
        } else {
            Err(format!("{status} {text}"))
        }
    })
    .await;
}
