//! Plain tonic clients over a channel: their deadlines, their streams' verdict on the instance, and what is sent again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

#[path = "support/counter.rs"]
mod counter;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use counter::{Client, Counter};
use futures_util::StreamExt as _;
use rsf_core::client::TonicChannel;
use rsf_core::server::Provider;
use support::{Fleet, Kind, Node, Note, Peer, SOON, eventually};
use tokio::time::{Instant, sleep};
use tonic::Code;

const COUNTER: &str = "test.v1.Counter";
const NEXT: &str = "/test.v1.Counter/Next";
const COUNT: &str = "/test.v1.Counter/Count";

/// Registered instances of the tonic service, listed, and a consumer.
fn counters(fleet: &Fleet, count: usize) -> (Vec<Node>, Peer) {
    let start = |_| {
        fleet.start(Provider::builder().tonic_service(Counter), |instance| {
            instance.incarnation = 1;
        })
    };
    let nodes: Vec<_> = (0..count).map(start).collect();
    list(fleet, &nodes);
    (nodes, fleet.consumer())
}

fn list(fleet: &Fleet, nodes: &[Node]) {
    let instances = nodes.iter().map(|node| node.instance.clone()).collect();
    fleet.control.set_instances(COUNTER, instances);
}

fn policy(fleet: &Fleet, revision: u64, document: &str) {
    fleet.policy(&format!("service/{COUNTER}"), revision, document);
}

fn told(number: u32, text: &str) -> tonic::Request<Note> {
    tonic::Request::new(Note {
        number,
        text: text.to_owned(),
        ..Note::default()
    })
}

fn client(peer: &Peer) -> Client<TonicChannel> {
    Client::new(peer.consumer.tonic_channel(COUNTER))
}

/// The instances' breakers, and the calls pending at them.
fn states(peer: &Peer) -> Vec<(&'static str, u32)> {
    let views = peer.consumer.views();
    let instances = views.iter().filter(|view| view.service == COUNTER);
    let mut states: Vec<_> = instances
        .flat_map(|view| &view.instances)
        .map(|instance| (instance.breaker, instance.pending))
        .collect();
    states.sort_unstable();
    states
}

