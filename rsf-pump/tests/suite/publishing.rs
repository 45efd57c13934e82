//! The directory is away, refuses, or is written with no need: T17 and coalescing.

use std::time::Duration;

use rsf_pump::PumpSettings;
use rsf_registry::LeaseStore;
use rsf_registry::record::LeaseState;
use tokio::time::Instant;

use crate::twin::{TTL, lease};
use crate::world::{World, secs, until};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn t17_while_the_directory_is_away_changes_gather_and_the_newest_wins() {
    let (world, pump) = World::with(5, PumpSettings::default()).await;
    let start = Instant::now();
    world.directory.set_away(true);
    for round in 2..52 {
        for service in ["s", "t"] {
            let mut lease = lease(service, 900);
            (lease.sequence, lease.weight) = (round, round as u32);
            world.store.put(&lease, TTL).await.expect("put");
        }
        secs(1).await;
    }
    let status = pump.handle.status();
    assert!(
        status.lists_waiting == 2 && status.lag_ms > 45_000 && status.counters.write_errors > 0,
        "{status:?}"
    );
    assert!(
        status
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("away"))
    );
    world.directory.set_away(false);
    until(6 * SECOND, "written", || pump.handle.status().lists_waiting == 0).await;
    for service in ["s", "t"] {
        assert_eq!(
            world.directory.writes(service, start).len(),
            1,
            "one write of {service}"
        );
        let list = world.directory.list(service).expect("list");
        assert_eq!(list.instances.last().expect("instance").weight, 51);
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_changes_is_one_write_a_window() {
    let (world, _pump) = World::with(5, PumpSettings::default()).await;
    let start = Instant::now();
    for round in 2..102 {
        let mut lease = lease("s", 900);
        (lease.sequence, lease.weight) = (round, round as u32);
        world.store.put(&lease, TTL).await.expect("put");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    secs(2).await;
    let writes = world.directory.writes("s", start).len();
    assert!((4..=7).contains(&writes), "{writes} writes in 5 s of changes");
    assert_eq!(
        world
            .directory
            .list("s")
            .expect("list")
            .instances
            .last()
            .expect("instance")
            .weight,
        101
    );
}

#[tokio::test(start_paused = true)]
async fn renewals_write_nothing() {
    let (world, _pump) = World::with(50, PumpSettings::default()).await;
    let start = Instant::now();
    secs(120).await;
    assert!(world.directory.writes("s", start).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_refused_stops_no_other() {
    let (mut world, pump) = World::with(5, PumpSettings::default()).await;
    world.directory.refuse("bad");
    for service in ["a", "bad", "c"] {
        world.fleet.start(service, 3);
    }
    until(2 * SECOND, "the good ones", || {
        world.directory.len("a") == 3 && world.directory.len("c") == 3
    })
    .await;
    assert_eq!(world.directory.len("bad"), 0);
    assert_eq!(pump.handle.status().lists_waiting, 1);
    world.directory.accept("bad");
    until(11 * SECOND, "tried again", || world.directory.len("bad") == 3).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_the_source_has_answered() {
    let mut world = World::new();
    world.store.set_down(true);
    world.fleet.start("s", 5);
    let pump = world.pump(PumpSettings::default());
    secs(30).await;
    let status = pump.handle.status();
    assert!(!status.ready && status.counters.source_errors > 0 && world.directory.lists_stored().is_empty());
    world.store.set_down(false);
    until(4 * SECOND, "written", || world.directory.len("s") == 5).await;
    pump.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_written_again_even_if_the_change_was_undone() {
    let (world, _pump) = World::with(5, PumpSettings::default()).await;
    let put = async |sequence, weight| {
        let mut lease = lease("s", 2);
        (lease.sequence, lease.weight) = (sequence, weight);
        world.store.put(&lease, TTL).await.expect("put");
    };
    let weight = || world.directory.list("s").expect("list").instances[2].weight;
    world.directory.set_ambiguous(true);
    put(2, 7).await;
    until(SECOND, "took effect", || weight() == 7).await;
    world.directory.set_ambiguous(false);
    put(3, 100).await;
    until(3 * SECOND, "undone", || weight() == 100).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_nobody_has_provided_for_long_is_deleted_and_comes_back_with_its_provider() {
    let settings = || PumpSettings {
        list_retention_ms: 60_000,
        ..PumpSettings::default()
    };
    let (mut world, pump) = World::with(5, settings()).await;
    world.fleet.start("left", 3);
    world.fleet.start("died", 3);
    until(5 * SECOND, "listed", || {
        world.directory.len("left") == 3 && world.directory.len("died") == 3
    })
    .await;
    world.fleet.say("left", 0..3, LeaseState::Deregistered).await;
    world.fleet.kill("died", 0..3);
    until(5 * SECOND, "emptied", || world.directory.len("left") == 0).await;
    secs(40).await;
    let left = world.directory.list("left").expect("its last word stays a while");
    assert_eq!(left.removed.len(), 3, "and says why everybody is gone");
    world.directory.set_away(true);
    secs(30).await;
    world.directory.set_away(false);
    until(30 * SECOND, "deleted", || world.directory.list("left").is_none()).await;
    assert!(world.directory.len("died") > 0, "rule R holds it");
    assert_eq!(world.directory.len("s"), 5);
    world.fleet.start("left", 2);
    until(3 * SECOND, "back", || world.directory.len("left") == 2).await;
    secs(120).await;
    assert_eq!(world.directory.len("left"), 2);
    pump.stop().await;
}
