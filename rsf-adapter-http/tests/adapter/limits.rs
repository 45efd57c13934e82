//! Callers that send too much, too slowly, or too often.

use std::time::Duration;

use rsf_adapter_http::AdapterSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, World};

async fn raw(world: &World, sent: &[u8]) -> String {
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer)).await;
    read.expect("the adapter neither answered nor closed").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_readably() {
    let settings = AdapterSettings {
        max_body_bytes: 10_000,
        ..AdapterSettings::default()
    };
    let world = World::start(settings).await;
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(3_000_000));
    let answer = world.post("/test.v1.Probe/Echo", &large).await;
    let message = answer.error(429, "resource_exhausted");
    assert!(message.contains("10000 bytes"), "{message}");
    assert_eq!(answer.header("rsf-reason"), "too_large");
    // In chunks, without a length that says so before.
    let chunks = format!(
        "POST /test.v1.Probe/Echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
        content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n8000\r\n{}\r\n0\r\n\r\n",
        "x".repeat(0x8000)
    );
    assert!(raw(&world, chunks.as_bytes()).await.starts_with("HTTP/1.1 429 "));
    // A refusal before the body is read, under a caller that is still writing.
    world
        .post("/test.v1.Nobody/Echo", &large)
        .await
        .error(404, "unimplemented");
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let world = World::start(AdapterSettings::default()).await;
    let sent = format!("POST / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(40_000));
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let _ = socket.write_all(sent.as_bytes()).await;
    let mut first = [0; 12];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 431");
}

#[tokio::test]
async fn slow_callers_are_let_go() {
    let settings = AdapterSettings {
        header_read_timeout_ms: 200,
        body_read_timeout_ms: 300,
        ..AdapterSettings::default()
    };
    let world = World::start(settings).await;
    // Nothing; what could still be HTTP/2; half a head.
    for silent in [&b""[..], b"P", b"PRI * HTTP", b"POST / HTTP/1.1\r\nhost: a"] {
        let answer = raw(&world, silent).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
    let body = b"POST /test.v1.Probe/Echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
        content-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    let answer = raw(&world, body).await;
    assert!(
        answer.starts_with("HTTP/1.1 504") && answer.contains("did not come within 300 ms"),
        "{answer}"
    );
    assert_eq!(world.post("/test.v1.Probe/Echo", "{}").await.status, 200);
}

#[tokio::test]
async fn what_is_no_http_harms_nobody() {
    let world = World::start(AdapterSettings::default()).await;
    for sent in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n"[..],
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        raw(&world, sent).await;
    }
    assert_eq!(world.post("/test.v1.Probe/Echo", "{}").await.status, 200);
}

#[tokio::test]
async fn one_connection_or_request_too_many_is_told_so() {
    let settings = AdapterSettings {
        max_connections: 1,
        ..AdapterSettings::default()
    };
    let world = World::empty(settings).await;
    let kept = world.http.get(world.url("/")).send().await.unwrap();
    let refused = raw(&world, b"").await;
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 503 ") && head.contains(&format!("content-length: {}", body.len())),
        "{refused}"
    );
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(body).unwrap()["code"],
        "unavailable"
    );
    drop(kept);

    let settings = AdapterSettings {
        max_requests: 1,
        ..AdapterSettings::default()
    };
    let world = World::start(settings).await;
    let hang = world
        .http
        .post(world.url("/test.v1.Probe/Hang"))
        .header("content-type", "application/json")
        .body("{}");
    let hanging = tokio::spawn(hang.send());
    world.hanging.notified().await;
    let answer = world.post("/test.v1.Probe/Echo", "{}").await;
    assert!(answer.error(503, "unavailable").contains("max_requests"));
    // A caller that leaves makes room: its call is cancelled.
    hanging.abort();
    world.until_callable("/test.v1.Probe/Echo").await;
}

#[tokio::test]
async fn the_end_waits_for_running_requests_within_bounds() {
    let settings = AdapterSettings {
        max_timeout_ms: Some(400),
        ..AdapterSettings::default()
    };
    let world = World::start(settings).await;
    let hang = world
        .http
        .post(world.url("/test.v1.Probe/Hang"))
        .header("content-type", "application/json")
        .body("{}");
    let hanging = tokio::spawn(Answer::of(hang));
    world.hanging.notified().await;
    world.shutdown.cancel();
    let answer = hanging.await.unwrap();
    answer.error(504, "deadline_exceeded");
    tokio::time::timeout(Duration::from_secs(10), world.served)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(
        TcpStream::connect(world.address).await.is_err(),
        "the port is free"
    );
}
