//! The provider's check of shards, and shards that move from one zone to another under load: consumer and providers hold
//! policies of different age, and still no key is served by two.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use rsf_core::control::Instance;
use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::status::Code;
use rsf_core::wire::{ConnectError, Connection, Target, Wire};
use serde_json::{Value, json};
use support::{ECHO, Echo, Fleet, Node, Note, Peer, counted, eventually, note, number};

#[path = "support/line.rs"]
mod line;
use line::{Sent, connect, reason, refused, request};

fn shard(from: &str, to: &str) -> Value {
    // The keys below 100 are `from`'s, those from 100 on are `to`'s.
    json!({"key": "number", "ranges": [{"to": 100, "zone": from}, {"from": 100, "zone": to}]})
}

fn policy(shard: &Value) -> String {
    json!({"call": {"routing": {"rules": [{ "shard": shard }]}}}).to_string()
}

async fn eastern(fleet: &Fleet) -> (Node, Arc<dyn Connection>) {
    let change = |instance: &mut Instance| {
        instance.zone = "east".into();
        instance.tags.insert("disk".into(), "a".into());
    };
    let node = fleet.provide_as(change, Echo::plain());
    let connection = connect(fleet, &node).await;
    (node, connection)
}

async fn send(
    connection: &Arc<dyn Connection>,
    request: Sent,
) -> Result<Note, (Code, Option<Reason>, String)> {
    let reply = request.over(connection).await;
    match &reply {
        Ok(answer) if answer.result.is_ok() => Ok(line::read(reply.as_ref().unwrap())),
        _ => {
            let status = refused(reply);
            Err((status.code(), reason(&status), status.message().to_owned()))
        }
    }
}

