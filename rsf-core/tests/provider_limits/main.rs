//! The provider's limits under load: groups, shares, a queue that knows deadlines and priorities, a learned pool, and
//! goodput at twice the capacity. All in virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[path = "../support/mod.rs"]
mod support;

mod overload;
mod priority;
mod queue;
mod shares;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::status::Code;
use support::{Echo, Fleet, GET, Node, Note, PUT, Peer, counted, eventually, note, number};
use tokio::sync::Semaphore;
use tokio::time::Instant;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const ONE_ATTEMPT: &str = r#""call":{"timeout_ms":60000,"retry":{"attempts":1},"node_breaker":{"enabled":false}},"provider":{"watchdog_ms":0}"#;

/// One provider with one consumer whose calls have a minute and one attempt.
async fn alone(fleet: &Fleet, echo: &Arc<Echo>) -> (Node, Peer) {
    fleet.policy("fleet", 1, &format!("{{{ONE_ATTEMPT}}}"));
    let node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.connected(1).await;
    peer.governed(|policy| policy.call.retry.attempts == 1).await;
    (node, peer)
}

/// Publishes what holds at the provider and waits until it does.
async fn provider(fleet: &Fleet, scope: &str, revision: u64, provider: &str) {
    fleet.policy(scope, revision, &format!(r#"{{"provider":{provider}}}"#));
    let acknowledged = || fleet.acknowledged(scope) == Some((revision, None));
    eventually("the policy is acknowledged", acknowledged).await;
    tokio::time::sleep(ms(5)).await;
}

const SERVICE: &str = "service/test.v1.Echo";
const INSTANCE: &str = "application/echo";

async fn began(echo: &Echo, count: u32) {
    let what = format!("{count} have begun");
    echo.seen().until(&what, |counts| counts.began == count).await;
    // And no further one.
    tokio::time::sleep(ms(2)).await;
    assert_eq!(echo.counts().began, count);
}
