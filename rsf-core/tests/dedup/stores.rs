//! Stores that fail, forget, or know but a part.

use std::sync::Arc;

use rsf_core::message::Request;
use rsf_core::outcome::Reason;
use rsf_core::server::dedup::EntryState;
use rsf_core::status::Code;
use tokio::time::{Instant, sleep};

use crate::support::{Echo, counted};
use crate::support::{Fleet, Note, PUT, eventually, note};
use crate::world::{Deduplicated, Mode, World, began, busy, deduplicated, ms, numbering, old_enough};

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_or_mute_closes_the_method() {
    let echo = numbering();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""store_timeout_ms":200"#).await;
    for mode in [Mode::Down, Mode::Mute] {
        world.store.set(mode);
        let begun = Instant::now();
        let error = world.put("a", note("x")).await.unwrap_err();
        assert_eq!(
            (error.code(), error.reason(), error.may_have_run()),
            (Code::Unavailable, Reason::DedupUnavailable, false)
        );
        assert!(error.message().contains("store_down"), "{error}");
        assert_eq!(error.attempts().len(), 3, "attempted again: it never ran");
        let waited = if mode == Mode::Mute { 600 } else { 0 };
        assert!(begun.elapsed().as_millis() < waited + 20, "{:?}", begun.elapsed());
        assert!(begun.elapsed().as_millis() >= waited);
    }
    assert_eq!((echo.counts().began, world.counted("store_error_closed")), (0, 6));
    // Live: a store may take longer.
    world.change(2, r#""store_timeout_ms":1000"#).await;
    let begun = Instant::now();
    world.put("b", note("x")).await.unwrap_err();
    assert!(begun.elapsed() >= ms(3000));
    // What it did without saying so is undone, and the same call can run.
    world.store.set(Mode::Up);
    sleep(ms(5000)).await;
    let left = world.store.state("a");
    assert!(matches!(left, None | Some(EntryState::Released)), "{left:?}");
    assert_eq!(world.put("a", note("x")).await.unwrap().into_inner().number, 1);
}

/// A method that refuses because its store fails gives no answer of its own: policy may give one.
#[tokio::test(start_paused = true)]
async fn policy_answers_for_a_method_that_its_store_closes() {
    let echo = numbering();
    let world = World::of(&echo).await;
    let degrade = r#"{"call":{"degrade":{"when":"unavailable","reply_json":{"text":"later"}}}}"#;
    world.fleet.govern(&world.peer, 2, degrade).await;
    assert_eq!(world.put("a", note("x")).await.unwrap().into_inner().number, 1);
    world.store.set(Mode::Down);
    let reply = world.put("b", note("x")).await.unwrap();
    assert_eq!(reply.metadata().get("rsf-degraded"), Some("policy"));
    assert_eq!(reply.into_inner().text, "later");
    assert_eq!(echo.counts().began, 1, "the handler did not run");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_leaves_an_open_method_open() {
    let echo = numbering();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""store_down":"open""#).await;
    world.store.set(Mode::Down);
    for run in [1, 2] {
        let reply = world.put("a", note("x")).await.unwrap();
        assert_eq!(reply.into_inner().number, run, "declared: it may run twice");
    }
    assert_eq!(world.counted("store_error_open"), 2);
    // The store comes back: it gets the outcome of the first run, and the second is counted.
    world.store.set(Mode::Up);
    eventually("counted", || world.counted("duplicate") == 1).await;
    let reply = world.put("a", note("x")).await.unwrap();
    assert_eq!(reply.metadata().get("rsf-replayed"), Some("true"));
    assert_eq!(echo.counts().began, 2);
    // Live: closed again.
    world.change(2, r#""store_down":"closed""#).await;
    world.store.set(Mode::Down);
    let error = world.put("b", note("x")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DedupUnavailable);
}

#[tokio::test(start_paused = true)]
async fn each_method_can_have_its_own_rules() {
    let echo = numbering();
    let world = World::of(&echo).await;
    world.store.set(Mode::Down);
    world.put("a", note("x")).await.unwrap_err();
    let document =
        r#"{"provider":{"dedup":{"store_down":"closed"},"dedup_methods":{"Put":{"store_down":"open"}}}}"#;
    world.fleet.service_policy(2, document);
    sleep(ms(10)).await;
    world.put("a", note("x")).await.unwrap();
    assert_eq!(echo.counts().began, 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_its_memory_runs_no_attempt_that_may_have_run() {
    let (echo, gate) = Echo::gated();
    let mut world = World::of(&echo).await;
    old_enough().await;
    let call = world.put("a", note("x")).start();
    began(&echo, 1).await;
    world.store.forget();
    world.nodes[0].restart();
    let error = call.await.unwrap_err();
    assert_eq!((error.reason(), echo.counts().began), (Reason::OutcomeUnknown, 1));
    // Nor anybody who asks later and does not know that it may have run.
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!((error.reason(), echo.counts().began), (Reason::OutcomeUnknown, 1));
    // A first attempt is no repetition.
    gate.add_permits(10);
    world.put("b", note("x")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_run_that_a_forgetful_store_allowed_is_counted() {
    let (echo, gate) = Echo::gated();
    let world = World::of(&echo).await;
    let first = world.put("a", note("x")).start();
    began(&echo, 1).await;
    world.store.forget();
    // Another logical call with the same id: nobody knows that it is a repetition.
    let second = world.put("a", note("x")).start();
    began(&echo, 2).await;
    gate.add_permits(2);
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(world.counted("duplicate"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_memory_of_ones_own_does_not_vouch_for_other_instances() {
    // Without a store of the test's: each instance has its own.
    let fleet = Fleet::in_test();
    let (echo, gate) = Echo::gated();
    let once = || Arc::new(Deduplicated(echo.clone(), deduplicated()));
    let mut nodes = [fleet.provide(once()), fleet.provide(once())];
    let peer = fleet.consumer();
    let channel = peer.consumer.channel(&deduplicated(), "");
    peer.connected(2).await;
    let call = channel.call::<Note>(PUT, Request::new(note("x"))).start();
    began(&echo, 1).await;
    nodes[busy(&nodes)].kill();
    let error = call.await.unwrap_err();
    assert_eq!((error.reason(), echo.counts().began), (Reason::OutcomeUnknown, 1));
    // What never reached the first one runs on the second.
    gate.add_permits(11);
    for _ in 0..10 {
        channel.call::<Note>(PUT, Request::new(note("x"))).await.unwrap();
    }
    assert_eq!(echo.counts().ended, 11);
}

#[tokio::test(start_paused = true)]
async fn one_call_at_a_time_waits_for_a_mute_store() {
    let echo = numbering();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""store_timeout_ms":200"#).await;
    world.store.set(Mode::Mute);
    world.put("first", note("x")).await.unwrap_err();
    let begun = Instant::now();
    let calls: Vec<_> = (0..100)
        .map(|number| world.put(&number.to_string(), note("x")).start())
        .collect();
    let mut waited = 0;
    for call in calls {
        let error = call.await.unwrap_err();
        assert_eq!(error.reason(), Reason::DedupUnavailable);
        let attempts = error.attempts().iter();
        waited += attempts.filter(|attempt| attempt.elapsed >= ms(200)).count();
    }
    assert!(
        waited <= 1 + begun.elapsed().as_millis() as usize / 200,
        "{waited} waited"
    );
    // The first answer opens it for all.
    world.store.set(Mode::Up);
    let calls: Vec<_> = (100..200)
        .map(|number| world.put(&number.to_string(), note("x")).start())
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_a_refused_call_is_attempted_again() {
    let echo = numbering();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""store_timeout_ms":200"#).await;
    // The first is claimed, and the store does not say so: it is refused.
    world.store.set(Mode::Mute);
    let first = world.put("a", note("x")).timeout(ms(100)).start();
    sleep(ms(50)).await;
    world.store.set(Mode::Up);
    let second = world.put("a", note("x")).start();
    let reply = second.await.unwrap();
    assert_eq!(reply.into_inner().number, 1);
    assert_eq!(first.await.unwrap_err().reason(), Reason::Deadline);
    assert_eq!(world.counted("released"), 1);
    assert_eq!(echo.counts().began, 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_under_a_waiting_call_is_told_and_counted_as_a_panic() {
    let (echo, gate) = Echo::gated();
    let world = World::of(&echo).await;
    let first = world.put("a", note("x")).start();
    began(&echo, 1).await;
    world.store.set(Mode::Blind);
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::Internal, Reason::Panic),
        "{error}"
    );
    gate.add_permits(1);
    first.await.unwrap();
    let registry = &world.nodes[0].registry;
    assert_eq!(counted(registry, "rsf_call_errors_total", "panic"), 1);
    assert_eq!(counted(registry, "rsf_call_errors_total", "cancelled"), 0);
    assert_eq!(counted(registry, "rsf_server_calls_underway", ""), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_over_a_claim_is_told_and_counted_as_a_panic() {
    let echo = numbering();
    let world = World::of(&echo).await;
    world.store.set(Mode::Mad);
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::Internal, Reason::Panic),
        "{error}"
    );
    let registry = &world.nodes[0].registry;
    assert_eq!(counted(registry, "rsf_call_errors_total", "panic"), 1);
    assert_eq!(counted(registry, "rsf_server_calls_underway", ""), 0);
    assert_eq!(echo.counts().began, 0);
    // It had taken the claim, and is told that nothing has run as soon as it listens.
    world.store.set(Mode::Up);
    sleep(ms(500)).await;
    assert_eq!(world.store.state("a"), Some(EntryState::Released));
    world.put("a", note("x")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_panics_over_an_outcome_keeps_no_caller_from_it() {
    let (echo, gate) = Echo::gated();
    let world = World::of(&echo).await;
    let call = world.put("a", note("x")).start();
    began(&echo, 1).await;
    world.store.set(Mode::Mad);
    gate.add_permits(1);
    call.await.unwrap();
    // The store has done what it was asked for; whoever asks again learns that.
    world.store.set(Mode::Up);
    sleep(ms(5_000)).await;
    world.put("a", note("x")).await.unwrap();
    assert_eq!((echo.counts().began, world.counted("replayed")), (1, 1));
}
