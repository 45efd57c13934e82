//! What an explanation says of a call, beside what a call then does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use rsf_core::client::{Explanation, RemovedInstance, Stop};
use rsf_core::error::RpcError;
use rsf_core::message::Response;
use rsf_core::metadata::Metadata;
use rsf_core::status::Status;
use serde_json::{Value, json};
use support::{ECHO, Echo, Fleet, GET, Node, Note, Peer, eventually, note, number};

/// A call with this text never ends.
const HOLD: &str = "hold";
/// A call with this text fails at the instance `e/3`.
const HURT: &str = "hurt";

/// An instance that answers with its own id.
fn serve(fleet: &Fleet, id: &'static str, zone: &str, weight: u32, draining: bool) -> Node {
    let echo = Echo::with(move |_, request| async move {
        match &*request.into_inner().text {
            HOLD => std::future::pending().await,
            HURT if id == "e/3" => Err(Status::unavailable("as told")),
            _ => Ok(Response::new(note(id))),
        }
    });
    let zone: Arc<str> = zone.into();
    let change = |instance: &mut rsf_core::control::Instance| {
        (instance.id, instance.zone) = (id.into(), zone);
        (instance.weight, instance.draining) = (weight, draining);
    };
    fleet.provide_as(change, echo)
}

fn consumer(fleet: &Fleet) -> Peer {
    fleet.consumer_as(|parts| parts.zone = "east".to_owned())
}

/// Publishes the service's document and waits until the consumer goes by it.
async fn govern(fleet: &Fleet, peer: &Peer, revision: u64, mut document: Value) {
    // A field that nothing here goes by, so that each revision can be seen.
    document["call"]["attempt_timeout_ms"] = json!(3_600_000);
    fleet.service_policy(revision, &document.to_string());
    let origin = format!("service/{ECHO}@{revision}");
    peer.governed(|policy| {
        let by = policy.origins.get("attempt_timeout_ms");
        by.is_some_and(|by| **by == *origin)
    })
    .await;
}

fn explain(peer: &Peer, message: &Note) -> Explanation {
    let bytes = message.encode_to_vec().into();
    peer.channel.explain(GET, &bytes, &Metadata::new(), None).unwrap()
}

fn explain_key(peer: &Peer, key: &str) -> Explanation {
    let bytes = note("").encode_to_vec().into();
    let explained = peer.channel.explain(GET, &bytes, &Metadata::new(), Some(key));
    explained.unwrap()
}

async fn answer(peer: &Peer, message: Note) -> String {
    peer.get(message).await.unwrap().into_inner().text
}

fn among(explanation: &Explanation) -> Vec<&str> {
    explanation.first.among.iter().map(|id| &**id).collect()
}

