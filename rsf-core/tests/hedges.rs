//! Hedges: when a second request goes out beside a slow one, and what becomes of the slower of the two.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rsf_core::error::AttemptLog;
use rsf_core::message::{Request, Response};
use support::{Echo, Fleet, Note, Peer, note, number, previous};
use tokio::time::Instant;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Answers the attempts after these times, with their number.
fn answering_after<const N: usize>(times: [u64; N]) -> Arc<Echo> {
    Echo::with(move |_, _| async move {
        let place = previous();
        tokio::time::sleep(ms(times[place as usize])).await;
        Ok(Response::new(number(place)))
    })
}

#[tokio::test(start_paused = true)]
async fn a_hedge_goes_out_beside_a_slow_attempt_and_the_loser_is_cancelled() {
    let fleet = Fleet::in_test();
    let echo = answering_after([500, 20, 0]);
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    for (revision, delay) in [(1, 100), (2, 50)] {
        let document = format!(r#"{{"call":{{"retry":{{"hedge_delay_ms":{delay}}}}}}}"#);
        fleet.govern(&peer, revision, &document).await;
        let begun = Instant::now();
        let log = AttemptLog::default();
        let reply = peer.get(note("")).log_attempts(&log).await.unwrap();
        assert_eq!(reply.into_inner().number, 1, "the hedge's answer");
        let took = begun.elapsed();
        assert!((ms(delay + 20)..ms(delay + 25)).contains(&took), "{took:?}");
        let dropped = revision as u32;
        echo.seen()
            .until("the loser was dropped", |counts| counts.dropped == dropped)
            .await;
        let attempts = log.take();
        let found: Vec<_> = attempts
            .iter()
            .map(|a| (a.hedge, a.succeeded, a.reason))
            .collect();
        assert_eq!(found, [(false, false, None), (true, true, None)]);
        assert_ne!(attempts[0].instance, attempts[1].instance);
        let hedged_at = attempts[1].begun;
        // Timers are coarse.
        assert!((ms(delay)..=ms(delay + 2)).contains(&hedged_at), "{hedged_at:?}");
    }
    let metrics = &peer.metrics;
    assert_eq!((metrics.hedges.get(), metrics.retries.get()), (2, 0));
    // One silence that was long enough to be a timeout ejects nobody.
    let well = |peer: &Peer| {
        let view = peer.channel.view();
        let mut instances = view.instances.iter();
        instances.all(|instance| instance.breaker == "closed" && instance.pending == 0)
    };
    assert!(well(&peer));
}

#[tokio::test(start_paused = true)]
async fn only_what_may_run_twice_is_hedged_and_only_with_credit() {
    let fleet = Fleet::in_test();
    let echo = Echo::slow(ms(100));
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    let document = |credit| {
        format!(
            r#"{{"call":{{"retry":{{"hedge_delay_ms":10,"budget_percent":0,"budget_per_second":{credit}}}}}}}"#
        )
    };
    fleet.govern(&peer, 1, &document(1)).await;
    peer.put(note("")).await.unwrap();
    assert_eq!(echo.counts().began, 1, "a Put runs once");
    for _ in 0..20 {
        peer.get(note("")).await.unwrap();
    }
    assert_eq!(peer.metrics.hedges.get(), 10, "ten seconds of one a second");
    assert_eq!(echo.counts().began, 1 + 20 + 10);
    assert!(peer.metrics.retry_budget_exhausted.get() >= 10);
}

#[tokio::test(start_paused = true)]
async fn hedges_wait_for_a_percentile_of_the_latest_answers() {
    let fleet = Fleet::in_test();
    // The message says how long the first attempt takes.
    let echo = Echo::with(|_, request: Request<Note>| async move {
        if previous() == 0 {
            tokio::time::sleep(ms(request.get_ref().number.into())).await;
        }
        Ok(Response::new(number(previous())))
    });
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    let took = async |milliseconds| {
        let begun = Instant::now();
        let reply = peer.get(number(milliseconds)).await.unwrap();
        (reply.into_inner().number, begun.elapsed().as_millis())
    };
    let percentile = |percentile| {
        format!(
            r#"{{"call":{{"retry":{{"hedge_percentile":{percentile},"hedge_delay_ms":200,"budget_per_second":1000}}}}}}"#
        )
    };
    fleet.govern(&peer, 1, &percentile("90")).await;
    // Too few are known: the fixed delay holds.
    let (winner, after) = took(900).await;
    assert_eq!(winner, 1);
    assert!((200..=202).contains(&after), "{after} ms");
    for place in 0..100 {
        took(if place % 20 == 0 { 100 } else { 40 }).await;
    }
    let (winner, after) = took(900).await;
    assert_eq!(winner, 1);
    assert!((40..=46).contains(&after), "{after} ms, and 90 % took 40 ms");
    fleet.govern(&peer, 2, &percentile("96")).await;
    // What the snapshot before knew still counts.
    let (winner, after) = took(900).await;
    assert_eq!(winner, 1);
    assert!((100..=115).contains(&after), "{after} ms, and 96 % took 100 ms");
    // Hedges do not push the percentile down: what they overtook took at least that long.
    for _ in 0..60 {
        took(900).await;
    }
    let (_, after) = took(900).await;
    assert!(after >= 100, "{after} ms");
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_attempt_beside_its_hedge_still_wins_and_still_times_out_once() {
    let fleet = Fleet::in_test();
    let echo = answering_after([400, 5000, 5000]);
    let _nodes = [fleet.provide(echo.clone()), fleet.provide(echo.clone())];
    let peer = fleet.consumer();
    peer.connected(2).await;
    let document = r#"{"call":{"attempt_timeout_ms":300,"retry":{"attempts":2,"hedge_delay_ms":50},
        "node_breaker":{"consecutive_failures":1}}}"#;
    fleet.govern(&peer, 1, document).await;
    let log = AttemptLog::default();
    let reply = peer.get(note("")).log_attempts(&log).await.unwrap();
    assert_eq!(reply.into_inner().number, 0);
    assert_eq!(
        echo.counts().began,
        2,
        "the timeout starts nothing beside the hedge"
    );
    let slow = &log.take()[0];
    assert!(slow.succeeded && !slow.hedge);
    let view = peer.channel.view();
    let broken = view
        .instances
        .iter()
        .filter(|instance| instance.breaker == "open");
    let broken: Vec<_> = broken.map(|instance| instance.instance.as_str()).collect();
    assert_eq!(broken, [&*slow.instance]);
}

