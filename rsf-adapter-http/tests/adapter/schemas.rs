//! Methods that appear and change while the adapter runs, and instances whose schemas are no good.

use std::time::Duration;

use rsf_adapter_http::AdapterSettings;
use tokio::net::TcpListener;

use crate::support::{Answer, PROBE, World, compile};

const OLD: &str = r#"syntax = "proto3"; package test.v1;
    service Probe { rpc First(A) returns (A); } message A { string text = 1; }"#;
const NEW: &str = r#"syntax = "proto3"; package test.v1;
    service Probe { rpc First(A) returns (A); rpc Second(A) returns (A); } message A { string text = 1; int32 n = 2; }"#;

#[tokio::test]
async fn services_and_methods_appear_without_a_restart() {
    let mut world = World::empty(AdapterSettings::default()).await;
    let first = async {
        while world.post("/test.v1.Probe/First", "{}").await.status != 404 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), first)
        .await
        .unwrap();

    let old = world.provide(&compile(OLD)).await;
    world.list(&[(old, "old")]);
    world.until_callable("/test.v1.Probe/First").await;
    world
        .post("/test.v1.Probe/Second", "{}")
        .await
        .error(404, "unimplemented");
    world
        .post("/test.v1.Probe/First", r#"{"n":1}"#)
        .await
        .error(400, "invalid_argument");

    let new = world.provide(&compile(NEW)).await;
    world.list(&[(new, "new")]);
    world.until_callable("/test.v1.Probe/Second").await;
    assert_eq!(world.post("/test.v1.Probe/First", r#"{"n":1}"#).await.status, 200);
}

#[tokio::test]
async fn a_bad_schema_breaks_no_other_and_says_why() {
    let mut world = World::empty(AdapterSettings::default()).await;
    // No gRPC at all; and nobody at home.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bad = silent.local_addr().unwrap();
    drop(silent);
    world.list(&[(bad, "bad")]);
    let unreadable = async {
        loop {
            let answer = world.post("/test.v1.Probe/First", "{}").await;
            if String::from_utf8_lossy(&answer.body).contains(&bad.to_string()) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), unreadable)
        .await
        .unwrap();
    let message = answer.error(503, "unavailable");
    assert!(message.contains("schema cannot be read"), "{message}");
    let index = world.get("/").await.json();
    assert_eq!(index["services"][0]["service"], PROBE);
    assert!(
        index["services"][0]["unavailable"]
            .as_str()
            .unwrap()
            .contains("reflection at")
    );

    // Two bad ones outvote one good one, and still the good one is what counts.
    let good = world.provide(&compile(OLD)).await;
    world.list(&[(bad, "bad"), (bad, "bad"), (good, "good")]);
    let found = async {
        while world.get("/").await.json()["services"][0]["methods"][0]["method"] != "First" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found)
        .await
        .unwrap();

    // And a bad one that comes later leaves the good schema standing.
    world.list(&[(bad, "worse")]);
    world.get("/").await;
    tokio::time::timeout(Duration::from_secs(5), async {
        // The breaker may hide the instance; what matters is that the method is still known.
        for _ in 0..20 {
            let status = world.post("/test.v1.Probe/First", "{").await.status;
            assert_eq!(status, 400, "the last good schema still reads requests");
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_instance_without_the_service_is_told_apart() {
    let mut world = World::empty(AdapterSettings::default()).await;
    let other =
        r#"syntax = "proto3"; package other.v1; service Else { rpc Do(A) returns (A); } message A {}"#;
    let other = world.provide(&compile(other)).await;
    world.list(&[(other, "other")]);
    let told = async {
        loop {
            let answer = world.post("/test.v1.Probe/First", "{}").await;
            if String::from_utf8_lossy(&answer.body).contains("sent no valid schema") {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told)
        .await
        .unwrap()
        .error(503, "unavailable");
}

#[tokio::test]
async fn options_in_the_schema_hold_for_callers_without_rsf() {
    let settings = AdapterSettings {
        require_idempotency_key: true,
        ..AdapterSettings::default()
    };
    let mut world = World::empty(settings).await;
    let proto = r#"syntax = "proto3"; package test.v1; import "rsf/options/v1/options.proto"; message A {}
        service Probe {
            rpc Open(A) returns (A);
            rpc Hang(A) returns (A) { option (rsf.options.v1.method) = { timeout_ms: 50 }; }
            rpc Pay(A) returns (A) { option (rsf.options.v1.method) = { dedup: true }; }
        }"#;
    let address = world.provide(&compile(proto)).await;
    world.list(&[(address, "one")]);
    world.until_callable("/test.v1.Probe/Open").await;
    let message = world
        .post("/test.v1.Probe/Pay", "{}")
        .await
        .error(400, "invalid_argument");
    assert!(message.contains("Idempotency-Key"), "{message}");
    let pay = world
        .http
        .post(world.url("/test.v1.Probe/Pay"))
        .header("content-type", "application/json");
    assert_eq!(
        Answer::of(pay.header("idempotency-key", "1").body("{}"))
            .await
            .status,
        200
    );
    let begun = tokio::time::Instant::now();
    world
        .post("/test.v1.Probe/Hang", "{}")
        .await
        .error(504, "deadline_exceeded");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
