//! What runs over the engine besides RSF's own calls: requests as `http` shapes them, to services of either kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod support;

use http::{HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use prost::Message as _;
use rsf_core::message::Response;
use rsf_core::server::Provider;
use rsf_core::status::Code;
use rsf_core::wire::{Frame, Target};
use support::{Echo, Fleet, Kind, Note, note};

#[path = "support/line.rs"]
mod line;
use line::{connect, read, request, soon};

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

/// A server learns what the beginning of a connection's calls means. That must never lead one to another's handler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_all_methods_and_implementations_find_theirs_on_one_connection() {
    let calls = [
        ("Get", None, Some("plain 0")),
        ("Put", None, Some("plain 1")),
        ("Get", Some("gold"), Some("gold 0")),
        ("Put", Some("gold"), Some("gold 1")),
        ("Get", Some("silver"), None),
        ("No", None, None),
    ];
    let named = |name: &'static str| {
        Echo::with(move |method, _| async move { Ok(Response::new(note(&format!("{name} {method}")))) })
    };
    for kind in KINDS {
        let fleet = Fleet::new(kind);
        let builder = Provider::builder()
            .service("", named("plain"))
            .service("gold", named("gold"));
        let node = fleet.provide_built(builder);
        let connection = connect(&fleet, &node).await;
        // What is learned in the first round is used in the others, which go in another order.
        for step in 0..4 * calls.len() {
            let (method, implementation, wanted) = calls[step * 5 % calls.len()];
            // The implementation where RSF's clients say it, and among what differs from call to call.
            for aside in [false, true] {
                let mut sent = request(method, &note(""));
                let implementation = implementation.map(HeaderValue::from_static);
                match aside {
                    false => sent.implementation = implementation,
                    true => sent.own.extend(
                        implementation.map(|name| (HeaderName::from_static("rsf-implementation"), name)),
                    ),
                }
                let reply = soon(sent.over(&connection)).await.unwrap();
                let found = reply.result.as_ref().map(|_| read(&reply).text);
                match (found, wanted) {
                    (Ok(found), Some(wanted)) => assert_eq!(found, wanted, "{kind:?}, {method}"),
                    (Err(status), None) => {
                        assert_eq!(status.code(), Code::Unimplemented, "{kind:?}, {method}")
                    }
                    (found, wanted) => panic!("{kind:?}, {method}: {found:?} instead of {wanted:?}"),
                }
            }
        }
    }
}
