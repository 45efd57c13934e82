//! What calls of plain tonic clients get of the call around them, of policy, and of the key that their caller names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[path = "support/counter.rs"]
mod counter;
#[path = "support/line.rs"]
mod line;
#[macro_use]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use counter::{Client, Counter};
use futures_util::StreamExt as _;
use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use rsf_core::client::{RoutingKey, TonicChannel};
use rsf_core::message::{Request, Response};
use rsf_core::server::Provider;
use rsf_core::status::Status;

use tokio::time::Instant;

use line::{Sent, connect, read, request, soon};
use support::{Echo, Fleet, Kind, Node, Note, Peer, eventually, note};

const COUNTER: &str = "test.v1.Counter";
const NEXT: &str = "/test.v1.Counter/Next";
const COUNT: &str = "/test.v1.Counter/Count";

type Seen = BTreeMap<String, String>;

fn told(text: &str) -> tonic::Request<Note> {
    tonic::Request::new(Note {
        number: 1,
        text: text.to_owned(),
        ..Note::default()
    })
}

fn seen(metadata: &tonic::metadata::MetadataMap) -> Seen {
    metadata
        .iter()
        .filter_map(|pair| match pair {
            tonic::metadata::KeyAndValueRef::Ascii(key, value) => {
                Some((key.to_string(), value.to_str().ok()?.to_owned()))
            }
            tonic::metadata::KeyAndValueRef::Binary(..) => None,
        })
        .collect()
}

/// A handler of RSF's own that calls the hosted service with a plain tonic client: what arrived there, or the status.
struct Chain {
    fleet: Fleet,
    node: Node,
    _peer: Peer,
    arrived: Arc<Mutex<Option<Result<Seen, tonic::Status>>>>,
}

impl Chain {
    /// What the tonic client asks for, and the time that it sets itself.
    async fn new(kind: Kind, text: &'static str, own: Option<Duration>) -> Chain {
        let client: Arc<Mutex<Option<Client<TonicChannel>>>> = Arc::default();
        let arrived: Arc<Mutex<Option<Result<Seen, tonic::Status>>>> = Arc::default();
        let (known, noted) = (client.clone(), arrived.clone());
        let echo = Echo::with(move |_, request: Request<Note>| {
            let (client, noted) = (known.lock().clone(), noted.clone());
            async move {
                let mut inner = told(text);
                if let Some(own) = own {
                    inner.set_timeout(own);
                }
                let result = client.unwrap().unary(NEXT, inner).await;
                *noted.lock() = Some(result.map(|reply| seen(reply.metadata())));
                Ok::<_, Status>(Response::new(request.into_inner()))
            }
        });
        let fleet = Fleet::new(kind);
        let builder = Provider::builder().service("", echo).tonic_service(Counter);
        let node = fleet.start(builder, |_| {});
        fleet.control.set_instances(COUNTER, vec![node.instance.clone()]);
        let peer = fleet.consumer();
        *client.lock() = Some(Client::new(peer.consumer.tonic_channel(COUNTER)));
        Chain {
            fleet,
            node,
            _peer: peer,
            arrived,
        }
    }

    /// Makes the call around it.
    async fn call(&self, outer: Sent) -> Result<Seen, tonic::Status> {
        let connection = connect(&self.fleet, &self.node).await;
        read(&soon(outer.over(&connection)).await.unwrap());
        self.arrived.lock().take().expect("the handler has called")
    }
}

fn outer() -> Sent {
    let mut outer = request("Get", &note(""));
    outer.timeout = Some(Duration::from_millis(5000));
    outer.trace =
        rsf_core::wire::TraceParent::parse("00-00000000000000000000000000000abc-00000000000000ef-01");
    for (name, value) in [
        ("baggage", "tenant=north"),
        ("rsf-dye", "blue"),
        ("rsf-priority", "low"),
    ] {
        let header = (HeaderName::from_static(name), HeaderValue::from_static(value));
        outer.own.push(header);
    }
    outer
}

async fn they_inherit(kind: Kind) {
    let longer = Some(Duration::from_secs(60));
    for own in [None, longer] {
        let chain = Chain::new(kind, "seen", own).await;
        let seen = chain.call(outer()).await.unwrap();
        assert_eq!(seen["seen-baggage"], "tenant=north");
        assert_eq!(seen["seen-rsf-dye"], "blue");
        assert_eq!(seen["seen-rsf-priority"], "low");
        assert!(
            seen["seen-traceparent"].starts_with("00-00000000000000000000000000000abc-"),
            "{seen:?}"
        );
        assert!(!seen["seen-traceparent"].contains("00000000000000ef"), "{seen:?}");
        assert!(seen["seen-traceparent"].ends_with("-01"), "{seen:?}");
        assert_eq!(seen.get("seen-rsf-retried"), None);
        // The hosted handler's own calls would inherit the same.
        let remaining: u64 = seen["context-remaining-ms"].parse().unwrap();
        assert!((1..=5000).contains(&remaining), "{remaining} ms, own {own:?}");
        assert_eq!(seen["context-priority"], "Low");
        assert_eq!(seen["context-caller"], "tester");
        assert_eq!(seen["context-proven"], "false");
    }
    // A time of its own that is shorter holds.
    let chain = Chain::new(kind, "seen", Some(Duration::from_millis(2000))).await;
    let seen = chain.call(outer()).await.unwrap();
    let remaining: u64 = seen["context-remaining-ms"].parse().unwrap();
    assert!((1..=2000).contains(&remaining), "{remaining} ms");
}

