//! The first call: its handler outlives its caller, its attempts and its deadline, but not its process.

use rsf_core::message::Response;
use rsf_core::outcome::Reason;
use rsf_core::server::dedup::{Claim, DedupStore, EntryState, Held};
use rsf_core::status::Code;
use rsf_core::wire::Frame;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::support::{Echo, Fleet, Kind, Note, note};
use crate::world::{Mode, World, began, busy, key, ms, numbering, old_enough, within};

#[tokio::test(start_paused = true)]
async fn a_handler_outlives_its_caller_and_its_outcome_is_replayed() {
    let (echo, gate) = Echo::gated();
    let world = World::of(&echo).await;
    let first = world.put("a", note("x")).start();
    began(&echo, 1).await;
    drop(first);
    sleep(ms(100)).await;
    assert_eq!(echo.counts().dropped, 0, "cancelled");
    gate.add_permits(1);
    let reply = world.put("a", note("x")).await.unwrap();
    assert_eq!(reply.metadata().get("rsf-replayed"), Some("true"));
    assert_eq!((echo.counts().began, echo.counts().ended), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_cancelled_some_time_after_its_deadline_and_then_nobody_knows() {
    let echo = Echo::silent();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""finish_ms":400"#).await;
    let begun = Instant::now();
    let late = world.put("a", note("x")).timeout(ms(100)).await.unwrap_err();
    assert_eq!(late.reason(), Reason::Deadline);
    echo.seen()
        .until("it is cancelled", |counts| counts.dropped == 1)
        .await;
    within(begun, 500);
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::OutcomeUnknown);
    assert_eq!((echo.counts().began, world.counted("unknown")), (1, 1));
    // Live: the next one gets no time at all.
    world.change(2, r#""finish_ms":0"#).await;
    let begun = Instant::now();
    let late = world.put("b", note("x")).timeout(ms(100)).await.unwrap_err();
    assert_eq!(late.reason(), Reason::Deadline);
    echo.seen()
        .until("it is cancelled", |counts| counts.dropped == 2)
        .await;
    within(begun, 100);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ends_shortly_after_its_deadline_leaves_its_outcome() {
    let echo = Echo::slow(ms(300));
    let world = World::of(&echo).await;
    let late = world.put("a", note("x")).timeout(ms(100)).await.unwrap_err();
    assert_eq!(late.reason(), Reason::Deadline);
    let reply = world.put("a", note("x")).await.unwrap();
    assert_eq!(reply.metadata().get("rsf-replayed"), Some("true"));
    assert_eq!(echo.counts().began, 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_owner_is_gone_ends_as_unknown() {
    let echo = numbering();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""claim_ms":2000"#).await;
    // The owner is another instance, which dies without a word.
    let claim = Claim {
        owner: "echo/9#1".into(),
        payload: Claim::hash(&Frame::encode(&note("x")).unwrap().message()),
        lease: ms(2000),
        window: ms(600_000),
    };
    world.store.claim(&key("a"), &claim).await.unwrap();
    let begun = Instant::now();
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!(
        (error.code(), error.reason()),
        (Code::Aborted, Reason::OutcomeUnknown)
    );
    assert!(
        (ms(2000)..ms(2120)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::OutcomeUnknown, "and at once");
    assert_eq!(echo.counts().began, 0, "no silent second run");
    // The owner was alive after all, and tells how it ended.
    let told = world.store.settle(&key("a"), &claim, None).await.unwrap();
    assert_eq!(told, Held::Ours);
    assert_eq!(world.put("a", note("x")).await.unwrap().into_inner().number, 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_renewed_while_its_handler_runs() {
    let (echo, gate) = Echo::gated();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""claim_ms":300"#).await;
    let first = world.put("a", note("x")).start();
    began(&echo, 1).await;
    for _ in 0..30 {
        sleep(ms(100)).await;
        assert_eq!(world.store.state("a"), Some(EntryState::InProgress));
    }
    // Live: claimed for longer, it stands longer once its owner cannot renew it.
    world.store.set(Mode::Down);
    sleep(ms(301)).await;
    assert_eq!(world.store.state("a"), Some(EntryState::Abandoned));
    world.store.set(Mode::Up);
    world.change(2, r#""claim_ms":3000"#).await;
    let second = world.put("b", note("x")).start();
    began(&echo, 2).await;
    world.store.set(Mode::Down);
    sleep(ms(2000)).await;
    assert_eq!(world.store.state("b"), Some(EntryState::InProgress));
    world.store.set(Mode::Up);
    gate.add_permits(2);
    first.await.unwrap();
    second.await.unwrap();
    assert!(matches!(world.store.state("a"), Some(EntryState::Done(_))));
}

/// Breaks the connection while the handler of a `Put` runs, lets it finish, and gives what the caller got, and how many
/// handlers began.
async fn broken_connection(mut world: World, echo: &Echo, gate: &Semaphore) -> (Option<Note>, u32) {
    old_enough().await;
    let call = world.put("a", note("x")).start();
    began(echo, 1).await;
    world.nodes[0].restart();
    sleep(ms(50)).await;
    gate.add_permits(10);
    let reply = call.await.ok().map(Response::into_inner);
    (reply, echo.counts().began)
}

#[tokio::test(start_paused = true)]
async fn a_put_whose_connection_broke_is_attempted_again_and_runs_once() {
    let (echo, gate) = Echo::gated();
    let world = World::of(&echo).await;
    let (reply, began) = broken_connection(world, &echo, &gate).await;
    assert_eq!((reply, began), (Some(note("x")), 1));
}

#[tokio::test(start_paused = true)]
async fn without_dedup_the_same_runs_twice() {
    // The negative control: the provider does not deduplicate what its callers repeat.
    let (echo, gate) = Echo::gated();
    let mut world = World::on(Fleet::in_test(), &[]).await;
    let node = world.fleet.provide(echo.clone());
    world.nodes.push(node);
    world.peer.connected(1).await;
    let (reply, began) = broken_connection(world, &echo, &gate).await;
    assert_eq!((reply, began), (Some(note("x")), 2));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_lost_is_not_run_and_not_cancelled() {
    let slow = Echo::slow(ms(1000));
    let world = World::on(Fleet::in_test(), &[&slow, &slow]).await;
    old_enough().await;
    let hedging = r#"{"call":{"timeout_ms":60000,"attempt_timeout_ms":100,"retry":{"budget_percent":100}}}"#;
    world.fleet.service_policy(2, hedging);
    sleep(ms(10)).await;
    let begun = Instant::now();
    world.put("a", note("x")).await.unwrap();
    // The first attempt answers, or a later one that waited for it and came a moment later.
    assert!(
        (ms(1000)..ms(1110)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    sleep(ms(2000)).await;
    let counts = slow.counts();
    assert_eq!((counts.began, counts.ended, counts.dropped), (1, 1, 0));
}

#[tokio::test]
async fn a_process_that_dies_in_mid_call_leaves_an_unknown_outcome() {
    let echo = Echo::silent();
    let fleet = Fleet::new(Kind::Http2);
    let mut world = World::governed(fleet, &[&echo, &echo], r#""claim_ms":300"#).await;
    let call = world.put("a", note("x")).start();
    began(&echo, 1).await;
    // Its runtime ends, and with it the handler, whoever would have waited for it.
    let dying = busy(&world.nodes);
    world.nodes[dying].kill();
    let error = call.await.unwrap_err();
    assert_eq!(error.reason(), Reason::OutcomeUnknown, "{error}");
    assert_eq!((echo.counts().dropped, echo.counts().began), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_process_waits_for_handlers_that_nobody_waits_for() {
    let echo = Echo::slow(ms(700));
    let world = World::of(&echo).await;
    let call = world.put("a", note("x")).start();
    began(&echo, 1).await;
    drop(call);
    let begun = Instant::now();
    world.nodes[0].provider.settled().await;
    assert!(begun.elapsed() >= ms(600), "{:?}", begun.elapsed());
    assert!(matches!(world.store.state("a"), Some(EntryState::Done(_))));
}
