//! The consumer's own limits: what they refuse, and policies that change meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rsf_core::outcome::Reason;
use rsf_core::status::Code;
use support::{Echo, Fleet, Node, Peer, counted, note};

struct Rig {
    fleet: Fleet,
    echo: Arc<Echo>,
    _node: Node,
    peer: Peer,
    revision: u64,
}

impl Rig {
    async fn with(echo: Arc<Echo>, limit: &str) -> Rig {
        let fleet = Fleet::in_test();
        let node = fleet.provide(echo.clone());
        let mut rig = Rig {
            peer: fleet.consumer(),
            fleet,
            echo,
            _node: node,
            revision: 0,
        };
        rig.limit(limit).await;
        rig.peer.connected(1).await;
        rig
    }

    /// Publishes the limits, and waits until they are in force.
    async fn limit(&mut self, limit: &str) {
        self.revision += 1;
        let document = format!(r#"{{"call":{{"timeout_ms":60000,"limit":{{{limit}}}}}}}"#);
        self.fleet.govern(&self.peer, self.revision, &document).await;
    }

    /// So many calls at once: how many were done and how many refused.
    async fn at_once(&self, calls: u32) -> (u32, u32) {
        let calls = (0..calls).map(|_| async { self.peer.get(note("")).await });
        let results = futures_util::future::join_all(calls).await;
        let (mut done, mut refused) = (0, 0);
        for result in results {
            match result {
                Ok(_) => done += 1,
                Err(error) => {
                    assert_eq!(error.reason(), Reason::ConsumerLimit, "{error}");
                    refused += 1;
                }
            }
        }
        (done, refused)
    }
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_are_limited_and_the_limit_changes_live() {
    let mut rig = Rig::with(Echo::slow(Duration::from_millis(100)), r#""concurrency":3"#).await;
    assert_eq!(rig.at_once(10).await, (3, 7));
    assert_eq!(rig.echo.counts().began, 3, "what is refused reaches no provider");
    assert_eq!(
        counted(&rig.peer.registry, "rsf_call_errors_total", "consumer_limit"),
        7
    );
    assert_eq!(counted(&rig.peer.registry, "rsf_client_retries_total", ""), 0);
    let held: Vec<_> = (0..3).map(|_| rig.peer.get(note("")).start()).collect();
    rig.echo
        .seen()
        .until("three are under way", |counts| counts.began == 6)
        .await;
    let error = rig.peer.get(note("")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.may_have_run(), error.attempts().len()),
        (Code::ResourceExhausted, false, 0)
    );
    assert_eq!(
        error.message(),
        "/test.v1.Echo/Get: 3 calls of this process are under way, as many as `limit.concurrency` of \
         service/test.v1.Echo@1 allows; not sent"
    );
    rig.peer.put(note("")).await.unwrap();
    // Dropped calls give their places back.
    drop(held);
    assert_eq!(rig.at_once(4).await, (3, 1));
    // The calls under way count under the new limit too.
    let _held: Vec<_> = (0..3).map(|_| rig.peer.get(note("")).start()).collect();
    rig.echo
        .seen()
        .until("three are under way", |counts| {
            counts.began - counts.ended - counts.dropped == 3
        })
        .await;
    rig.limit(r#""concurrency":5"#).await;
    assert_eq!(rig.at_once(10).await, (2, 8));
    rig.limit(r#""concurrency":0"#).await;
    assert_eq!(rig.at_once(2).await, (0, 2));
    rig.limit("").await;
    assert_eq!(rig.at_once(100).await, (100, 0));
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_limited_and_changes_live() {
    let mut rig = Rig::with(Echo::plain(), r#""rate_per_second":10"#).await;
    assert_eq!(rig.at_once(30).await, (10, 20));
    let error = rig.peer.get(note("")).await.unwrap_err();
    assert_eq!(
        error.message(),
        "/test.v1.Echo/Get: this process has begun as many calls as `limit.rate_per_second` of \
         service/test.v1.Echo@1 allows: 10 a second, 10 at once; not sent"
    );
    tokio::time::advance(Duration::from_millis(350)).await;
    assert_eq!(rig.at_once(10).await, (3, 7));
    // Another snapshot is no fresh start, nor is another rate.
    let _second = rig.fleet.provide(Echo::plain());
    rig.peer.connected(2).await;
    assert_eq!(rig.at_once(5).await.0, 0);
    rig.limit(r#""rate_per_second":1000"#).await;
    let (done, _) = rig.at_once(2000).await;
    assert!((990..=1000).contains(&done), "{done}");
    rig.limit("").await;
    assert_eq!(rig.at_once(2000).await, (2000, 0));
}

#[tokio::test(start_paused = true)]
async fn the_burst_changes_live() {
    let mut rig = Rig::with(Echo::plain(), r#""rate_per_second":10,"burst":2"#).await;
    assert_eq!(rig.at_once(10).await, (2, 8));
    rig.limit(r#""rate_per_second":10,"burst":50"#).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(rig.at_once(60).await, (50, 10));
}

/// What the concurrency refuses takes nothing of the rate.
#[tokio::test(start_paused = true)]
async fn a_refused_call_costs_no_rate() {
    let rig = Rig::with(
        Echo::slow(Duration::from_millis(10)),
        r#""concurrency":1,"rate_per_second":3,"burst":3"#,
    )
    .await;
    assert_eq!(rig.at_once(50).await, (1, 49));
    assert_eq!(rig.at_once(1).await, (1, 0));
    assert_eq!(rig.at_once(1).await, (1, 0));
    assert_eq!(rig.at_once(1).await, (0, 1));
}

/// Consumers can have their own.
#[tokio::test(start_paused = true)]
async fn limits_can_be_an_applications_own() {
    let rig = Rig::with(Echo::plain(), "").await;
    rig.fleet.service_policy(
        2,
        r#"{"consumers":{"tester":{"limit":{"rate_per_second":2}},"bank":{"limit":{"concurrency":0}}}}"#,
    );
    rig.peer
        .governed(|policy| policy.call.limit.rate_per_second == Some(2))
        .await;
    assert_eq!(rig.at_once(5).await, (2, 3));
}
