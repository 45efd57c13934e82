//! Calls whose callers do not wait for the reply.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rsf_core::message::{Request, Response};
use rsf_core::outcome::Reason;
use rsf_core::status::Status;
use rsf_core::wire::Target;
use tokio::sync::Semaphore;

use support::{Echo, Fleet, Kind, Note, SOON, counted, eventually, note};

fn kinds() -> Vec<Kind> {
    vec![Kind::Http2, Kind::InProcess, Kind::Engine]
}

/// Handlers wait until the semaphore lets them go; those asked to fail then do.
fn gated() -> (Arc<Echo>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let echo = Echo::with(move |_, request: Request<Note>| {
        let gate = held.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            match request.get_ref().text.as_str() {
                "fail" => Err(Status::not_found("nothing")),
                _ => Ok(Response::new(request.into_inner())),
            }
        }
    });
    (echo, gate)
}

#[test]
fn the_caller_does_not_wait_and_the_handler_runs() {
    for kind in kinds() {
        let fleet = Fleet::new(kind);
        fleet.runtime.clone().handle().block_on(async {
            let (echo, gate) = gated();
            let _node = fleet.provide(echo.clone());
            let peer = fleet.consumer();
            // The first one finds no connection yet: it is handed over once there is one.
            for text in ["one", "two", "fail"] {
                let sent = tokio::time::timeout(SOON, peer.put(note(text)).one_way().into_future());
                sent.await.expect("the handler does not answer").unwrap();
            }
            echo.seen().until("all run", |counts| counts.began == 3).await;
            assert_eq!(echo.counts().ended + echo.counts().dropped, 0, "{kind:?}");
            assert_eq!(counted(&peer.registry, "rsf_client_one_way_total", ""), 3);
            assert_eq!(counted(&peer.registry, "rsf_client_calls_underway", ""), 3);
            gate.add_permits(3);
            echo.seen().until("all end", |counts| counts.ended == 3).await;
            let over = || counted(&peer.registry, "rsf_client_calls_underway", "") == 0;
            eventually("the consumer has all replies", over).await;
            assert_eq!(counted(&peer.registry, "rsf_client_one_way_failed_total", ""), 1);
            let measured = counted(
                &peer.registry,
                "rpc_client_call_duration_seconds",
                "test.v1.Echo/Put",
            );
            assert_eq!(
                measured, 3,
                "{kind:?}: one-way calls are measured like all others"
            );
        });
    }
}

#[test]
fn from_a_thread_without_a_runtime() {
    let fleet = Fleet::new(Kind::Http2);
    let echo = Echo::plain();
    let _node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.put(note("")).one_way().wait().unwrap();
    futures_executor::block_on(peer.put(note("")).one_way().into_future()).unwrap();
    let seen = echo.seen().clone();
    let runtime = fleet.runtime.clone();
    runtime
        .handle()
        .block_on(async move { seen.until("both run", |counts| counts.ended == 2).await });
}

#[tokio::test(start_paused = true)]
async fn the_deadline_still_bounds_the_handler() {
    let fleet = Fleet::in_test();
    let echo = Echo::silent();
    let _node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    peer.put(note(""))
        .timeout(Duration::from_millis(200))
        .one_way()
        .await
        .unwrap();
    echo.seen().until("it runs", |counts| counts.began == 1).await;
    echo.seen()
        .until("it is ended", |counts| counts.dropped == 1)
        .await;
    let failed = || counted(&peer.registry, "rsf_client_one_way_failed_total", "") == 1;
    eventually("the failure is counted", failed).await;
}

#[test]
fn what_fails_before_it_is_handed_over_is_reported() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        let mut node = fleet.provide(Echo::plain());
        node.kill();
        let peer = fleet.consumer();
        let error = peer.put(note("")).one_way().await.unwrap_err();
        assert_eq!(error.reason(), Reason::Connect, "{error}");
        assert!(!error.may_have_run());
        fleet.list(Vec::clear);
        eventually("no instance is left", || peer.channel.view().instances.is_empty()).await;
        let error = peer.put(note("")).one_way().await.unwrap_err();
        assert_eq!(error.reason(), Reason::NoInstance, "{error}");
        assert_eq!(counted(&peer.registry, "rsf_client_one_way_total", ""), 0);
        assert_eq!(counted(&peer.registry, "rsf_client_one_way_failed_total", ""), 0);
        let bad = peer.put(note("")).request_id("").one_way().await.unwrap_err();
        assert_eq!(bad.reason(), Reason::Malformed);
    });
}