fn open(peer: &Peer) -> usize {
    states(peer)
        .iter()
        .filter(|(breaker, _)| *breaker == "open")
        .count()
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_holds_for_the_whole_stream() {
    let fleet = Fleet::in_test();
    let (_nodes, peer) = counters(&fleet, 1);
    let mut client = client(&peer);
    for method in [NEXT, COUNT] {
        let begun = Instant::now();
        let mut request = told(2, "hold");
        request.set_timeout(Duration::from_millis(700));
        let error = if method == NEXT {
            client.unary(method, request).await.unwrap_err()
        } else {
            let mut stream = client.streaming(method, request).await.unwrap();
            assert_eq!(stream.next().await.unwrap().unwrap().number, 0);
            assert_eq!(stream.next().await.unwrap().unwrap().number, 1);
            stream.next().await.unwrap().unwrap_err()
        };
        assert_eq!(error.code(), Code::DeadlineExceeded, "{method}: {error}");
        let took = begun.elapsed().as_millis();
        assert!((700..720).contains(&took), "{method}: {took} ms");
        eventually("its place is free", || states(&peer) == [("closed", 0)]).await;
    }
    let mut request = told(1, "");
    request
        .metadata_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    let error = client.unary(NEXT, request).await.unwrap_err();
    assert!(error.message().contains("timeout"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_policys_timeout_ends_before_the_stream_begins() {
    let fleet = Fleet::in_test();
    policy(&fleet, 1, r#"{"call":{"timeout_ms":500}}"#);
    let (_nodes, peer) = counters(&fleet, 1);
    let mut client = client(&peer);
    for (revision, limit) in [(2, 500), (3, 2000)] {
        policy(
            &fleet,
            revision,
            &format!(r#"{{"call":{{"timeout_ms":{limit}}}}}"#),
        );
        sleep(Duration::from_millis(10)).await;
        let begun = Instant::now();
        let error = client.unary(NEXT, told(1, "hold")).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert!(error.message().contains("timeout_ms"), "{error}");
        let took = begun.elapsed().as_millis();
        assert!((limit..limit + 20).contains(&took), "{took} ms of {limit}");
    }
    let mut stream = client.streaming(COUNT, told(1, "hold")).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().number, 0);
    let silent = tokio::time::timeout(Duration::from_secs(3600), stream.next()).await;
    assert!(silent.is_err(), "a stream without a deadline goes on");
    assert_eq!(states(&peer), [("closed", 1)]);
}

#[tokio::test(start_paused = true)]
async fn the_verdict_on_the_instance_falls_at_the_streams_end() {
    let fleet = Fleet::in_test();
    policy(
        &fleet,
        1,
        r#"{"call":{"node_breaker":{"consecutive_failures":3,"ejection_ms":5000}}}"#,
    );
    let (_nodes, peer) = counters(&fleet, 2);
    let mut client = client(&peer);
    client.unary(NEXT, told(1, "")).await.unwrap();
    eventually("both are connected", || {
        let views = peer.consumer.views();
        views
            .iter()
            .all(|view| view.instances.iter().all(|i| i.connected))
    })
    .await;
    // Streams that break off after their first message.
    let mut streams = Vec::new();
    for _ in 0..6 {
        let mut stream = client.streaming(COUNT, told(1, "fail")).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().number, 0);
        streams.push(stream);
    }
    assert_eq!(
        states(&peer),
        [("closed", 3), ("closed", 3)],
        "begun well, not over"
    );
    for stream in &mut streams {
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
    }
    drop(streams);
    assert_eq!(
        open(&peer),
        1,
        "three in a row; the other is kept by the largest share"
    );
    // After the ejection a stream is the trial: its first message clears the instance, though the stream goes on.
    sleep(Duration::from_secs(7)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = client.streaming(COUNT, told(1, "hold")).await.unwrap();
        stream.next().await.unwrap().unwrap();
        held.push(stream);
    }
    assert_eq!(open(&peer), 0, "{:?}", states(&peer));
}

#[tokio::test(start_paused = true)]
async fn a_tonic_call_has_its_place_in_a_trace() {
    let fleet = Fleet::in_test();
    let (_nodes, peer) = counters(&fleet, 1);
    let mut client = client(&peer);
    let reply = client.unary(NEXT, told(1, "")).await.unwrap();
    let drawn = reply
        .metadata()
        .get("traceparent")
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    assert!(rsf_core::wire::TraceParent::parse(&drawn).is_some(), "{drawn}");
    assert_eq!(reply.metadata().get("rsf-request-id").unwrap().len(), 16);
    let own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = told(1, "");
    request.metadata_mut().insert("traceparent", own.parse().unwrap());
    let reply = client.unary(NEXT, request).await.unwrap();
    assert_eq!(reply.metadata().get("traceparent").unwrap(), own);
}

/// Providers end gracefully and come back, one after the other, under unary calls and streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graceful_ends_fail_no_tonic_call() {
    graceful_ends(Kind::Http2).await;
    graceful_ends(Kind::Engine).await;
}

async fn graceful_ends(kind: Kind) {
    let fleet = Fleet::new(kind);
    let (mut nodes, peer) = counters(&fleet, 3);
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU32::new(0));
    let calls = (0..8u32).map(|task| {
        let (mut client, stop, done) = (client(&peer), stop.clone(), done.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if task % 2 == 0 {
                    client.unary(NEXT, told(1, "")).await?;
                } else {
                    let mut stream = client.streaming(COUNT, told(20, "")).await?;
                    while let Some(note) = stream.next().await {
                        note?;
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, tonic::Status>(())
        })
    });
    let calls: Vec<_> = calls.collect();
    for round in 0..6 {
        let seen = done.load(Ordering::Relaxed);
        eventually("calls go on", || done.load(Ordering::Relaxed) > seen + 100).await;
        let node = &mut nodes[round % 3];
        // It says GOAWAY without a word to the directory: consumers learn of it by their calls.
        node.drained().await;
        node.restart();
    }
    stop.store(true, Ordering::Relaxed);
    for call in calls {
        tokio::time::timeout(SOON, call).await.unwrap().unwrap().unwrap();
    }
}
