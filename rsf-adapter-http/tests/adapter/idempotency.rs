//! `Idempotency-Key`: a method that declares `dedup` runs once for it, for callers without RSF too.

use rsf_adapter_http::AdapterSettings;
use rsf_core::control::Scope;

use crate::support::{Answer, PROBE, World, compile};

const PROTO: &str = r#"syntax = "proto3"; package test.v1; import "rsf/options/v1/options.proto";
    message A { string text = 1; uint32 code = 2; string message = 3; repeated A reasons = 4; }
    service Probe {
        rpc Open(A) returns (A);
        rpc EchoOnce(A) returns (A) { option (rsf.options.v1.method) = { dedup: true }; }
        rpc FailOnce(A) returns (A) { option (rsf.options.v1.method) = { dedup: true }; }
        rpc HangOnce(A) returns (A) { option (rsf.options.v1.method) = { dedup: true }; }
    }"#;

async fn world() -> World {
    let settings = AdapterSettings {
        require_idempotency_key: true,
        ..AdapterSettings::default()
    };
    let mut world = World::empty(settings).await;
    let address = world.provide(&compile(PROTO)).await;
    world.list(&[(address, "one")]);
    world.until_callable("/test.v1.Probe/Open").await;
    world
}

async fn post(world: &World, method: &str, key: &'static str, body: &'static str) -> Answer {
    let request = world
        .http
        .post(world.url(&format!("/test.v1.Probe/{method}")))
        .header("content-type", "application/json")
        .header("idempotency-key", key);
    Answer::of(request.body(body)).await
}

#[tokio::test]
async fn a_repetition_gets_the_first_reply_and_is_told_so() {
    let world = world().await;
    for (key, replayed) in [("\"a\"", ""), ("a", "true"), ("b", "")] {
        let answer = post(&world, "EchoOnce", key, r#"{"text":"x"}"#).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["text"], "x");
        assert_eq!(answer.header("idempotent-replayed"), replayed, "{key}");
    }
    for replayed in ["", "true"] {
        let answer = post(&world, "FailOnce", "a", r#"{"code":5,"message":"nobody"}"#).await;
        assert_eq!(answer.error(404, "not_found"), "nobody");
        assert_eq!(answer.header("idempotent-replayed"), replayed);
    }
}

#[tokio::test]
async fn a_missing_key_another_payload_and_a_running_call_have_the_drafts_statuses() {
    let world = world().await;
    let message = world
        .post("/test.v1.Probe/EchoOnce", "{}")
        .await
        .error(400, "invalid_argument");
    assert!(message.contains("Idempotency-Key"), "{message}");

    post(&world, "EchoOnce", "a", r#"{"text":"x"}"#).await;
    let answer = post(&world, "EchoOnce", "a", r#"{"text":"y"}"#).await;
    answer.error(422, "failed_precondition");
    assert_eq!(answer.header("rsf-reason"), "payload_mismatch");

    let scope = Scope::Service(PROBE.to_owned());
    let at_once = r#"{"provider":{"dedup":{"wait_ms":0}}}"#;
    world.control.set_policy(&scope, 1, at_once);
    let began = world.hanging.notified();
    let hangs = post(&world, "HangOnce", "a", "{}");
    let repeated = async {
        began.await;
        // Until the provider has the policy, a repetition waits; none of them runs.
        loop {
            let request = world
                .http
                .post(world.url("/test.v1.Probe/HangOnce"))
                .header("content-type", "application/json")
                .header("connect-timeout-ms", "200")
                .header("idempotency-key", "a");
            let answer = Answer::of(request.body("{}")).await;
            if answer.status != 504 {
                return answer;
            }
        }
    };
    tokio::select! {
        ended = hangs => panic!("{ended:?}"),
        answer = repeated => {
            answer.error(409, "aborted");
            assert_eq!(answer.header("rsf-reason"), "duplicate_in_progress");
        }
    }
}
