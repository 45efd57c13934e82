//! Unchanged tonic services under the instance's pool, queue and thresholds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[path = "support/line.rs"]
mod line;
mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use rsf_core::client::TonicChannel;
use rsf_core::server::Provider;
use rsf_core::wire::Connection;
use support::{Echo, Fleet, Node, Peer, counted, eventually, note};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::server::NamedService;

const HOSTED: &str = "test.v1.Hosted";

/// Answers every method with an empty OK when it gets a permit.
#[derive(Clone)]
struct Hosted(Arc<Semaphore>);

impl NamedService for Hosted {
    const NAME: &'static str = HOSTED;
}

impl tower::Service<http::Request<Body>> for Hosted {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let gate = self.0.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Ok(tonic::Status::ok("").into_http())
        })
    }
}

async fn provided(gate: &Arc<Semaphore>) -> (Fleet, Node, Peer) {
    let fleet = Fleet::in_test();
    let builder = Provider::builder()
        .tonic_service(Hosted(gate.clone()))
        .service("", Echo::plain());
    let node = fleet.start(builder, |_| {});
    for service in [HOSTED, support::ECHO] {
        fleet.control.set_instances(service, vec![node.instance.clone()]);
    }
    let peer = fleet.consumer();
    peer.connected(1).await;
    (fleet, node, peer)
}

/// The status of a call of `method`, once it is answered.
fn call(
    channel: &TonicChannel,
    method: &str,
    headers: &[(&'static str, &'static str)],
) -> tokio::task::JoinHandle<(u32, String)> {
    let request = request(method, headers);
    let mut channel = channel.clone();
    tokio::spawn(async move {
        match tower::Service::call(&mut channel, request).await {
            Ok(response) => answered(&response),
            // The consumer's own word, where it gave up first.
            Err(status) => (status.code() as u32, status.message().to_owned()),
        }
    })
}

/// The same over a bare connection, for headers that RSF's own clients set themselves.
fn bare(
    connection: &Arc<dyn Connection>,
    method: &str,
    headers: &[(&'static str, &'static str)],
) -> tokio::task::JoinHandle<(u32, String)> {
    let answer = connection.http(request(method, headers));
    tokio::spawn(async move { answered(&answer.await.unwrap()) })
}

fn request(method: &str, headers: &[(&'static str, &'static str)]) -> http::Request<Body> {
    let mut request = http::Request::new(Body::empty());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = format!("http://hosted/{HOSTED}/{method}").parse().unwrap();
    request
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(*name, HeaderValue::from_static(value));
    }
    request
}

fn answered(response: &http::Response<Body>) -> (u32, String) {
    let header = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    (header("grpc-status").parse().unwrap(), header("grpc-message"))
}

