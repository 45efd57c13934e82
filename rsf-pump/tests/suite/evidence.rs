//! Rule R with evidence: held instances are asked themselves.

use std::time::Duration;

use tokio::time::Instant;

use crate::twin::TTL;
use crate::world::{World, secs, until};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn t13_sixty_percent_that_are_proven_to_be_gone_leave_at_once() {
    let (mut world, pump) = World::probing(1, 100).await;
    world.fleet.kill("s", 0..60);
    world.hold_ends_early(&pump, 40).await;
    let counters = pump.handle.status().counters.clone();
    assert!(counters.holds >= 1, "they were held until the evidence came");
    assert!(
        counters.probes["gone"] > 0 && counters.probes["answers"] == 0,
        "{counters:?}"
    );
    let asked = counters.probes["gone"];
    secs(60).await;
    assert_eq!(
        pump.handle.status().counters.probes["gone"],
        asked,
        "nobody is held, nobody is probed"
    );
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_lease_and_answers_stays_past_every_hold() {
    let (mut world, pump) = World::probing(1, 100).await;
    let start = Instant::now();
    world.fleet.silence("s", 0..60);
    secs(900).await;
    let least = world.directory.least("s", start);
    assert!(
        least >= 80,
        "only the first fifth, before anybody could be asked: {least}"
    );
    let status = pump.handle.status();
    assert_eq!((status.holds.len(), status.holds[0].answering), (1, least - 40));
    assert!(status.counters.probes["answers"] > 0);

    // Then half of them end after all.
    world.fleet.hosts().stop_listening("s", 20..60);
    until(60 * SECOND, "who died is gone", || world.directory.len("s") <= 60).await;
    assert_eq!(pump.handle.end_hold(None).await, Ok(1));
    until(6 * SECOND, "an operator may end it all the same", || {
        world.directory.len("s") == 40
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_answers_nothing_is_no_evidence() {
    let (mut world, pump) = World::probing(1, 100).await;
    world.fleet.hosts().cut_off();
    world.fleet.kill("s", 0..60);
    secs(200).await;
    assert_eq!(world.directory.len("s"), 50, "half of the list stays");
    let counters = pump.handle.status().counters.clone();
    assert!(
        counters.probes["unclear"] > 0 && counters.probes["gone"] == 0,
        "{counters:?}"
    );
    until(300 * SECOND, "released by time", || {
        world.directory.len("s") == 40
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn evidence_tells_of_the_dead_of_a_source_that_does_not_answer() {
    let (mut world, pump) = World::probing(2, 20).await;
    world.stores[0].set_down(true);
    world.fleet.kill("s", 4..5);
    // Its lease is cut off with the source, and it serves.
    world.fleet.silence("s", 6..7);
    until(TTL + 10 * SECOND, "the dead one", || {
        world.directory.len("s") == 19
    })
    .await;
    secs(300).await;
    assert_eq!(world.directory.len("s"), 19, "the living one stays");
    assert!(pump.handle.status().ready, "{:?}", pump.handle.status().not_ready);
}

#[tokio::test(start_paused = true)]
async fn evidence_ends_no_grace_after_a_discontinuity() {
    let (mut world, _pump) = World::probing(1, 20).await;
    world.store.set_down(true);
    world.fleet.kill("s", 0..10);
    secs(30).await;
    let down = world.directory.len("s");
    assert_eq!(down, 20, "nobody leaves while the source is down");
    world.store.restart_empty();
    world.store.set_down(false);
    secs(12).await;
    assert_eq!(
        world.directory.len("s"),
        down,
        "no lease of it expires for one TTL"
    );
    until(10 * SECOND, "then the dead leave", || {
        world.directory.len("s") == 10
    })
    .await;
}
