//! Instances come, drain, leave and die: T09, T12, T13 and what is exempt from rule R.

use std::time::Duration;

use rsf_pump::PumpSettings;
use rsf_registry::record::{LeaseState, RemovalCause};
use tokio::time::Instant;

use crate::twin::{TTL, name};
use crate::world::{World, secs, until};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_lone_newcomer_is_listed_within_a_fifth_of_a_second() {
    let (mut world, _pump) = World::with(3, PumpSettings::default()).await;
    world.fleet.start_one("s", 7, Duration::ZERO);
    let took = until(SECOND, "listed", || world.directory.len("s") == 4).await;
    assert!(took <= Duration::from_millis(200), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn draining_stays_listed_and_marked_and_leaving_is_told_apart_from_dying() {
    let (mut world, pump) = World::with(4, PumpSettings::default()).await;
    world.fleet.say("s", 0..1, LeaseState::Draining).await;
    let marked = || {
        world
            .directory
            .list("s")
            .is_some_and(|list| list.instances[0].state() == LeaseState::Draining)
    };
    until(2 * SECOND, "marked", marked).await;
    world.fleet.say("s", 1..2, LeaseState::Deregistered).await;
    until(2 * SECOND, "gone", || world.directory.len("s") == 3).await;
    let removed = world.directory.removed("s");
    assert_eq!(
        (removed[0].instance.as_str(), removed[0].cause()),
        ("s/0001", RemovalCause::Deregistered)
    );
    secs(20).await;
    assert_eq!(
        world.directory.len("s"),
        2,
        "the draining one ended without a word"
    );
    assert_eq!(pump.handle.status().counters.removed["expired"], 1);
}

#[tokio::test(start_paused = true)]
async fn t09_lost_hints_are_repaired_by_a_sweep() {
    let (mut world, _pump) = World::with(10, PumpSettings::default()).await;
    world.store.set_hints_lost(true);
    // Well between two sweeps.
    secs(2).await;
    for index in 0..200 {
        world
            .fleet
            .start_one(if index % 2 == 0 { "a" } else { "b" }, index, Duration::ZERO);
    }
    let seen = || world.directory.len("a") == 100 && world.directory.len("b") == 100;
    let took = until(6 * SECOND, "all seen", seen).await;
    assert!(took > SECOND, "only a sweep can have seen them: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn t12_a_dead_instance_is_gone_within_its_ttl_and_two_seconds() {
    for seed in 0..20 {
        let (mut world, pump) = World::with(20, PumpSettings::default()).await;
        tokio::time::sleep(Duration::from_millis(seed * 251)).await;
        world.fleet.kill("s", 3..4);
        let took = until(TTL + 2 * SECOND, "gone", || world.directory.len("s") == 19).await;
        assert!(
            took >= TTL - 5 * SECOND - SECOND,
            "not before its deadline: {took:?}"
        );
        let removed = world.directory.removed("s");
        assert_eq!(
            (removed[0].instance.as_str(), removed[0].cause()),
            ("s/0003", RemovalCause::Expired)
        );
        assert!(pump.handle.status().counters.deadline_checks > 0);
        assert!(world.store.reads() > 0);
        assert!(pump.handle.status().holds.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_instance_is_found_by_its_deadline_without_waiting_for_a_sweep() {
    let settings = PumpSettings {
        sweep_ms: 15_000,
        ..PumpSettings::default()
    };
    let (mut world, _pump) = World::with(20, settings).await;
    world.fleet.kill("s", 3..4);
    until(TTL + 2 * SECOND, "gone", || world.directory.len("s") == 19).await;
}

#[tokio::test(start_paused = true)]
async fn t13_five_percent_leave_at_once_and_sixty_are_held_then_released_at_a_bounded_rate() {
    let (mut world, pump) = World::with(100, PumpSettings::default()).await;
    world.fleet.kill("s", 0..5);
    until(TTL + 2 * SECOND, "5 % gone", || world.directory.len("s") == 95).await;
    secs(10).await;

    let (killed, before) = (Instant::now(), 95);
    world.fleet.kill("s", 5..65);
    secs(60).await;
    let status = pump.handle.status();
    assert_eq!(world.directory.len("s"), before / 2 + 1, "half of the list stays");
    assert_eq!(
        (status.holds.len(), status.holds[0].before, status.counters.holds),
        (1, before, 1)
    );
    assert_eq!(status.holds[0].held, world.directory.len("s") - 35);
    let alert = pump
        .registry
        .gather()
        .into_iter()
        .find(|family| family.name() == "rsf_pump_holds");
    assert_eq!(
        alert.expect("metric").get_metric()[0].get_gauge().get_value(),
        1.0
    );
    secs(200).await;
    assert_eq!(
        world.directory.len("s"),
        before / 2 + 1,
        "no evidence, no release"
    );

    until(120 * SECOND, "released", || world.directory.len("s") == 35).await;
    let writes = world.directory.writes("s", killed);
    for (at, len) in &writes {
        let window = writes
            .iter()
            .filter(|(then, _)| then < at && *then + 9 * SECOND > *at);
        for (_, earlier) in window {
            assert!(earlier - len <= earlier / 5, "{earlier} → {len} at {at:?}");
        }
    }
    assert!(
        writes.iter().all(|(_, len)| *len >= 35),
        "no living instance was taken"
    );
    secs(10).await;
    assert!(pump.handle.status().holds.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_operator_ends_a_hold_at_once() {
    let (mut world, pump) = World::with(20, PumpSettings::default()).await;
    world.fleet.kill("s", 0..12);
    secs(60).await;
    assert_eq!(world.directory.len("s"), 10);
    assert_eq!(pump.handle.end_hold(Some("other".into())).await, Ok(0));
    assert_eq!(pump.handle.end_hold(Some("s".into())).await, Ok(1));
    until(2 * SECOND, "released", || world.directory.len("s") == 8).await;
    secs(1).await;
    assert!(pump.handle.status().holds.is_empty());
}

#[tokio::test(start_paused = true)]
async fn held_instances_that_come_back_end_the_hold() {
    let (mut world, pump) = World::with(20, PumpSettings::default()).await;
    world.fleet.kill("s", 0..12);
    secs(60).await;
    assert_eq!(pump.handle.status().holds[0].held, 2);
    world.fleet.start("s", 12);
    until(3 * SECOND, "whole", || world.directory.len("s") == 20).await;
    until(7 * SECOND, "no hold", || pump.handle.status().holds.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn leaving_by_word_is_exempt_from_rule_r() {
    let (mut world, pump) = World::with(20, PumpSettings::default()).await;
    world.fleet.say("s", 0..18, LeaseState::Deregistered).await;
    until(2 * SECOND, "18 of 20 gone", || world.directory.len("s") == 2).await;
    let removed = world.directory.removed("s");
    assert!(
        removed.len() == 18
            && removed
                .iter()
                .all(|gone| gone.cause() == RemovalCause::Deregistered)
    );
    secs(20).await;
    assert_eq!(pump.handle.status().counters.holds, 0);
    assert_eq!(
        world.directory.list("s").expect("list").instances[0].instance,
        name("s", 18)
    );
}

#[tokio::test(start_paused = true)]
async fn leases_are_not_read_one_by_one_where_sweeps_are_slow() {
    const MANY: usize = 1_500;
    let settings = PumpSettings {
        sweep_timeout_ms: 60_000,
        ..PumpSettings::default()
    };
    let (mut world, pump) = World::with(MANY, settings).await;
    // Longer than most leases live on when the sweep looks at them.
    world.store.set_sweep_takes(Duration::from_secs(13));
    secs(15).await;
    let (before, checks) = (world.store.reads(), pump.handle.status().counters.deadline_checks);
    secs(120).await;
    let checks = pump.handle.status().counters.deadline_checks - checks;
    assert!(
        checks > 5 * MANY as u64,
        "their deadlines came again and again: {checks}"
    );
    let reads = world.store.reads() - before;
    assert!(
        reads < MANY / 10,
        "{reads} of {MANY} leases were read beside the sweeps"
    );
    assert_eq!(world.directory.len("s"), MANY);
    // Who comes is seen at once all the same, and who died leaves.
    world.fleet.start_one("s", 9_999, Duration::ZERO);
    until(SECOND, "the newcomer", || world.directory.len("s") == MANY + 1).await;
    world.fleet.kill("s", 0..5);
    until(60 * SECOND, "the dead are gone", || {
        world.directory.len("s") == MANY - 4
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_takes_long_leaves_time_to_everything_else() {
    let settings = PumpSettings {
        lease_ttl_ms: 60_000,
        sweep_timeout_ms: 60_000,
        ..PumpSettings::default()
    };
    let (mut world, pump) = World::with(20, settings).await;
    world.store.set_sweep_takes(Duration::from_secs(8));
    secs(20).await;
    let counters = || pump.handle.status().counters.clone();
    let before = counters();
    secs(130).await;
    let sweeps = counters().sweeps - before.sweeps;
    assert!((9..=11).contains(&sweeps), "one in 13 s, not in 8: {sweeps}");
    // It does not take its own rest for having stood still, and asks anew at once where there is something to ask.
    world.fleet.kill("s", 0..1);
    until(62 * SECOND + 2 * 9 * SECOND, "the dead one is gone", || {
        world.directory.len("s") == 19
    })
    .await;
    assert_eq!(counters().discontinuities, before.discontinuities);
}