async fn policy(fleet: &Fleet, scope: &str, revision: u64, provider: &str) {
    fleet.policy(scope, revision, &format!(r#"{{"provider":{provider}}}"#));
    let acknowledged = || fleet.acknowledged(scope) == Some((revision, None));
    eventually("the policy is acknowledged", acknowledged).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
}

const OK: u32 = 0;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;

#[tokio::test(start_paused = true)]
async fn tonic_services_share_the_pool_with_rsfs_own() {
    let gate = Arc::new(Semaphore::new(0));
    let (fleet, node, peer) = provided(&gate).await;
    policy(&fleet, "application/echo", 1, r#"{"pool":1,"queue":1}"#).await;
    let hosted = peer.consumer.tonic_channel(HOSTED);
    let running = call(&hosted, "Any", &[]);
    eventually("it runs", || {
        counted(&node.registry, "rsf_server_pool_running", "") == 1
    })
    .await;
    let waits = call(&hosted, "Any", &[("grpc-timeout", "50m")]);
    eventually("it waits", || {
        counted(&node.registry, "rsf_server_pool_waiting", "") == 1
    })
    .await;
    let (status, message) = call(&hosted, "Any", &[]).await.unwrap();
    assert_eq!(status, RESOURCE_EXHAUSTED);
    assert!(message.contains("provider.queue"), "{message}");
    assert!(
        peer.put(note("")).await.is_err(),
        "RSF's own services meet the same queue"
    );
    assert_eq!(waits.await.unwrap().0, DEADLINE_EXCEEDED);
    let waits = peer.get(note("")).start();
    gate.add_permits(10);
    assert_eq!(running.await.unwrap().0, OK);
    waits.await.unwrap();
    assert_eq!(call(&hosted, "Any", &[]).await.unwrap().0, OK);
    assert_eq!(counted(&node.registry, "rsf_server_pool_running", ""), 0);
}

#[tokio::test(start_paused = true)]
async fn tonics_methods_have_thresholds_and_groups() {
    let gate = Arc::new(Semaphore::new(0));
    let (fleet, node, peer) = provided(&gate).await;
    let limits = r#"{"concurrency":{"One":1},"groups":{"g":{"methods":["Two","Three"],"concurrency":1}}}"#;
    policy(&fleet, "service/test.v1.Hosted", 1, limits).await;
    let hosted = peer.consumer.tonic_channel(HOSTED);
    let running: Vec<_> = ["One", "Two", "Other", "Other"]
        .map(|method| call(&hosted, method, &[]))
        .into();
    eventually("all run", || {
        counted(&node.registry, "rsf_server_pool_running", "") == 4
    })
    .await;
    for (method, limit) in [
        ("One", "provider.concurrency"),
        ("Three", "provider.groups.g.concurrency"),
    ] {
        let (status, message) = call(&hosted, method, &[]).await.unwrap();
        assert_eq!(status, RESOURCE_EXHAUSTED);
        assert!(message.contains(limit), "{message}");
    }
    assert_eq!(
        counted(&node.registry, "rsf_server_refused_total", "test.v1.Hosted/One"),
        1
    );
    policy(&fleet, "service/test.v1.Hosted", 2, "{}").await;
    let more: Vec<_> = ["One", "Three"].map(|method| call(&hosted, method, &[])).into();
    eventually("they run too", || {
        counted(&node.registry, "rsf_server_pool_running", "") == 6
    })
    .await;
    gate.add_permits(10);
    for call in running.into_iter().chain(more) {
        assert_eq!(call.await.unwrap().0, OK);
    }
}

#[tokio::test(start_paused = true)]
async fn tonics_callers_have_priorities() {
    let gate = Arc::new(Semaphore::new(0));
    let (fleet, node, _peer) = provided(&gate).await;
    policy(&fleet, "application/echo", 1, r#"{"pool":1,"queue":2}"#).await;
    let hosted = line::connect(&fleet, &node).await;
    let running = bare(&hosted, "Any", &[]);
    eventually("it runs", || {
        counted(&node.registry, "rsf_server_pool_running", "") == 1
    })
    .await;
    let low = [("rsf-priority", "low")];
    let first = bare(&hosted, "Any", &low);
    eventually("it waits", || {
        counted(&node.registry, "rsf_server_pool_waiting", "") == 1
    })
    .await;
    let (status, message) = bare(&hosted, "Any", &low).await.unwrap();
    assert_eq!(status, RESOURCE_EXHAUSTED);
    assert!(message.contains("low priority"), "{message}");
    gate.add_permits(10);
    for call in [running, first] {
        assert_eq!(call.await.unwrap().0, OK);
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_answer_is_forgotten_by_those_that_follow() {
    let gate = Arc::new(Semaphore::new(0));
    let (fleet, node, peer) = provided(&gate).await;
    // A pool of one that times every call.
    let pool = r#"{"queue":10,"adaptive":{"enabled":true,"initial":1,"min":1,"max":1}}"#;
    policy(&fleet, "application/echo", 1, pool).await;
    let hosted = peer.consumer.tonic_channel(HOSTED);
    let slow = call(&hosted, "Any", &[("grpc-timeout", "60S")]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    gate.add_permits(401);
    assert_eq!(slow.await.unwrap().0, OK);
    for _ in 0..400 {
        assert_eq!(call(&hosted, "Any", &[]).await.unwrap().0, OK);
    }
    let running = call(&hosted, "Any", &[]);
    eventually("it runs", || {
        counted(&node.registry, "rsf_server_pool_running", "") == 1
    })
    .await;
    let waits = call(&hosted, "Any", &[("grpc-timeout", "1S")]);
    eventually("it waits", || {
        counted(&node.registry, "rsf_server_pool_waiting", "") == 1
    })
    .await;
    gate.add_permits(2);
    for call in [running, waits] {
        assert_eq!(call.await.unwrap(), (OK, String::new()));
    }
}

#[tokio::test(start_paused = true)]
async fn policy_caps_what_tonics_callers_say_of_their_priority() {
    let gate = Arc::new(Semaphore::new(0));
    let (fleet, node, _peer) = provided(&gate).await;
    policy(&fleet, "application/echo", 1, r#"{"pool":1,"queue":2}"#).await;
    policy(&fleet, "service/test.v1.Hosted", 1, r#"{"max_priority":"low"}"#).await;
    let hosted = line::connect(&fleet, &node).await;
    let high = [("rsf-priority", "high")];
    let running = bare(&hosted, "Any", &high);
    eventually("it runs", || {
        counted(&node.registry, "rsf_server_pool_running", "") == 1
    })
    .await;
    let waits = bare(&hosted, "Any", &high);
    eventually("it waits", || {
        counted(&node.registry, "rsf_server_pool_waiting", "") == 1
    })
    .await;
    let (status, message) = bare(&hosted, "Any", &high).await.unwrap();
    assert_eq!(status, RESOURCE_EXHAUSTED);
    assert!(message.contains("low priority"), "{message}");
    gate.add_permits(2);
    for call in [running, waits] {
        assert_eq!(call.await.unwrap().0, OK);
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_are_not_told_where_the_instance_is() {
    let gate = Arc::new(Semaphore::new(0));
    let (fleet, node, _peer) = provided(&gate).await;
    let hosted = line::connect(&fleet, &node).await;
    let elsewhere = [("rsf-shard", "zone:elsewhere")];
    let (status, message) = bare(&hosted, "Any", &elsewhere).await.unwrap();
    assert_eq!(status, FAILED_PRECONDITION, "{message}");
    let closed = r#"{"authorization":{"mode":"enforce","default":"deny"}}"#;
    policy(&fleet, "service/test.v1.Hosted", 1, closed).await;
    let (status, message) = bare(&hosted, "Any", &elsewhere).await.unwrap();
    assert_eq!(status, PERMISSION_DENIED, "{message}");
}
