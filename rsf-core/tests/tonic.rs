//! Unchanged tonic services and clients, health and reflection, beside RSF's own on one port.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[macro_use]
mod support;

#[path = "support/counter.rs"]
mod counter;

use std::sync::Arc;
use std::time::Duration;

use counter::{Client, Counter};
use futures_util::StreamExt as _;
use rsf_core::control::Instance;
use rsf_core::metrics::Metrics;
use rsf_core::server::{Provider, ProviderIdentity};
use support::{Echo, Fleet, Kind, Node, Note, Peer, SOON, eventually, note, number};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const COUNTER: &str = "test.v1.Counter";
const HEALTH: &str = "grpc.health.v1.Health";

/// A provider of the echo service and of the tonic service, and a consumer.
fn both(kind: Kind) -> (Fleet, Node, Peer) {
    let fleet = Fleet::new(kind);
    let builder = Provider::builder()
        .service("", Echo::plain())
        .service("gold", Echo::plain())
        .tonic_service(Counter);
    let node = fleet.start(builder, |_| {});
    for service in [COUNTER, HEALTH, support::ECHO] {
        fleet.control.set_instances(service, vec![node.instance.clone()]);
    }
    let peer = fleet.consumer();
    (fleet, node, peer)
}

async fn a_tonic_client_over_a_channel(kind: Kind) {
    let (_fleet, _node, peer) = both(kind);
    let mut client = Client::new(peer.consumer.tonic_channel(COUNTER));
    let mut request = tonic::Request::new(number(7));
    request.metadata_mut().insert("tenant", "north".parse().unwrap());
    let reply = client.unary("/test.v1.Counter/Next", request).await.unwrap();
    assert_eq!(reply.metadata().get("tenant").unwrap(), "north");
    assert_eq!(reply.get_ref().number, 8);
    assert_eq!(reply.get_ref().text, "tester", "the provider is told who calls");
    let error = client
        .unary("/test.v1.Counter/Next", number(0).into_request())
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "no number \u{4f1a}")
    );
    assert_eq!(error.metadata().get("hint").unwrap(), "start at one");
    let error = client
        .unary("/test.v1.Counter/Nope", number(1).into_request())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    let stream = client
        .streaming("/test.v1.Counter/Count", number(1000).into_request())
        .await
        .unwrap();
    let numbers: Vec<u32> = stream.map(|note| note.unwrap().number).collect().await;
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
}

trait IntoRequest: Sized {
    fn into_request(self) -> tonic::Request<Self>;
}

impl IntoRequest for Note {
    fn into_request(self) -> tonic::Request<Self> {
        tonic::Request::new(self)
    }
}

async fn a_stream_counts_as_pending_until_it_ends(kind: Kind) {
    let (_fleet, mut node, peer) = both(kind);
    let pending = || {
        let views = peer.consumer.views();
        let view = views.iter().find(|view| view.service == COUNTER);
        view.and_then(|view| view.instances.first())
            .map_or(0, |instance| instance.pending)
    };
    let mut client = Client::new(peer.consumer.tonic_channel(COUNTER));
    let held = Note {
        text: "hold".to_owned(),
        ..number(2)
    };
    let mut stream = client
        .streaming("/test.v1.Counter/Count", held.clone().into_request())
        .await
        .unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().number, 0);
    assert_eq!(pending(), 1);
    drop(stream);
    eventually("the place is free", || pending() == 0).await;
    node.kill();
    eventually("the death is noticed", || {
        peer.consumer
            .views()
            .iter()
            .all(|view| view.instances.iter().all(|i| !i.connected))
    })
    .await;
    let error = client
        .unary("/test.v1.Counter/Next", number(1).into_request())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("connect"), "{error}");
    node.restart();
    let served = async {
        while client
            .unary("/test.v1.Counter/Next", number(1).into_request())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, served).await.expect("it is back");
}

async fn health_is_watched_over_a_channel(kind: Kind) {
    let (_fleet, node, peer) = both(kind);
    let mut client = HealthClient::new(peer.consumer.tonic_channel(HEALTH));
    let ask = |service: &str| HealthCheckRequest {
        service: service.to_owned(),
    };
    use ServingStatus::{NotServing, Serving};
    node.provider.set_serving(true).await;
    for service in ["", support::ECHO, COUNTER] {
        let reply = client.check(ask(service)).await.unwrap().into_inner();
        assert_eq!(reply.status(), Serving, "{service}");
    }
    assert_eq!(
        client.check(ask("nobody")).await.unwrap_err().code(),
        Code::NotFound
    );
    let mut watch = client.watch(ask(COUNTER)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    for serving in [false, true, false] {
        seen.push(watch.next().await.unwrap().unwrap().status());
        node.provider.set_serving(serving).await;
    }
    seen.push(watch.next().await.unwrap().unwrap().status());
    assert_eq!(seen, [Serving, NotServing, Serving, NotServing]);
    // A watch would keep a graceful end waiting for ever; it ends with the instance, after its last word.
    node.provider.set_serving(true).await;
    assert_eq!(watch.next().await.unwrap().unwrap().status(), Serving);
    node.provider.end_streams();
    let end = watch.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable, "{end}");
}

