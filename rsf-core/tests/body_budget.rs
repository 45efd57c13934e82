//! The bytes of large requests that an instance holds at once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;

use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use support::{Echo, Fleet, Kind, Note, eventually};
use tokio::sync::Semaphore;

fn of_bytes(count: usize) -> Note {
    Note {
        data: vec![7; count].into(),
        ..Note::default()
    }
}

const KIB: usize = 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_are_held_within_a_budget() {
    are_held(Kind::Http2).await;
    are_held(Kind::Engine).await;
}

async fn are_held(kind: Kind) {
    let fleet = Fleet::new(kind);
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let echo = Echo::with(move |_, _| {
        let gate = opened.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(Response::new(Note::default()))
        }
    });
    let policy = |budget| {
        format!(
            r#"{{"call":{{"timeout_ms":20000,"retry":{{"attempts":1}}}},"provider":{{"body_budget_mib":{budget}}}}}"#
        )
    };
    fleet.policy("fleet", 1, &policy(1));
    let _node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    peer.governed(|policy| policy.call.retry.attempts == 1).await;
    let mut calls = vec![peer.put(of_bytes(600 * KIB)).start()];
    echo.seen()
        .until("the first is held", |counts| counts.began == 1)
        .await;
    let error = peer.put(of_bytes(600 * KIB)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::ProviderLimit, false)
    );
    assert!(error.message().contains("provider.body_budget_mib"), "{error}");
    // Small ones are free, and what fits comes in.
    calls.extend((0..20).map(|_| peer.put(of_bytes(60 * KIB)).start()));
    calls.push(peer.put(of_bytes(300 * KIB)).start());
    echo.seen()
        .until("they are held", |counts| counts.began == 22)
        .await;
    fleet.policy("fleet", 2, &policy(2));
    eventually("the policy is acknowledged", || {
        fleet.acknowledged("fleet") == Some((2, None))
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    calls.push(peer.put(of_bytes(600 * KIB)).start());
    echo.seen().until("it is held", |counts| counts.began == 23).await;
    gate.add_permits(100);
    for call in calls {
        call.await.unwrap();
    }
    // All of it came back: a message larger than the rest would be refused beside any other.
    for _ in 0..3 {
        peer.put(of_bytes(1900 * KIB)).await.unwrap();
    }
}
