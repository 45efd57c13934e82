//! What runs over the engine besides RSF's own calls: requests as `http` shapes them, to services of either kind.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use http_body_util::BodyExt as _;
use prost::Message as _;
use rsf_core::wire::{Frame, Target};
use support::{Echo, Fleet, Kind, Note, note};

/// One unary request by way of `Connection::http`; the body's message and the trailers.
async fn ask(kind: Kind, path: &str, message: &impl prost::Message) -> (bytes::Bytes, http::HeaderMap) {
    let fleet = Fleet::new(kind);
    let node = fleet.provide(Echo::plain());
    let target = Target {
        address: node.address().into(),
        keepalive: None,
    };
    let connection = fleet.wire().connect(&target).await.unwrap();
    let frame = Frame::encode(message).unwrap();
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("tenant", "north")
        .body(tonic::body::Body::new(http_body_util::Full::new(
            frame.bytes().clone(),
        )))
        .unwrap();
    let response = connection.http(request).await.unwrap();
    assert_eq!(response.status(), http::StatusCode::OK);
    let headers = response.headers().clone();
    let collected = response.into_body().collect().await.unwrap();
    let mut last = collected.trailers().cloned().unwrap_or_default();
    last.extend(headers);
    (collected.to_bytes(), last)
}

const KINDS: [Kind; 3] = [Kind::Engine, Kind::EngineToHttp2, Kind::Http2ToEngine];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsf_services_answer_plain_http() {
    for kind in KINDS {
        let (body, headers) = ask(kind, "/test.v1.Echo/Get", &note("hello")).await;
        assert_eq!(Note::decode(body.slice(5..)).unwrap().text, "hello", "{kind:?}");
        assert_eq!(
            (&headers["grpc-status"], &headers["tenant"]),
            (&"0".parse().unwrap(), &"north".parse().unwrap())
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosted_tonic_services_answer() {
    for kind in KINDS {
        let (body, headers) = ask(kind, "/grpc.health.v1.Health/Check", &Note::default()).await;
        // HealthCheckResponse { status: SERVING }.
        assert_eq!(
            (&headers["grpc-status"], &body[5..]),
            (&"0".parse().unwrap(), &[8, 1][..]),
            "{kind:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_paths_answer_unimplemented() {
    for kind in KINDS {
        let (_, headers) = ask(kind, "/no.Such/Method", &Note::default()).await;
        assert_eq!(headers["grpc-status"], "12", "{kind:?}");
    }
}
