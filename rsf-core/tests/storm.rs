//! No retry storm: while every provider fails, the consumer's further attempts stay within their budget, and when the
//! providers are well again, so are the calls ("Metastable failures in the wild", OSDI 2022).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rsf_core::message::{Request, Response};
use rsf_core::status::Status;
use support::{Echo, Fleet, Node, Note, Peer, note};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

/// Calls a second.
const RATE: u64 = 100;
const OUTAGE: u64 = 30;
const PROVIDERS: usize = 5;

/// How all providers fail.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    /// They answer that they are unavailable.
    Answers,
    /// They take so long that attempts time out.
    Hangs,
    /// They are dead.
    Dies,
}

struct Storm {
    offered: u64,
    attempts: u64,
    good_share: f64,
}

impl Storm {
    /// What the consumer may attempt in all.
    fn most(&self) -> f64 {
        self.offered as f64 * 1.2 + (10 * OUTAGE) as f64
    }
}

/// Calls at a steady rate for so many seconds; returns the calls and those that succeeded.
async fn calls(peer: &Peer, seconds: u64) -> (u64, u64) {
    let mut ticks = interval(Duration::from_millis(1000 / RATE));
    let mut calls = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    while ticks.tick().await < end {
        calls.spawn(peer.get(note("")).into_future());
    }
    let offered = calls.len() as u64;
    let good = calls
        .join_all()
        .await
        .iter()
        .filter(|result| result.is_ok())
        .count();
    (offered, good as u64)
}

fn attempts(peer: &Peer, offered: u64) -> u64 {
    offered + peer.metrics.retries.get() + peer.metrics.hedges.get()
}

async fn storm(failure: Failure, retry: &str) -> Storm {
    fastrand::seed(28);
    let fleet = Fleet::in_test();
    fleet.service_policy(
        1,
        &format!(r#"{{"call":{{"timeout_ms":1000,"attempt_timeout_ms":200,"retry":{{{retry}}}}}}}"#),
    );
    let broken = Arc::new(AtomicBool::new(false));
    let echo = Echo::with({
        let broken = broken.clone();
        move |_, request: Request<Note>| {
            let broken = broken.load(Ordering::Relaxed);
            async move {
                match (broken, failure) {
                    (true, Failure::Hangs) => std::future::pending().await,
                    (true, _) => Err(Status::unavailable("gone fishing")),
                    (false, _) => Ok(Response::new(request.into_inner())),
                }
            }
        }
    });
    let mut nodes: Vec<Node> = (0..PROVIDERS).map(|_| fleet.provide(echo.clone())).collect();
    let peer = fleet.consumer();
    peer.connected(PROVIDERS).await;
    let (offered, good) = calls(&peer, 12).await;
    assert_eq!(offered, good);
    let before = attempts(&peer, offered);
    broken.store(true, Ordering::Relaxed);
    if failure == Failure::Dies {
        nodes.iter_mut().for_each(Node::kill);
    }
    let (during, _) = calls(&peer, OUTAGE).await;
    broken.store(false, Ordering::Relaxed);
    if failure == Failure::Dies {
        nodes.iter_mut().for_each(Node::restart);
    }
    let attempts = attempts(&peer, offered + during) - before;
    sleep(Duration::from_secs(10)).await;
    let (after, good) = calls(&peer, 5).await;
    Storm {
        offered: during,
        attempts,
        good_share: good as f64 / after as f64,
    }
}

async fn holds(failure: Failure, retry: &str) {
    let storm = storm(failure, retry).await;
    let (found, most, good) = (storm.attempts as f64, storm.most(), storm.good_share);
    assert!(found <= most, "{found} attempts, at most {most}");
    let used = found >= storm.offered as f64 * 1.15;
    assert!(used, "{found} attempts do not use the budget");
    assert!(good >= 0.99, "{good} are good 10 s after");
}

#[tokio::test(start_paused = true)]
async fn attempts_stay_within_the_budget_while_all_providers_fail() {
    holds(Failure::Answers, "").await;
    holds(Failure::Answers, r#""attempts":5,"backoff_ms":0"#).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_stay_within_the_budget_while_all_providers_hang() {
    holds(Failure::Hangs, "").await;
    holds(Failure::Hangs, r#""hedge_delay_ms":50"#).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_stay_within_the_budget_while_all_providers_are_dead() {
    holds(Failure::Dies, "").await;
}

/// The negative control: with a budget that bounds nothing, the bar is missed.
#[tokio::test(start_paused = true)]
async fn without_a_budget_attempts_multiply() {
    for failure in [Failure::Answers, Failure::Hangs] {
        let storm = storm(failure, r#""budget_percent":100,"budget_per_second":10000"#).await;
        let found = storm.attempts as f64;
        assert!(found > storm.most() * 1.5, "{failure:?}: {found}");
    }
}
