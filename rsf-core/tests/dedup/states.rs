//! What a duplicate gets, by how far the first call is.

use bytes::Bytes;
use rsf_core::call::{Call, RawMessage};
use rsf_core::message::Request;
use rsf_core::outcome::Reason;
use rsf_core::server::dedup::EntryState;
use rsf_core::status::{Code, Status};
use tokio::time::{Instant, sleep};

use crate::support::{Echo, Fleet, GET, Note, PUT, note};
use crate::world::{World, began, ms, numbering, within};

#[tokio::test(start_paused = true)]
async fn a_repeated_call_gets_the_first_ones_reply_and_metadata() {
    let echo = numbering();
    let world = World::of(&echo).await;
    let mut metadata = rsf_core::metadata::Metadata::new();
    metadata.insert("tenant", "north").unwrap();
    let first = world.put("a", note("x")).metadata(metadata).await.unwrap();
    assert_eq!(first.metadata().get("rsf-replayed"), None);
    let second = world.put("a", note("x")).await.unwrap();
    assert_eq!(second.metadata().get("rsf-replayed"), Some("true"));
    assert_eq!(second.metadata().get("tenant"), Some("north"));
    assert_eq!((first.into_inner().number, second.into_inner().number), (1, 1));
    assert_eq!((world.counted("first"), world.counted("replayed")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn another_id_and_another_method_are_other_calls() {
    let echo = numbering();
    let world = World::of(&echo).await;
    for (id, run) in [("a", 1), ("b", 2), ("a", 1), ("b", 2)] {
        assert_eq!(world.put(id, note("x")).await.unwrap().into_inner().number, run);
    }
    // `Get` is not deduplicated.
    for run in [3, 4] {
        let get = world
            .channel
            .call::<Note>(GET, Request::new(note("x")))
            .request_id("a");
        assert_eq!(get.await.unwrap().into_inner().number, run);
    }
    assert_eq!(world.counted("first"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_status_and_a_panic_are_outcomes_too() {
    let echo = Echo::with(|_, request| async move {
        match request.get_ref().text.as_str() {
            "panic" => panic!("the handler's own panic"),
            _ => Err(Status::already_exists("has it").with_details(vec![7])),
        }
    });
    let world = World::of(&echo).await;
    for replayed in [None, Some("true")] {
        let error = world.put("status", note("")).await.unwrap_err();
        assert_eq!(
            (
                error.code(),
                error.reason(),
                error.message(),
                error.status().details()
            ),
            (Code::AlreadyExists, Reason::Handler, "has it", &[7][..])
        );
        assert_eq!(error.status().metadata().get("rsf-replayed"), replayed);
        let error = world.put("panic", note("panic")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Panic);
    }
    assert_eq!(echo.counts().began, 2);
}

#[tokio::test(start_paused = true)]
async fn a_replayed_unavailable_is_final_and_no_fault_of_the_instance_that_replays_it() {
    let echo = Echo::with(|_, _| async { Err(Status::unavailable("the bank is closed")) });
    let world = World::on(Fleet::in_test(), &[&echo, &echo]).await;
    for attempts in [2, 1, 1, 1, 1, 1, 1, 1] {
        let error = world.put("a", note("")).await.unwrap_err();
        assert_eq!(
            (error.code(), error.reason(), error.message()),
            (Code::Unavailable, Reason::Handler, "the bank is closed")
        );
        assert_eq!(error.attempts().len(), attempts);
    }
    assert_eq!((echo.counts().began, world.counted("replayed")), (1, 8));
}

#[tokio::test(start_paused = true)]
async fn the_same_id_with_another_payload_is_refused() {
    let (echo, gate) = Echo::gated();
    let world = World::of(&echo).await;
    let first = world.put("a", note("x")).start();
    began(&echo, 1).await;
    for when in ["in progress", "done"] {
        let error = world.put("a", note("y")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::PayloadMismatch, "{when}");
        assert_eq!(error.attempts().len(), 1, "it would end the same way");
        gate.add_permits(1);
        sleep(ms(10)).await;
    }
    first.await.unwrap();
    assert_eq!((echo.counts().began, world.counted("mismatch")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_waits_without_a_place_in_the_pool() {
    let (echo, gate) = Echo::gated();
    let world = World::of(&echo).await;
    world
        .fleet
        .policy("application/echo", 1, r#"{"provider":{"pool":2,"queue":10}}"#);
    sleep(ms(10)).await;
    let first = world.put("a", note("x")).start();
    began(&echo, 1).await;
    let duplicates = [0; 5].map(|_| world.put("a", note("x")).start());
    // They come one by one through the second place.
    sleep(ms(50)).await;
    let other = world.put("b", note("y")).start();
    began(&echo, 2).await;
    gate.add_permits(2);
    assert_eq!(first.await.unwrap().into_inner().text, "x");
    for duplicate in duplicates {
        let reply = duplicate.await.unwrap();
        assert_eq!(reply.metadata().get("rsf-replayed"), Some("true"));
    }
    assert_eq!(other.await.unwrap().into_inner().text, "y");
    assert_eq!((echo.counts().began, world.counted("waited")), (2, 5));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_that_may_not_wait_is_told_so() {
    let (echo, gate) = Echo::gated();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""wait_ms":500"#).await;
    let first = world.put("a", note("x")).start();
    began(&echo, 1).await;
    let begun = Instant::now();
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DuplicateInProgress);
    assert!(
        (ms(500)..ms(520)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    // Not at all.
    world.change(2, r#""wait_ms":0"#).await;
    let begun = Instant::now();
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DuplicateInProgress);
    assert!(begun.elapsed() < ms(5));
    // Only so many at once.
    world.change(3, r#""waiting":2"#).await;
    let waiting = [0; 2].map(|_| world.put("a", note("x")).start());
    sleep(ms(10)).await;
    let error = world.put("a", note("x")).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DuplicateInProgress);
    assert!(error.message().contains("provider.dedup.waiting"), "{error}");
    gate.add_permits(1);
    first.await.unwrap();
    for waits in waiting {
        waits.await.unwrap();
    }
    assert_eq!((echo.counts().began, world.counted("in_progress")), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_duplicate_keeps_to_its_deadline() {
    let (echo, _gate) = Echo::gated();
    let world = World::of(&echo).await;
    let _first = world.put("a", note("x")).start();
    began(&echo, 1).await;
    let begun = Instant::now();
    let error = world.put("a", note("x")).timeout(ms(300)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Deadline);
    within(begun, 300);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_before_the_handler_leaves_nothing_behind() {
    let (echo, gate) = Echo::gated();
    let world = World::of(&echo).await;
    world
        .fleet
        .policy("application/echo", 1, r#"{"provider":{"pool":1,"queue":1}}"#);
    sleep(ms(10)).await;
    let runs = world.put("a", note("x")).start();
    began(&echo, 1).await;
    let waits = world.put("queued", note("x")).timeout(ms(50)).start();
    sleep(ms(1)).await;
    let error = world.put("full", note("x")).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_run()), (Reason::QueueFull, false));
    assert_eq!(waits.await.unwrap_err().reason(), Reason::Deadline);
    gate.add_permits(1);
    runs.await.unwrap();
    // Bytes that are no message: the handler never sees them.
    let malformed = Bytes::from_static(b"\xff\xff");
    let metadata = rsf_core::metadata::Metadata::new();
    let call: Call<RawMessage> = world.channel.call_raw(PUT, malformed, metadata);
    let error = call.request_id("malformed").await.unwrap_err();
    assert_eq!(error.reason(), Reason::Malformed);
    for id in ["queued", "full", "malformed"] {
        let left = world.store.state(id);
        assert!(
            matches!(left, None | Some(EntryState::Released)),
            "{id}: {left:?}"
        );
    }
    assert_eq!(echo.counts().began, 1);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_kept_for_its_window() {
    let echo = numbering();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""window_ms":2000"#).await;
    let run = async |id: &str| world.put(id, note("x")).await.unwrap().into_inner().number;
    assert_eq!(run("a").await, 1);
    sleep(ms(1900)).await;
    assert_eq!(run("a").await, 1);
    sleep(ms(200)).await;
    assert_eq!(run("a").await, 2);
    world.change(2, r#""window_ms":60000"#).await;
    assert_eq!(run("b").await, 3);
    sleep(ms(50_000)).await;
    assert_eq!(run("b").await, 3);
}

#[tokio::test(start_paused = true)]
async fn of_a_large_reply_only_the_fact_is_kept() {
    let echo = Echo::plain();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""max_reply_bytes":100"#).await;
    let large = Note {
        data: vec![7; 200].into(),
        ..Note::default()
    };
    world.put("a", large.clone()).await.unwrap();
    let error = world.put("a", large.clone()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::OutcomeUnknown);
    assert!(error.message().contains("max_reply_bytes"), "{error}");
    world.change(2, r#""max_reply_bytes":1000"#).await;
    for _ in 0..2 {
        let reply = world.put("b", large.clone()).await.unwrap().into_inner();
        assert_eq!(reply.data.len(), 200);
    }
    assert_eq!(echo.counts().began, 2);
}
