//! A namespace on several lease sources: one fails, instances move, and each source is believed for itself.

use std::time::Duration;

use rsf_pump::PumpSettings;
use rsf_pump::shrink::Discontinuity;
use rsf_registry::LeaseStore;
use rsf_registry::record::{LeaseState, RemovalCause};
use tokio::time::Instant;

use crate::twin::{TTL, lease, name};
use crate::world::{World, secs, until};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn t40_while_one_of_three_is_down_instances_come_and_go_on_the_next() {
    let (mut world, pump) = World::of_with(3, 30, PumpSettings::default()).await;
    let start = Instant::now();
    world.stores[0].set_down(true);
    secs(60).await;
    assert_eq!(world.directory.least("s", start), 30, "who moved stays listed");
    let status = pump.handle.status();
    assert!(status.ready, "{:?}", status.not_ready);
    assert_eq!(
        status.sources.iter().map(|source| source.up).collect::<Vec<_>>(),
        [false, true, true]
    );
    assert!(
        world.stores[1].has(&name("s", 0)),
        "its home is down, so it is on the next"
    );

    for round in 0..10 {
        let (newcomer, leaver) = (30 + 3 * round, 3 * round);
        world.fleet.start_one("s", newcomer, Duration::ZERO);
        until(2 * SECOND, "a newcomer of the silent home", || {
            world.directory.len("s") == 31
        })
        .await;
        world.fleet.kill("s", leaver..leaver + 1);
        until(TTL + 2 * SECOND, "one that moved and died", || {
            world.directory.len("s") == 30
        })
        .await;
        secs(340).await;
    }
    world.stores[0].set_down(false);
    secs(60).await;
    assert_eq!(world.directory.len("s"), 30);
    let status = pump.handle.status();
    assert!(status.sources[0].up && status.ready, "{status:?}");
    assert_eq!(status.counters.removed["expired"], 10, "only who died");
}

#[tokio::test(start_paused = true)]
async fn who_was_last_on_a_silent_source_stays_until_it_answers() {
    let (mut world, pump) = World::of_with(2, 20, PumpSettings::default()).await;
    world.stores[0].set_down(true);
    world.fleet.kill("s", 4..5);
    secs(120).await;
    assert_eq!(world.directory.len("s"), 20, "only the silent source can tell");
    world.fleet.kill("s", 5..6);
    until(TTL + 2 * SECOND, "the other source tells of its own", || {
        world.directory.len("s") == 19
    })
    .await;
    world.stores[0].set_down(false);
    until(TTL + 8 * SECOND, "gone one TTL after it is back", || {
        world.directory.len("s") == 18
    })
    .await;
    assert!(pump.handle.status().holds.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_emptied_source_is_distrusted_alone() {
    let (mut world, pump) = World::of_with(2, 40, PumpSettings::default()).await;
    let start = Instant::now();
    world.fleet.kill("s", 1..2);
    secs(10).await;
    world.stores[0].restart_empty();
    until(6 * SECOND, "noticed", || {
        pump.handle.status().sources[0].distrusted == Some(Discontinuity::SourceChanged)
    })
    .await;
    let status = pump.handle.status();
    assert_eq!(status.sources[1].distrusted, None);
    until(TTL - 8 * SECOND, "the other's dead leave in the meantime", || {
        world.directory.len("s") == 39
    })
    .await;
    secs(60).await;
    assert_eq!(world.directory.least("s", start), 39);
}

#[tokio::test(start_paused = true)]
async fn a_pump_that_starts_while_a_source_is_down_publishes_and_removes_nobody() {
    let (world, pump) = World::of_with(2, 20, PumpSettings::default()).await;
    pump.kill().await;
    let start = Instant::now();
    // The pump alone cannot reach it: the instances renew there.
    let mut world = world;
    world.stores.swap(0, 1);
    let unreachable = crate::twin::Store::new("twin-0");
    unreachable.set_down(true);
    world.stores[1] = unreachable;
    let pump = world.pump(PumpSettings::default());
    secs(60).await;
    assert_eq!(world.directory.least("s", start), 20);
    world.fleet.start_one("s", 21, Duration::ZERO);
    until(2 * SECOND, "a newcomer on the source that answers", || {
        world.directory.len("s") == 21
    })
    .await;
    assert_eq!(pump.handle.status().counters.removed["expired"], 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_word_counts_and_an_old_lease_elsewhere_brings_nobody_back() {
    let (mut world, pump) = World::of_with(2, 4, PumpSettings::default()).await;
    // It moved while its home could not be reached, changed there, and left.
    let mut moved = lease("s", 0);
    moved.sequence = 7;
    moved.weight = 55;
    world.fleet.kill("s", 0..1);
    world.stores[0].put(&lease("s", 0), TTL).await.expect("put");
    world.stores[1].put(&moved, TTL).await.expect("put");
    let weight = || world.directory.list("s").map(|list| list.instances[0].weight);
    until(2 * SECOND, "the last word", || weight() == Some(55)).await;
    moved.sequence = 8;
    moved.set_state(LeaseState::Deregistered);
    world.stores[1].put(&moved, 3 * SECOND).await.expect("put");
    until(2 * SECOND, "gone", || world.directory.len("s") == 3).await;
    let start = Instant::now();
    for _ in 0..12 {
        secs(1).await;
        assert!(
            world.stores[0].has(&name("s", 0)),
            "its old lease is still there after {:?}",
            start.elapsed()
        );
        assert_eq!(world.directory.len("s"), 3, "after {:?}", start.elapsed());
    }
    assert_eq!(
        world.directory.removed("s")[0].cause(),
        RemovalCause::Deregistered
    );
    secs(30).await;
    assert_eq!((world.directory.len("s"), pump.handle.status().leases), (3, 3));
}
