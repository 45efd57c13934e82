//! Policy changes take effect on running consumers within a second, and every instance says so.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test has nothing better to do with an error, and shows what it measured"
)]

use std::time::Duration;

use rsf::{Application, Channel, Reason, RpcError};
use rsf_console::ConsoleClient;
use rsf_console::model::{AcknowledgedState, PutPolicy};
use rsf_core::control::Scope;
use rsf_suite::{Kind, Lists, Load, MEMBERS, Provider, SOON, Site, members, weights};
use rsf_testkit::eventually;
use serde_json::{Value, json};
use shop::v1::{GetMemberRequest, MemberServiceClient};
use tokio::time::{Instant, sleep, timeout};

/// Changes that are measured, half of them timeouts, half of them weights.
const CHANGES: usize = 500;
/// The bar: 99 % of the changes are in force after this time.
const BAR: Duration = Duration::from_secs(1);
/// A change that is not in force after this time is lost.
const LOST: Duration = Duration::from_secs(10);
/// How often a consumer is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// How long the providers of the second test take for a call.
const LATENCY_MS: &str = "100";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_changes_take_effect_within_a_second() {
    changes_take_effect_within_a_second(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_changes_take_effect_within_a_second() {
    changes_take_effect_within_a_second(Kind::Cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_changes_change_what_calls_do() {
    changes_change_what_calls_do(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_changes_change_what_calls_do() {
    changes_change_what_calls_do(Kind::Cluster).await;
}

/// What the commands of `rsf policy` say of documents that a file in YAML and a single field have set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_resolved_view_names_the_document_of_each_value() {
    let site = Site::start(Kind::Embedded).await;
    let run = async |arguments: &[&str]| {
        let rsf = site.rsf("cli").arg("policy").args(arguments);
        let console = site.console_url();
        let token = site.token_file();
        let access = [
            "--console",
            &console,
            "--token-file",
            token.to_str().expect("a plain name"),
        ];
        let output = rsf.args(access).output(SOON).await;
        let text = output.stdout;
        assert!(output.status.success(), "{text}{}", output.stderr);
        text
    };
    std::fs::create_dir_all(site.state("cli")).expect("a folder");
    let file = site.state("cli").join("members.yaml");
    let yaml = "# members answer fast\ncall:\n  timeout_ms: 250\n  retry: {attempts: 2}\nmethods:\n  Get:\n    timeout_ms: 80\n";
    std::fs::write(&file, yaml).expect("a file");
    let scope = format!("service/{MEMBERS}");
    run(&["set", &scope, "--file", file.to_str().expect("a plain name")]).await;
    run(&["set", "fleet", "call.balance=random"]).await;

    let resolved = run(&["resolve", MEMBERS, "--method", "Get", "--set"]).await;
    let rows: Vec<Vec<_>> = resolved
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let wanted = [
        ["call.balance", "\"random\"", "fleet@2"].join(" "),
        ["call.retry.attempts", "2", &format!("{scope}@1")].join(" "),
        ["call.timeout_ms", "80", &format!("{scope}@1 method Get")].join(" "),
    ];
    let rows: Vec<_> = rows.iter().map(|row| row.join(" ")).collect();
    assert_eq!(rows, wanted);
    let whole = run(&["resolve", MEMBERS]).await;
    assert!(
        whole
            .lines()
            .any(|line| line.starts_with("provider.pool") && line.ends_with("built-in")),
        "{whole}"
    );
    site.stop().await;
}

async fn changes_take_effect_within_a_second(kind: Kind) {
    let site = Site::start(kind).await;
    let _providers = tokio::join!(site.provider("1", &[]), site.provider("2", &[]));
    let consumers = [
        site.consumer("one").await,
        site.consumer("two").await,
        site.consumer("three").await,
    ];
    for consumer in &consumers {
        Lists::become_these(consumer, &["shop/1", "shop/2"], SOON).await;
    }
    let load = Load::start(&consumers[0], 100).await;
    let channels: Vec<_> = consumers.iter().map(members).collect();
    let console = site.console();

    let (mut since_sent, mut since_accepted, mut revision) = (Vec::new(), Vec::new(), 0);
    for number in 0..CHANGES {
        let wanted = Wanted::of(number);
        let sent = Instant::now();
        revision = put(&console, wanted.document()).await;
        let accepted = Instant::now();
        let in_force = wanted.in_force_at_all(&channels).await;
        since_sent.push(in_force - sent);
        since_accepted.push(in_force.saturating_duration_since(accepted));
    }
    let everybody = ["one/one", "two/two", "three/three", "shop/1", "shop/2"];
    all_acknowledge(&console, revision, &everybody).await;

    let report = load.stop().await;
    for (from, times) in [("sent", &mut since_sent), ("accepted", &mut since_accepted)] {
        times.sort();
        let (p50, p99, max) = (
            times[CHANGES / 2],
            times[CHANGES * 99 / 100 - 1],
            times[CHANGES - 1],
        );
        println!("{kind:?}: {CHANGES} changes, since {from}: p50 {p50:?}, p99 {p99:?}, max {max:?}");
        assert!(
            p99 <= BAR,
            "{kind:?}: since {from}: p50 {p50:?}, p99 {p99:?}, max {max:?}"
        );
    }
    report.assert_none_failed();
    for consumer in consumers {
        consumer.shutdown().await;
    }
    site.stop().await;
}

/// What one change asks for. Each differs from the one before it.
struct Wanted {
    timeout_ms: u64,
    second_weighs_nothing: bool,
}

impl Wanted {
    /// The odd changes give another timeout, the even ones take the second instance out and put it back in.
    fn of(number: usize) -> Wanted {
        Wanted {
            timeout_ms: 2_000 + number.div_ceil(2) as u64,
            second_weighs_nothing: (number / 2).is_multiple_of(2),
        }
    }

    fn document(&self) -> Value {
        let rules = match self.second_weighs_nothing {
            true => json!([{ "instance": "shop/2", "weight": 0 }]),
            false => json!([]),
        };
        json!({ "call": { "timeout_ms": self.timeout_ms }, "instances": rules })
    }

    /// When the last consumer had it in force.
    async fn in_force_at_all(&self, channels: &[Channel]) -> Instant {
        for channel in channels {
            let looking = async {
                while !self.in_force(channel) {
                    sleep(LOOK).await;
                }
            };
            let found = timeout(LOST, looking).await;
            assert!(
                found.is_ok(),
                "not in force after {LOST:?}: {}; {:?}",
                self.document(),
                channel.view()
            );
        }
        Instant::now()
    }

    fn in_force(&self, channel: &Channel) -> bool {
        let view = channel.view();
        let timeout = view
            .policies
            .get("Get")
            .is_some_and(|policy| policy.call.timeout_ms == self.timeout_ms);
        timeout && view.instances.iter().any(|one| one.instance == "shop/2") != self.second_weighs_nothing
    }
}

async fn changes_change_what_calls_do(kind: Kind) {
    let site = Site::start(kind).await;
    let slow = [("SHOP_LATENCY_MS", LATENCY_MS)];
    let (first, second) = tokio::join!(site.provider("1", &slow), site.provider("2", &slow));
    let consumer = site.consumer("customers").await;
    Lists::become_these(&consumer, &["shop/1", "shop/2"], SOON).await;
    let console = site.console();

    for round in 0..4 {
        put(&console, json!({ "call": { "timeout_ms": 20 + round } })).await;
        calls_become(&consumer, Err(Reason::Deadline)).await;
        put(&console, json!({ "call": { "timeout_ms": 3_000 + round } })).await;
        calls_become(&consumer, Ok(())).await;
    }
    for [left_out, other] in [[&first, &second], [&second, &first], [&first, &second]] {
        put(
            &console,
            json!({ "instances": [{ "instance": left_out.instance(), "weight": 0 }] }),
        )
        .await;
        Lists::become_these(&consumer, &[&other.instance()], BAR).await;
        takes_no_calls(left_out, other, &consumer).await;
        put(
            &console,
            json!({ "instances": [{ "instance": left_out.instance(), "weight": 7 }] }),
        )
        .await;
        weight_becomes(&consumer, left_out, 7).await;
        takes_calls(left_out, &consumer).await;
    }
    println!("{kind:?}: {:?}", weights(&members(&consumer)));
    consumer.shutdown().await;
    site.stop().await;
}

/// Calls until a call ends as wanted, which must be within the bar.
async fn calls_become(consumer: &Application, wanted: Result<(), Reason>) {
    let client: MemberServiceClient = consumer.client();
    let begun = Instant::now();
    loop {
        // The call is sent under the policy that holds now, and its end may take a while.
        let asked = begun.elapsed();
        let ended = client.get(GetMemberRequest { id: 1 }).await;
        let outcome = ended.as_ref().map(|_| ()).map_err(RpcError::reason);
        if outcome == wanted {
            return;
        }
        assert!(
            asked <= BAR,
            "after {asked:?} a call still ends with {ended:?} instead of {wanted:?}"
        );
    }
}

/// An instance of weight 0 answers nothing more, and the other one answers everything.
async fn takes_no_calls(left_out: &Provider, other: &Provider, consumer: &Application) {
    const CALLS: u64 = 40;
    let before = (left_out.answered().await, other.answered().await);
    call_together(consumer, CALLS).await;
    let after = (left_out.answered().await, other.answered().await);
    assert_eq!(
        after,
        (before.0, before.1 + CALLS),
        "{} took calls at weight 0",
        left_out.instance()
    );
}

async fn takes_calls(provider: &Provider, consumer: &Application) {
    let before = provider.answered().await;
    eventually(SOON, async || {
        call_together(consumer, 20).await;
        match provider.answered().await - before {
            0 => Err(format!("{} takes no calls", provider.instance())),
            _ => Ok(()),
        }
    })
    .await;
}

/// Makes calls at the same time, all of which must succeed.
async fn call_together(consumer: &Application, calls: u64) {
    let client: MemberServiceClient = consumer.client();
    let started: Vec<_> = (1..=calls)
        .map(|id| client.get(GetMemberRequest { id }).start())
        .collect();
    for call in started {
        call.await.unwrap_or_else(|error| panic!("a call fails: {error}"));
    }
}

async fn weight_becomes(consumer: &Application, provider: &Provider, weight: u32) {
    let channel = members(consumer);
    eventually(BAR, async || {
        let seen = weights(&channel);
        if seen.get(&provider.instance()) == Some(&weight) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}

/// Publishes the members' policy; its revision.
async fn put(console: &ConsoleClient, document: Value) -> u64 {
    let asked = PutPolicy {
        document,
        ..PutPolicy::default()
    };
    let scope = Scope::Service(MEMBERS.to_owned());
    let accepted = console
        .put(&scope, &asked)
        .await
        .expect("the console takes the change");
    assert_eq!(accepted.message, "", "the change is in the store at once");
    accepted.revision.revision
}

async fn all_acknowledge(console: &ConsoleClient, revision: u64, instances: &[&str]) {
    let scope = Scope::Service(MEMBERS.to_owned());
    eventually(SOON, async || {
        let acknowledged = console
            .acknowledgements(&scope)
            .await
            .map_err(|error| error.to_string())?;
        assert_eq!(acknowledged.revision, revision);
        let current = |id: &&str| {
            let mut known = acknowledged.instances.iter();
            known.any(|one| one.instance == **id && one.state == AcknowledgedState::Current)
        };
        let missing: Vec<_> = instances.iter().filter(|id| !current(id)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{missing:?} in {acknowledged:?}"))
        }
    })
    .await;
}