#[tokio::test(start_paused = true)]
async fn each_instance_is_named_with_why_it_is_not_called() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "e/1", "east", 300, false),
        serve(&fleet, "e/2", "east", 100, false),
        serve(&fleet, "e/3", "east", 100, false),
        serve(&fleet, "w/1", "west", 100, false),
        serve(&fleet, "drains", "east", 100, true),
        serve(&fleet, "disabled", "east", 100, false),
        serve(&fleet, "zero", "east", 0, false),
    ];
    let peer = consumer(&fleet);
    let document = json!({
        "call": {"timeout_ms": 777, "routing": {"rules": [{"same_zone": {"spill_below_percent": 0}}]}},
        "instances": [{"instance": "disabled", "disabled": true}],
    });
    govern(&fleet, &peer, 1, document).await;
    peer.connected(4).await;
    let sick = || {
        let view = peer.channel.view();
        view.instances
            .iter()
            .any(|i| i.instance == "e/3" && i.breaker == "open")
    };
    for _ in 0..200 {
        if !sick() {
            let _ = peer.get(note(HURT)).await;
        }
    }
    assert!(sick(), "e/3 is ejected");

    let explanation = explain(&peer, &note(""));
    assert_eq!(
        (
            &*explanation.service,
            &*explanation.method,
            &*explanation.zone,
            explanation.time_ms
        ),
        (ECHO, "Get", "east", 777)
    );
    let removed = |instance: &str, reason: &str| RemovedInstance {
        instance: instance.into(),
        reason: reason.to_owned(),
    };
    assert_eq!(
        explanation.route.left_out,
        [
            removed("drains", "drains"),
            removed("disabled", "is disabled by policy"),
            removed("zero", "has weight 0")
        ]
    );
    assert_eq!(explanation.route.rules.len(), 1);
    assert_eq!(explanation.route.rules[0].kind, "same_zone");
    assert_eq!(
        explanation.route.rules[0].removed,
        [removed("w/1", "in zone west")]
    );
    let seen = |view: &rsf_core::client::InstanceView| {
        (
            view.instance.clone(),
            (view.weight, view.candidate.tier, view.breaker),
        )
    };
    let candidates: BTreeMap<_, _> = explanation.candidates.iter().map(seen).collect();
    let wanted = [
        ("e/1".to_owned(), (300, "well", "closed")),
        ("e/2".to_owned(), (100, "well", "closed")),
        ("e/3".to_owned(), (100, "broken", "open")),
    ];
    assert_eq!(candidates, BTreeMap::from(wanted));
    assert_eq!(explanation.stopped, None);
    assert_eq!(explanation.documents, [format!("service/{ECHO}@1").into()]);
    let origin = format!("service/{ECHO}@1");
    let field = |name: &str| {
        explanation
            .policy
            .iter()
            .find(|value| value.field == name)
            .unwrap()
    };
    assert_eq!(
        (&field("timeout_ms").value, &*field("timeout_ms").origin),
        (&json!(777), &*origin)
    );
    assert_eq!(
        (&field("balance").value, &*field("balance").origin),
        (&json!("least_pending"), "built-in")
    );

    // Whom it names is who is called, while calls pile up by weight.
    let (mut held, mut certain) = (Vec::new(), 0);
    for _ in 0..16 {
        let explanation = explain(&peer, &note(""));
        let named = among(&explanation);
        let called = answer(&peer, note("")).await;
        assert!(named.contains(&&*called), "{called} of {named:?}");
        certain += u32::from(named.len() == 1);
        let pending: u32 = explanation.candidates.iter().map(|view| view.pending).sum();
        assert_eq!(pending, held.len() as u32);
        held.push(peer.get(note(HOLD)).start());
        let under_way = held.len() as u32;
        let taken = || {
            let view = peer.channel.view();
            view.instances.iter().map(|i| i.pending).sum::<u32>() == under_way
        };
        eventually("the call is under way", taken).await;
    }
    assert!(certain >= 8, "{certain} of 16 were certain");
}