/// How many of the calls that `peer` makes in five seconds go to `ill`.
async fn calls_to(ill: &Echo, peer: &Peer) -> (u32, u32) {
    let (before, begun) = (ill.counts().began, Instant::now());
    let mut calls = 0;
    while begun.elapsed() < ms(5_000) {
        peer.get(note("")).await.unwrap();
        calls += 1;
    }
    (ill.counts().began - before, calls)
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_hedges_cover_for_is_left_alone_all_the_same() {
    for ill in [Echo::silent(), Echo::slow(ms(250))] {
        fastrand::seed(31);
        let fleet = Fleet::in_test();
        let _ill = fleet.provide(ill.clone());
        let _well: Vec<_> = (0..9).map(|_| fleet.provide(Echo::slow(ms(5)))).collect();
        let peer = fleet.consumer();
        peer.connected(10).await;
        let document = r#"{"call":{"retry":{"hedge_delay_ms":20,"budget_per_second":1000}}}"#;
        fleet.govern(&peer, 1, document).await;
        calls_to(&ill, &peer).await;
        let (to_ill, calls) = calls_to(&ill, &peer).await;
        assert!(calls > 700 && to_ill * 100 < calls, "{to_ill} of {calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_beside_a_much_faster_answer_counts_as_a_timeout() {
    let fleet = Fleet::in_test();
    let silent = Echo::silent();
    let hung = fleet.provide(silent.clone());
    let _well = fleet.provide(Echo::slow(ms(5)));
    let peer = fleet.consumer();
    peer.connected(2).await;
    let document = r#"{"call":{"retry":{"hedge_delay_ms":150,"budget_per_second":1000},
        "node_breaker":{"consecutive_timeouts":2}}}"#;
    fleet.govern(&peer, 1, document).await;
    let breaker = || {
        let view = peer.channel.view();
        let mut instances = view.instances.iter();
        let hung = instances.find(|instance| instance.instance == *hung.instance.id);
        hung.unwrap().breaker
    };
    let mut calls = 0;
    while breaker() == "closed" {
        peer.get(note("")).await.unwrap();
        calls += 1;
        assert!(calls < 200, "never ejected");
    }
    assert_eq!(silent.counts().began, 2);
}
