//! What a store that fails has still to be told.

use std::sync::atomic::Ordering;

use rsf_core::outcome::Reason;
use rsf_core::server::dedup::EntryState;
use tokio::time::sleep;

use crate::support::{Echo, Fleet, eventually, note};
use crate::world::{Mode, World, ms, numbering};

#[tokio::test(start_paused = true)]
async fn a_mute_store_is_told_one_end_at_a_time_and_none_where_it_was_not_asked() {
    let echo = numbering();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""store_timeout_ms":200"#).await;
    world.store.set(Mode::Mute);
    world.put("first", note("x")).await.unwrap_err();
    let calls: Vec<_> = (0..300)
        .map(|number| world.put(&number.to_string(), note("x")).start())
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap_err().reason(), Reason::DedupUnavailable);
    }
    assert_eq!(world.store.settles.load(Ordering::Relaxed), 1);
    // The few that found out are told when it is back; nobody asks for the others, however long one waits.
    world.store.set(Mode::Up);
    sleep(ms(30_000)).await;
    let told = world.store.settles.load(Ordering::Relaxed);
    assert!((2..10).contains(&told), "{told}");
    assert!(matches!(
        world.store.state("first"),
        None | Some(EntryState::Released)
    ));
}

#[tokio::test(start_paused = true)]
async fn outcomes_beyond_its_bytes_are_dropped_and_counted() {
    let echo = Echo::slow(ms(1));
    let rules = r#""store_down":"open","max_reply_bytes":4194304"#;
    let world = World::governed(Fleet::in_test(), &[&echo], rules).await;
    world.store.set(Mode::Down);
    let large = "x".repeat(3_900_000);
    for number in 0..20 {
        world.put(&number.to_string(), note(&large)).await.unwrap();
    }
    // 64 MiB take 17 of them.
    assert_eq!(world.counted("unsettled"), 3);
    world.store.set(Mode::Up);
    eventually("all that fitted are stored", || {
        (0..17).all(|number| matches!(world.store.state(&number.to_string()), Some(EntryState::Done(_))))
    })
    .await;
    assert_eq!(world.store.state("19"), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_has_not_taken_for_a_minute_is_dropped_and_counted() {
    let echo = numbering();
    let world = World::governed(Fleet::in_test(), &[&echo], r#""store_down":"open""#).await;
    world.store.set(Mode::Down);
    world.put("a", note("x")).await.unwrap();
    sleep(ms(59_000)).await;
    assert_eq!(world.counted("unsettled"), 0);
    sleep(ms(10_000)).await;
    assert_eq!(world.counted("unsettled"), 1);
    // The next one finds a worker again.
    world.put("b", note("x")).await.unwrap();
    world.store.set(Mode::Up);
    eventually("stored", || {
        matches!(world.store.state("b"), Some(EntryState::Done(_)))
    })
    .await;
}
