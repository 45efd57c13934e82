//! The lease source breaks: T04, T05, T06, a restarted pump, and the negative control of rule R.

use std::time::Duration;

use rsf_pump::PumpSettings;
use rsf_pump::shrink::Discontinuity;
use tokio::time::Instant;

use crate::twin::RENEWAL;
use crate::world::{World, secs, until};

const SECOND: Duration = Duration::from_secs(1);

/// kill -9 of the source, 20 s of nothing, back and empty. Answers the least size of the list of 50.
async fn source_comes_back_empty(settings: PumpSettings) -> usize {
    let (world, pump) = World::with(50, settings).await;
    let start = Instant::now();
    world.store.set_down(true);
    secs(20).await;
    assert!(!pump.handle.status().ready);
    world.store.restart_empty();
    world.store.set_down(false);
    let mut handle = pump.handle.clone();
    let back = Instant::now();
    handle.wait_for(|status| status.ready).await.expect("running");
    assert!(
        back.elapsed() <= 2 * RENEWAL,
        "ready again after {:?}",
        back.elapsed()
    );
    secs(60).await;
    assert_eq!(world.directory.len("s"), 50);
    world.directory.least("s", start)
}

#[tokio::test(start_paused = true)]
async fn t05_an_emptied_source_never_shrinks_a_list() {
    assert_eq!(source_comes_back_empty(PumpSettings::default()).await, 50);
}

#[tokio::test(start_paused = true)]
async fn negative_control_without_rule_r_the_emptied_source_empties_the_list() {
    let least = source_comes_back_empty(PumpSettings {
        shrink_enforced: false,
        ..PumpSettings::default()
    })
    .await;
    assert!(
        least < 50,
        "without its guard T05 must fail; the list kept {least} of 50"
    );
}

#[tokio::test(start_paused = true)]
async fn t05_an_emptied_source_is_not_ready_until_renewals_cover_the_lists() {
    let (world, pump) = World::with(50, PumpSettings::default()).await;
    world.store.restart_empty();
    until(6 * SECOND, "noticed", || !pump.handle.status().ready).await;
    let status = pump.handle.status();
    assert!(status.unconfirmed > 0 && status.not_ready.is_some());
    assert_eq!(status.sources[0].distrusted, Some(Discontinuity::SourceChanged));
}

#[tokio::test(start_paused = true)]
async fn t06_leases_that_vanish_before_their_deadlines_are_the_sources_fault() {
    let (world, pump) = World::with(50, PumpSettings::default()).await;
    let start = Instant::now();
    world.store.flush();
    until(6 * SECOND, "noticed", || {
        pump.handle.status().sources[0].distrusted == Some(Discontinuity::Vanished)
    })
    .await;
    secs(60).await;
    assert_eq!(world.directory.least("s", start), 50);
}

#[tokio::test(start_paused = true)]
async fn t04_a_source_that_stood_still_past_the_ttl_removes_nobody() {
    let (world, pump) = World::with(50, PumpSettings::default()).await;
    let start = Instant::now();
    world.store.set_stalled(true);
    secs(30).await;
    assert!(!pump.handle.status().sources[0].up);
    world.store.set_stalled(false);
    secs(60).await;
    assert_eq!(world.directory.least("s", start), 50);
    assert_eq!(pump.handle.status().counters.removed["expired"], 0);
    assert!(pump.handle.status().ready);
}

#[tokio::test(start_paused = true)]
async fn a_hold_keeps_its_floor_through_a_discontinuity() {
    let (mut world, pump) = World::with(100, PumpSettings::default()).await;
    let start = Instant::now();
    world.fleet.kill("s", 0..80);
    secs(80).await;
    assert_eq!(world.directory.len("s"), 50, "half of the list stays");
    world.store.set_down(true);
    secs(3).await;
    world.store.set_down(false);
    secs(120).await;
    let holds = pump.handle.status().holds.clone();
    assert_eq!((world.directory.least("s", start), holds[0].before), (50, 100));
    assert_eq!(
        pump.handle.status().counters.holds,
        1,
        "it is still the same hold"
    );
}

#[tokio::test(start_paused = true)]
async fn who_died_while_the_source_was_away_is_gone_one_ttl_after() {
    let (mut world, _pump) = World::with(50, PumpSettings::default()).await;
    world.store.set_down(true);
    world.fleet.kill("s", 0..5);
    secs(60).await;
    assert_eq!(
        world.directory.len("s"),
        50,
        "nobody leaves while nobody can be asked"
    );
    world.store.set_down(false);
    secs(13).await;
    assert_eq!(world.directory.len("s"), 50, "one TTL of grace");
    secs(10).await;
    assert_eq!(world.directory.len("s"), 45);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_pump_with_an_emptied_source_shrinks_nothing() {
    let (world, pump) = World::with(50, PumpSettings::default()).await;
    let start = Instant::now();
    pump.kill().await;
    world.store.set_down(true);
    secs(20).await;
    world.store.restart_empty();
    let pump = world.pump(PumpSettings::default());
    secs(5).await;
    assert!(!pump.handle.status().ready, "the source has not answered");
    world.store.set_down(false);
    until(2 * RENEWAL, "ready", || pump.handle.status().ready).await;
    secs(60).await;
    assert_eq!(world.directory.least("s", start), 50);
    assert_eq!(
        pump.handle.status().counters.lists_written,
        0,
        "nothing changed, nothing is written"
    );
}

#[tokio::test(start_paused = true)]
async fn who_stands_in_the_lists_alone_leaves_after_one_ttl_under_rule_r() {
    let (mut world, pump) = World::with(20, PumpSettings::default()).await;
    pump.kill().await;
    world.fleet.kill("s", 0..2);
    secs(30).await;
    let pump = world.pump(PumpSettings::default());
    secs(10).await;
    assert_eq!(
        (world.directory.len("s"), pump.handle.status().unconfirmed),
        (20, 2)
    );
    secs(15).await;
    assert_eq!(world.directory.len("s"), 18);
    assert!(pump.handle.status().ready);
}