on_all_wires! {
    a_tonic_client_over_a_channel
    a_stream_counts_as_pending_until_it_ends
    health_is_watched_over_a_channel
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_tonic_client_calls_rsfs_port() {
    let (_fleet, node, _peer) = both(Kind::Http2);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", node.address())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut client = Client::new(channel.clone());
    let mut request = note("hello").into_request();
    request.metadata_mut().insert("tenant", "north".parse().unwrap());
    request.set_timeout(SOON);
    let reply = client.unary("/test.v1.Echo/Get", request).await.unwrap();
    assert_eq!(
        (
            reply.get_ref().text.as_str(),
            reply.metadata().get("tenant").unwrap()
        ),
        ("hello", &"north".parse().unwrap())
    );
    let error = client
        .unary("/test.v1.Echo/Nope", note("").into_request())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(error.message().contains("test.v1.Echo"), "{error}");
    let stream = client
        .streaming("/test.v1.Counter/Count", number(3).into_request())
        .await
        .unwrap();
    assert_eq!(stream.count().await, 3);
    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await;
    assert_eq!(health.unwrap().into_inner().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_tonic_call_for_somebody_else_is_refused() {
    let fleet = Fleet::in_test();
    let builder = Provider::builder().tonic_service(Counter);
    let node = fleet.start(builder, |instance| instance.incarnation = 5);
    let mut old = node.instance.clone();
    old.id = "echo/old".into();
    fleet.control.set_instances(COUNTER, vec![old]);
    let mut client = Client::new(fleet.consumer().consumer.tonic_channel(COUNTER));
    let error = client
        .unary("/test.v1.Counter/Next", number(1).into_request())
        .await
        .unwrap_err();
    assert!(error.message().contains("test/echo/old"), "{error}");
    fleet.control.set_instances(COUNTER, vec![node.instance.clone()]);
    let mut client = Client::new(fleet.consumer().consumer.tonic_channel(COUNTER));
    client
        .unary("/test.v1.Counter/Next", number(1).into_request())
        .await
        .unwrap();
}

/// Lists the services over one version of the reflection service, and fetches the file of the echo service.
macro_rules! reflect {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
        let ask = |message_request| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message_request),
        };
        let questions = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("test.v1.Echo".to_owned())),
        ];
        let mut client = ServerReflectionClient::new($channel);
        let answers = client
            .server_reflection_info(futures_util::stream::iter(questions))
            .await
            .unwrap();
        let answers: Vec<_> = answers
            .into_inner()
            .map(|answer| answer.unwrap().message_response)
            .collect()
            .await;
        let [
            Some(MessageResponse::ListServicesResponse(list)),
            Some(MessageResponse::FileDescriptorResponse(file)),
        ] = <[_; 2]>::try_from(answers).unwrap()
        else {
            panic!("other answers than asked for");
        };
        let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
        assert_eq!(
            names.iter().filter(|name| *name == "test.v1.Echo").count(),
            1,
            "{names:?}"
        );
        assert_eq!(file.file_descriptor_proto.len(), 1);
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_reflection_list_the_services() {
    let (_fleet, node, _peer) = both(Kind::Http2);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", node.address())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    reflect!(v1, channel.clone());
    reflect!(v1alpha, channel);
}

#[tokio::test]
async fn services_that_cannot_be_hosted_together_are_refused() {
    let fleet = Fleet::in_test();
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let policies = rsf_core::PolicyBook::new(
        fleet.control.clone(),
        fleet.runtime.clone(),
        metrics.policies_refused.clone(),
    );
    let identity = || ProviderIdentity {
        application: Instance::at("echo", "nowhere:1").application.to_string(),
        target: None,
        zone: String::new(),
        tags: Default::default(),
    };
    let (_, health) = tonic_health::server::health_reporter();
    let echo = || -> Arc<Echo> { Echo::plain() };
    let cases = [
        (
            Provider::builder().service("", echo()).service("", echo()),
            "test.v1.Echo",
        ),
        (
            Provider::builder().service("a", echo()).service("a", echo()),
            "test.v1.Echo:a",
        ),
        (Provider::builder().service("a b", echo()), "letters"),
        (
            Provider::builder().tonic_service(Counter).tonic_service(Counter),
            COUNTER,
        ),
        (Provider::builder().tonic_service(health), HEALTH),
    ];
    for (builder, named) in cases {
        let Err(error) = builder.build(identity(), &metrics, &policies) else {
            panic!("hosted: {named}");
        };
        assert!(error.to_string().contains(named), "{error}");
    }
}