#[tokio::test(start_paused = true)]
async fn each_balancer_calls_whom_the_explanation_names_and_asking_changes_nothing() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "1", "east", 100, false),
        serve(&fleet, "2", "east", 200, false),
        serve(&fleet, "3", "east", 100, false),
        serve(&fleet, "4", "east", 50, false),
    ];
    let peer = consumer(&fleet);
    peer.connected(4).await;
    let balances = [
        "round_robin",
        "consistent_hash",
        "peak_ewma",
        "random",
        "least_pending",
    ];
    for (revision, balance) in (1..).zip(balances) {
        govern(&fleet, &peer, revision, json!({"call": {"balance": balance}})).await;
        for key in 0..40 {
            let key = key.to_string();
            let explanation = explain_key(&peer, &key);
            for _ in 0..5 {
                assert_eq!(explain_key(&peer, &key).first, explanation.first, "{balance}");
            }
            let named = among(&explanation);
            if ["round_robin", "consistent_hash"].contains(&balance) {
                assert_eq!(named.len(), 1, "{balance}: {explanation:?}");
            }
            let called = peer.get(note("")).routing_key(&key).await.unwrap();
            let called = called.into_inner().text;
            assert!(named.contains(&&*called), "{balance}: {called} of {named:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_would_stop_a_call_is_what_stops_it() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "e/3", "east", 100, false),
        serve(&fleet, "w/1", "west", 100, false),
    ];
    let peer = consumer(&fleet);
    peer.connected(2).await;

    govern(&fleet, &peer, 1, json!({"call": {"limit": {"concurrency": 1}}})).await;
    assert_eq!(explain(&peer, &note("")).stopped, None);
    let held = peer.get(note(HOLD)).start();
    let taken = || explain(&peer, &note("")).limit.unwrap().under_way == Some(1);
    eventually("the call is under way", taken).await;
    assert_stops(&peer, "limit", false).await;
    drop(held);
    let free = || explain(&peer, &note("")).stopped.is_none();
    eventually("the place is free", free).await;

    let rules = json!([{"tags": {"require": {"disk": "z"}}}]);
    govern(&fleet, &peer, 2, json!({"call": {"routing": {"rules": rules}}})).await;
    assert_stops(&peer, "route", false).await;
    assert!(explain(&peer, &note("")).candidates.is_empty());

    let degrade = json!({"when": "always", "code": "NOT_FOUND"});
    govern(&fleet, &peer, 3, json!({"call": {"degrade": degrade}})).await;
    let explanation = explain(&peer, &note(""));
    let error = peer.get(note("")).await.unwrap_err();
    let stop = explanation.stopped.unwrap();
    assert_eq!(
        (stop.stage, stop.reason, stop.degraded),
        ("degrade", error.reason().name(), true)
    );

    let breaker = json!({"enabled": true, "min_calls": 1, "error_percent": 1, "open_ms": 60_000});
    let rules = json!([{"primary_zone": {"zone": "east"}}]);
    let document = json!({"call": {
        "method_breaker": breaker, "routing": {"rules": rules}, "retry": {"attempts": 1},
        "degrade": {"when": "breaker_open", "code": "NOT_FOUND"},
    }});
    govern(&fleet, &peer, 4, document).await;
    assert_eq!(explain(&peer, &note("")).method_breaker, Some("closed"));
    peer.get(note(HURT)).await.unwrap_err();
    let explanation = explain(&peer, &note(""));
    let stop = explanation.stopped.unwrap();
    assert_eq!(
        (stop.stage, stop.degraded, explanation.method_breaker),
        ("method_breaker", true, Some("open"))
    );
    let error = peer.get(note("")).await.unwrap_err();
    assert!(error.message().ends_with(&stop.because), "{error} {stop:?}");
}

#[tokio::test(start_paused = true)]
async fn the_retries_that_are_left_are_those_that_are_made() {
    let fleet = Fleet::in_test();
    let _node = serve(&fleet, "e/3", "east", 100, false);
    let peer = consumer(&fleet);
    peer.connected(1).await;
    let retry = json!({"attempts": 5, "budget_percent": 0, "budget_per_second": 1, "backoff_ms": 0});
    govern(&fleet, &peer, 1, json!({"call": {"retry": retry}})).await;
    let mut left = explain(&peer, &note("")).retries_left;
    assert_eq!(left, 10);
    for made in [4, 4, 2, 0] {
        let error = peer.get(note(HURT)).await.unwrap_err();
        assert_eq!(error.attempts().len() as u64, made + 1);
        left -= made;
        assert_eq!(explain(&peer, &note("")).retries_left, left);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_explained_of_a_method_that_is_not_there() {
    let fleet = Fleet::in_test();
    let _node = serve(&fleet, "1", "east", 100, false);
    let peer = consumer(&fleet);
    peer.connected(1).await;
    let message = number(1).encode_to_vec().into();
    assert_eq!(peer.channel.explain(9, &message, &Metadata::new(), None), None);
}

/// A call fails with the very words of the explanation, and without an attempt.
async fn assert_stops(peer: &Peer, stage: &str, degraded: bool) {
    let stop: Stop = explain(peer, &note("")).stopped.unwrap();
    let error: RpcError = peer.get(note("")).await.unwrap_err();
    assert_eq!((stop.stage, stop.degraded), (stage, degraded));
    assert_eq!(
        (stop.reason, &*stop.because),
        (error.reason().name(), error.message())
    );
    assert!(error.attempts().is_empty());
}