fn meant(message: &Note, owner: &'static str) -> Sent {
    let own = vec![(
        HeaderName::from_static("rsf-shard"),
        HeaderValue::from_static(owner),
    )];
    Sent {
        own,
        ..request("Get", message)
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_refuses_what_was_meant_for_another_owner() {
    let fleet = Fleet::in_test();
    let (_node, connection) = eastern(&fleet).await;
    for owner in ["zone:east", "tag:disk=a"] {
        assert!(
            send(&connection, meant(&number(1), owner)).await.is_ok(),
            "{owner}"
        );
    }
    for owner in [
        "zone:west",
        "zone:",
        "tag:disk=b",
        "tag:none=a",
        "east",
        "tag:disk",
        "",
    ] {
        let (code, reason, message) = send(&connection, meant(&number(1), owner)).await.unwrap_err();
        assert_eq!(
            (code, reason),
            (Code::FailedPrecondition, Some(Reason::WrongShard)),
            "{owner}: {message}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_checks_the_key_itself() {
    let fleet = Fleet::in_test();
    let (_node, connection) = eastern(&fleet).await;
    let ask = async |key: u32| send(&connection, request("Get", &number(key))).await;
    assert!(ask(500).await.is_ok());
    fleet.service_policy(1, &policy(&shard("east", "west")));
    applied(&fleet, 1).await;
    // Consumers of any make, with and without a word about the shard.
    assert!(ask(99).await.is_ok());
    let (code, reason, message) = ask(100).await.unwrap_err();
    assert_eq!(
        (code, reason),
        (Code::FailedPrecondition, Some(Reason::WrongShard))
    );
    assert!(message.contains("key `100` belongs to zone:west"), "{message}");
    let error = send(&connection, meant(&number(100), "zone:east"))
        .await
        .unwrap_err();
    assert_eq!(error.1, Some(Reason::WrongShard));

    // A key that the caller named comes in a header.
    let mut named = shard("east", "west");
    named.as_object_mut().unwrap().remove("key");
    fleet.service_policy(2, &policy(&named));
    applied(&fleet, 2).await;
    let with_key = |key: &'static str| Sent {
        own: vec![(
            HeaderName::from_static("rsf-routing-key"),
            HeaderValue::from_static(key),
        )],
        ..request("Get", &number(1))
    };
    assert!(send(&connection, with_key("99")).await.is_ok());
    assert_eq!(
        send(&connection, with_key("100")).await.unwrap_err().1,
        Some(Reason::WrongShard)
    );
    let (_, reason, message) = ask(1).await.unwrap_err();
    assert_eq!(reason, Some(Reason::WrongShard));
    assert!(message.contains("has no key"), "{message}");
    named["no_key"] = "any".into();
    fleet.service_policy(3, &policy(&named));
    applied(&fleet, 3).await;
    assert!(ask(1).await.is_ok());

    // The policy goes, and the check with it.
    fleet.service_policy(4, "{}");
    applied(&fleet, 4).await;
    assert!(ask(100).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn strangers_are_not_told_who_owns_what() {
    let fleet = Fleet::in_test();
    let (_node, connection) = eastern(&fleet).await;
    let document = json!({
        "call": {"routing": {"rules": [{ "shard": shard("east", "west") }]}},
        "provider": {"authorization": {
            "mode": "enforce", "default": "deny", "callers": {"order": {"methods": ["*"]}},
        }},
    });
    fleet.service_policy(1, &document.to_string());
    applied(&fleet, 1).await;
    for stranger in [request("Get", &number(100)), meant(&number(1), "zone:west")] {
        let (_, reason, message) = send(&connection, stranger).await.unwrap_err();
        assert_eq!(reason, Some(Reason::Denied), "{message}");
        for place in ["zone", "disk", "east", "west"] {
            assert!(!message.contains(place), "{message}");
        }
    }
    let mut known = request("Get", &number(100));
    let caller = (
        HeaderName::from_static("rsf-caller"),
        HeaderValue::from_static("order"),
    );
    known.own.push(caller);
    let (_, reason, message) = send(&connection, known).await.unwrap_err();
    assert_eq!(reason, Some(Reason::WrongShard), "{message}");
}

/// Waits until the provider of a fleet without consumers runs a revision.
async fn applied(fleet: &Fleet, revision: u64) {
    let scope = format!("service/{ECHO}");
    eventually("the revision is in force", || {
        fleet.acknowledged(&scope) == Some((revision, None))
    })
    .await;
    // Those who follow the document run after the one who acknowledges it.
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Finds servers on either of two wires.
struct Both(Arc<dyn Wire>, Arc<dyn Wire>);

impl Wire for Both {
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        match target.address.starts_with("east") {
            true => self.0.connect(target),
            false => self.1.connect(target),
        }
    }
}

/// What the handlers of both zones have seen of the keys that move.
#[derive(Default)]
struct Journal {
    /// The old owner runs the new policy.
    gone: AtomicBool,
    /// The new owner may have heard of the new policy.
    told: AtomicBool,
    served: AtomicU64,
    wrongly: Mutex<Vec<String>>,
}

impl Journal {
    fn note(&self, zone: &str, key: u32) {
        self.served.fetch_add(1, Ordering::Relaxed);
        let owner = match zone {
            "east" => key < 100 && !self.gone.load(Ordering::Relaxed),
            _ => key >= 100 || self.told.load(Ordering::Relaxed),
        };
        if !owner {
            self.wrongly.lock().push(format!("{key} by {zone}"));
        }
    }
}

/// Two owners and a consumer, each with a control plane of its own, so that a test says who hears of a policy when.
struct Site {
    east: Fleet,
    west: Fleet,
    own: Fleet,
    peer: Arc<Peer>,
    journal: Arc<Journal>,
    _nodes: Vec<Node>,
}

impl Site {
    async fn new() -> Site {
        let (east, west, mut own) = (Fleet::in_test(), Fleet::in_test(), Fleet::in_test());
        own.other_wire = Some(Arc::new(Both(east.wire(), west.wire())));
        let journal = Arc::new(Journal::default());
        let mut nodes = Vec::new();
        for (fleet, zone) in [(&east, "east"), (&west, "west")] {
            for place in 0..2 {
                let journal = journal.clone();
                let echo = Echo::with(move |_, request| {
                    journal.note(zone, request.get_ref().number);
                    async move { Ok(Response::new(note(zone))) }
                });
                let change = |instance: &mut Instance| {
                    instance.id = format!("{zone}/{place}").into();
                    instance.address = format!("{zone}-{place}:1").into();
                    instance.zone = zone.into();
                };
                nodes.push(fleet.provide_as(change, echo));
            }
        }
        own.list(|listed| listed.extend(nodes.iter().map(|node| node.instance.clone())));
        let peer = Arc::new(own.consumer());
        peer.connected(4).await;
        Site {
            east,
            west,
            own,
            peer,
            journal,
            _nodes: nodes,
        }
    }

    /// Tells one party of a revision, and waits until it goes by it.
    async fn tell(&self, party: &str, revision: u64, shard: &Value) {
        let fleet = match party {
            "east" => &self.east,
            "west" => &self.west,
            _ => &self.own,
        };
        fleet.service_policy(revision, &policy(shard));
        applied(fleet, revision).await;
    }
}

/// Calls with keys on both sides, one after the other, until told to stop. Each call must succeed.
async fn load(peer: Arc<Peer>, stop: Arc<AtomicBool>, seed: u32) -> u64 {
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = (seed * 31 + calls as u32 * 7) % 200;
        // `Put` must not run twice: whoever refuses has not run it.
        let reply = peer
            .put(number(key))
            .await
            .unwrap_or_else(|error| panic!("key {key}: {error}"));
        assert!(key < 100 || reply.get_ref().text == "west", "{key}");
        calls += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn a_shard_moves_under_load_whoever_hears_of_it_first() {
    let orders = [
        ["east", "west", "consumer"],
        ["east", "consumer", "west"],
        ["west", "east", "consumer"],
        ["west", "consumer", "east"],
        ["consumer", "east", "west"],
        ["consumer", "west", "east"],
    ];
    for order in orders {
        let site = Site::new().await;
        let (before, after) = (shard("east", "west"), shard("west", "west"));
        for party in order {
            site.tell(party, 1, &before).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let load: Vec<_> = (0..4)
            .map(|seed| tokio::spawn(load(site.peer.clone(), stop.clone(), seed)))
            .collect();
        tokio::time::sleep(Duration::from_millis(120)).await;
        for party in order {
            if party == "west" {
                site.journal.told.store(true, Ordering::Relaxed);
            }
            site.tell(party, 2, &after).await;
            if party == "east" {
                site.journal.gone.store(true, Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        stop.store(true, Ordering::Relaxed);
        let mut calls = 0;
        for load in load {
            calls += load.await.unwrap();
        }
        let journal = &site.journal;
        assert!(
            journal.wrongly.lock().is_empty(),
            "{order:?}: {:?}",
            journal.wrongly.lock()
        );
        assert_eq!(
            journal.served.load(Ordering::Relaxed),
            calls,
            "{order:?}: each call ran once"
        );
        assert!(calls > 500, "{order:?}: {calls}");
        let view = site.peer.channel.view();
        assert!(
            view.instances.iter().all(|instance| instance.breaker == "closed"),
            "{order:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_for_a_shard_without_an_agreed_owner_ends_before_its_deadline() {
    let site = Site::new().await;
    site.tell("consumer", 1, &shard("east", "west")).await;
    // East never hears that it is the owner: its policy says west.
    site.tell("east", 1, &shard("west", "west")).await;
    let begun = tokio::time::Instant::now();
    let call = site.peer.put(number(1)).timeout(Duration::from_millis(900));
    let error = call.await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::WrongShard, false),
        "{error}"
    );
    assert!(error.is_retryable(false));
    assert!(begun.elapsed() < Duration::from_millis(900));
    assert!(
        begun.elapsed() > Duration::from_millis(300),
        "the other side gets time"
    );
    assert_eq!(site.journal.served.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn each_further_look_takes_credit_of_the_budget() {
    let site = Site::new().await;
    site.tell("east", 1, &shard("west", "west")).await;
    let document = json!({"call": {
        "routing": {"rules": [{"shard": shard("east", "west")}]},
        "retry": {"budget_percent": 100, "budget_per_second": 0},
    }});
    site.own.service_policy(1, &document.to_string());
    applied(&site.own, 1).await;
    // Each call brings the credit of one further request, and a further request brings none.
    for call in 1..=3 {
        let begun = tokio::time::Instant::now();
        let error = site.peer.put(number(1)).await.unwrap_err();
        assert_eq!(error.reason(), Reason::WrongShard);
        assert!(error.retries_spent());
        let took = begun.elapsed().as_millis();
        assert!((5..=15).contains(&took), "one pause, not {took} ms");
        assert_eq!(site.peer.metrics.retry_budget_exhausted.get(), call);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_while_it_waits_for_agreement_gives_back_what_it_has_taken() {
    let site = Site::new().await;
    site.tell("east", 1, &shard("west", "west")).await;
    // Three calls bring the credit of one further request.
    let document = json!({"call": {
        "routing": {"rules": [{"shard": shard("east", "west")}]},
        "retry": {"budget_percent": 34, "budget_per_second": 0},
        "limit": {"concurrency": 1},
    }});
    site.own.service_policy(1, &document.to_string());
    applied(&site.own, 1).await;
    for _ in 0..2 {
        site.peer.put(number(150)).await.unwrap();
    }
    for _ in 0..3 {
        // The first pause takes 5 ms at least.
        let waiting = tokio::time::timeout(Duration::from_millis(4), site.peer.put(number(1)).into_future());
        assert!(waiting.await.is_err(), "it waits for the other side");
    }
    let gone = counted(&site.peer.registry, "rsf_call_errors_total", "cancelled");
    assert_eq!(gone, 3, "its place was free for the next one each time");
    assert_eq!(
        site.peer.metrics.retry_budget_exhausted.get(),
        0,
        "and so was its credit"
    );
    assert!(
        site.peer
            .channel
            .view()
            .instances
            .iter()
            .all(|instance| instance.pending == 0)
    );
    assert_eq!(site.journal.served.load(Ordering::Relaxed), 2);
}