async fn a_further_attempt_leaves_them_no_credit(kind: Kind) {
    let chain = Chain::new(kind, "seen", None).await;
    let mut further = outer();
    further.previous_attempts = 1;
    assert_eq!(chain.call(further).await.unwrap()["seen-rsf-retried"], "1");
}

async fn they_end_with_the_call_around_them(kind: Kind) {
    let chain = Chain::new(kind, "hold", Some(Duration::from_secs(60))).await;
    let mut short = outer();
    short.timeout = Some(Duration::from_millis(300));
    let connection = connect(&chain.fleet, &chain.node).await;
    let begun = Instant::now();
    // Whichever of the two notices first.
    let _ = soon(short.over(&connection)).await;
    eventually("the inner call has ended", || chain.arrived.lock().is_some()).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let status = chain.arrived.lock().take().unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    assert!(
        status.message().contains("the call that made this one"),
        "{status}"
    );
}

async fn what_their_client_says_in_rsfs_name_is_not_sent(kind: Kind) {
    let fleet = Fleet::new(kind);
    let node = fleet.start(Provider::builder().tonic_service(Counter), |instance| {
        instance.incarnation = 1;
    });
    fleet.control.set_instances(COUNTER, vec![node.instance.clone()]);
    let scope = format!("service/{COUNTER}");
    fleet.policy(
        &scope,
        1,
        r#"{"call":{"priority":"low","trace":{"sample_percent":100}}}"#,
    );
    let peer = fleet.consumer();
    let mut client = Client::new(peer.consumer.tonic_channel(COUNTER));
    // The first one says which instance it means, the second knows; neither is told by the client.
    for _ in 0..2 {
        let mut request = told("seen");
        for (name, value) in [
            ("rsf-target", "test/nobody"),
            ("rsf-shard", "zone:nowhere"),
            ("rsf-caller", "forged"),
            ("rsf-priority", "high"),
            ("rsf-retried", "1"),
            ("rsf-request-id", "mine"),
            ("tenant", "north"),
        ] {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let reply = client.unary(NEXT, request).await.unwrap();
        let seen = seen(reply.metadata());
        assert_eq!(seen["seen-rsf-caller"], "tester");
        assert_eq!(seen["seen-rsf-priority"], "low", "policy's word");
        assert_eq!(seen["seen-rsf-request-id"], "mine");
        assert_eq!(seen["seen-tenant"], "north");
        for gone in ["seen-rsf-shard", "seen-rsf-retried"] {
            assert_eq!(seen.get(gone), None, "{seen:?}");
        }
        assert!(
            seen["seen-traceparent"].ends_with("-01"),
            "policy keeps all: {seen:?}"
        );
    }
}

on_all_wires! {
    they_inherit
    a_further_attempt_leaves_them_no_credit
    they_end_with_the_call_around_them
    what_their_client_says_in_rsfs_name_is_not_sent
}

#[tokio::test(start_paused = true)]
async fn a_key_that_their_caller_names_stays_at_one_instance() {
    let fleet = Fleet::in_test();
    let nodes: Vec<_> = (0..5)
        .map(|_| fleet.start(Provider::builder().tonic_service(Counter), |_| {}))
        .collect();
    let instances = nodes.iter().map(|node| node.instance.clone()).collect();
    fleet.control.set_instances(COUNTER, instances);
    let scope = format!("service/{COUNTER}");
    fleet.policy(&scope, 1, r#"{"call":{"balance":"consistent_hash"}}"#);
    let peer = fleet.consumer();
    let mut client = Client::new(peer.consumer.tonic_channel(COUNTER));
    let pending = || {
        let views = peer.consumer.views();
        let view = views.into_iter().find(|view| view.service == COUNTER).unwrap();
        let mut busy = view.instances.into_iter().filter(|instance| instance.pending > 0);
        busy.next().map(|instance| instance.instance)
    };
    // Where one call goes: its stream is held open for the look.
    let mut taken_by = async |key: Option<&str>, tenant: Option<&str>| {
        let mut request = told("hold");
        if let Some(key) = key {
            request.extensions_mut().insert(RoutingKey::new(key));
        }
        if let Some(tenant) = tenant {
            request.metadata_mut().insert("tenant", tenant.parse().unwrap());
        }
        let mut stream = client.streaming(COUNT, request).await.unwrap();
        stream.next().await.unwrap().unwrap();
        let instance = pending().expect("a call is under way");
        drop(stream);
        eventually("its place is free", || pending().is_none()).await;
        instance
    };
    let mut homes = std::collections::BTreeSet::new();
    for key in ["ann", "bob", "cid", "dan", "eve", "fay", "gil", "hal"] {
        let home = taken_by(Some(key), None).await;
        for _ in 0..5 {
            assert_eq!(taken_by(Some(key), None).await, home, "{key}");
        }
        homes.insert(home);
    }
    assert!(homes.len() > 1, "all eight keys at {homes:?}");
    // The negative control: without a key there is none.
    let mut anywhere = std::collections::BTreeSet::new();
    for _ in 0..40 {
        anywhere.insert(taken_by(None, None).await);
    }
    assert!(anywhere.len() > 1, "40 calls without a key at {anywhere:?}");
    // Policy may take the key out of the metadata, and then goes by nothing else.
    fleet.policy(
        &scope,
        2,
        r#"{"call":{"balance":"consistent_hash","routing":{"key":"metadata:tenant"}}}"#,
    );
    tokio::time::sleep(Duration::from_millis(50)).await;
    let home = taken_by(None, Some("north")).await;
    for key in ["ann", "bob", "cid", "dan", "eve"] {
        assert_eq!(taken_by(Some(key), Some("north")).await, home);
    }
}