/// Policy's answer is for who waits for one: before the request is handed over, and never afterwards.
#[test]
fn policy_answers_them_only_while_somebody_waits() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        let counts = |peer: &support::Peer| {
            [
                "rsf_client_one_way_total",
                "rsf_client_one_way_failed_total",
                "rsf_client_degraded_total",
            ]
            .map(|name| counted(&peer.registry, name, ""))
        };
        let silent = Echo::silent();
        let mut dying = fleet.provide(silent.clone());
        let peer = fleet.consumer();
        peer.connected(1).await;
        let degrade = r#"{"call":{"degrade":{"when":"unavailable","reply_json":{"text":"later"}}}}"#;
        fleet.govern(&peer, 1, degrade).await;
        peer.put(note("")).one_way().await.unwrap();
        silent.seen().until("it runs", |counts| counts.began == 1).await;
        dying.kill();
        eventually("its loss is a failure", || counts(&peer)[1] == 1).await;
        assert_eq!(counts(&peer), [1, 1, 0], "an answer that nobody gets is none");
        // Now nobody is there to hand it over to: policy answers who waits for that, and nothing was sent.
        fleet.list(Vec::clear);
        eventually("no instance is left", || peer.channel.view().instances.is_empty()).await;
        peer.put(note("")).one_way().await.unwrap();
        assert_eq!(counts(&peer), [1, 1, 1]);
        let always = r#"{"call":{"degrade":{"when":"always","code":"ABORTED"}}}"#;
        fleet.govern(&peer, 2, always).await;
        let error = peer.put(note("")).one_way().await.unwrap_err();
        assert_eq!(error.reason(), Reason::Degraded, "{error}");
        assert_eq!(counts(&peer), [1, 1, 2]);
    });
}

#[test]
fn an_idempotent_method_is_not_run_twice() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        let silent = Echo::silent();
        let mut dying = fleet.provide(silent.clone());
        let peer = fleet.consumer();
        peer.connected(1).await;
        peer.get(note("")).one_way().await.unwrap();
        silent.seen().until("it runs", |counts| counts.began == 1).await;
        let healthy = Echo::plain();
        let _node = fleet.provide(healthy.clone());
        peer.connected(2).await;
        dying.kill();
        let lost = || counted(&peer.registry, "rsf_client_one_way_failed_total", "") == 1;
        eventually("the connection's loss is the outcome", lost).await;
        assert_eq!(
            healthy.counts().began,
            0,
            "an awaited call would have been attempted again"
        );
        assert_eq!(counted(&peer.registry, "rsf_client_retries_total", ""), 0);
    });
}

#[test]
fn it_is_attempted_again_where_it_was_refused_unseen() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        // It lets nobody in.
        let full = fleet.provide(Echo::plain());
        let peer = fleet.consumer();
        peer.connected(1).await;
        fleet.service_policy(1, r#"{"provider":{"concurrency":{"Put":0}}}"#);
        let refused = || counted(&peer.registry, "rsf_client_one_way_failed_total", "") > 0;
        let sending = async {
            // The provider learns of its policy a moment after it is set.
            while !refused() {
                peer.put(note("")).one_way().await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, sending)
            .await
            .expect("all attempts are refused");
        assert!(counted(&peer.registry, "rsf_client_retries_total", "") >= 1);
        assert!(counted(&full.registry, "rsf_call_errors_total", "provider_limit") >= 2);
    });
}

#[test]
fn a_provider_that_ends_gracefully_finishes_them() {
    for kind in kinds() {
        let fleet = Fleet::new(kind);
        fleet.runtime.clone().handle().block_on(async {
            let (echo, gate) = gated();
            let node = fleet.provide(echo.clone());
            let peer = fleet.consumer();
            peer.put(note("")).one_way().await.unwrap();
            echo.seen().until("it runs", |counts| counts.began == 1).await;
            node.drain();
            // Nobody else is let in any more: it ends.
            let target = Target {
                address: node.address().into(),
                keepalive: None,
            };
            while fleet.wire().connect(&target).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            gate.add_permits(1);
            echo.seen().until("it ends", |counts| counts.ended == 1).await;
            let over = || counted(&peer.registry, "rsf_client_calls_underway", "") == 0;
            eventually("the reply is read", over).await;
            assert_eq!(
                counted(&peer.registry, "rsf_client_one_way_failed_total", ""),
                0,
                "{kind:?}"
            );
        });
    }
}

#[test]
fn a_consumer_that_ends_gracefully_waits_for_them() {
    let fleet = Fleet::new(Kind::Http2);
    fleet.runtime.clone().handle().block_on(async {
        let (echo, gate) = gated();
        let _node = fleet.provide(echo.clone());
        let peer = fleet.consumer();
        peer.put(note("")).one_way().await.unwrap();
        echo.seen().until("it runs", |counts| counts.began == 1).await;
        assert!(!peer.consumer.finish_one_way(Duration::from_millis(10)).await);
        gate.add_permits(1);
        assert!(peer.consumer.finish_one_way(SOON).await);
        assert_eq!(echo.counts().ended, 1);
    });
}

#[tokio::test]
async fn dropped_before_it_is_handed_over_it_is_not_sent() {
    let fleet = Fleet::in_test();
    let echo = Echo::plain();
    let _node = fleet.provide(echo.clone());
    let peer = fleet.consumer();
    drop(peer.put(note("")).one_way());
    drop(peer.put(note("")).one_way().into_future());
    peer.get(note("")).await.unwrap();
    assert_eq!(echo.counts().began, 1);
}
