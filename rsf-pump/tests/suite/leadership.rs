//! Terms begin and end: T18, T20, T21, epochs that never go back, and the pump's own state file.

use std::time::Duration;

use rsf_core::identity::{SigningKey, TrustedKeys};
use rsf_pump::{PumpSettings, Role};
use rsf_registry::directory::{ListOpener, ListSealer};
use rsf_registry::record::{ListVersion, ListedInstance, ServiceList};
use tokio::time::{Instant, sleep_until};

use crate::world::{World, secs, until};

const SECOND: Duration = Duration::from_secs(1);

fn named(pump: &str) -> PumpSettings {
    PumpSettings {
        pump: pump.into(),
        ..PumpSettings::default()
    }
}

#[tokio::test(start_paused = true)]
async fn t21_a_deposed_leader_is_refused_and_versions_never_go_back() {
    let (mut world, first) = World::with(10, named("first")).await;
    let second = world.pump(named("second"));
    secs(20).await;
    assert_eq!(
        (first.handle.status().role, second.handle.status().role),
        (Role::Leading, Role::Standby)
    );
    assert_eq!(second.handle.status().leases, 10, "a standby folds along");
    let epoch = world
        .directory
        .list("s")
        .expect("list")
        .version
        .expect("version")
        .epoch;

    world.directory.depose(false);
    world.fleet.start_one("s", 50, Duration::ZERO);
    until(3 * SECOND, "published by the second", || {
        world.directory.len("s") == 11
    })
    .await;
    secs(3).await;
    let (was, is) = (first.handle.status(), second.handle.status());
    assert_eq!((was.role, is.role), (Role::Standby, Role::Leading));
    assert!(world.directory.fenced() > 0 && was.counters.fenced == 1);
    assert!(
        world
            .directory
            .list("s")
            .expect("list")
            .version
            .expect("version")
            .epoch
            > epoch
    );
    assert!(first.is_running());

    world.directory.depose(true);
    secs(5).await;
    world.fleet.start_one("s", 51, Duration::ZERO);
    until(3 * SECOND, "published by either", || {
        world.directory.len("s") == 12
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn t20_a_pump_killed_at_any_moment_leaves_lists_that_its_successor_completes() {
    for step in 0..60 {
        let (mut world, pump) = World::with(10, PumpSettings::default()).await;
        world.fleet.start_one("s", 50, Duration::ZERO);
        world.fleet.kill("s", 0..1);
        tokio::time::sleep(Duration::from_millis(step * 5 + (step % 2) * 15_000)).await;
        pump.kill().await;
        let _pump = world.pump(PumpSettings::default());
        secs(40).await;
        let list = world.directory.list("s").expect("list");
        let names: Vec<_> = list
            .instances
            .iter()
            .map(|entry| entry.instance.as_str())
            .collect();
        assert_eq!(
            (names.len(), names[0], names[9]),
            (10, "s/0001", "s/0050"),
            "step {step}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_cannot_be_read_back_is_written_when_instances_had_time_to_show_up() {
    let (world, pump) = World::with(10, PumpSettings::default()).await;
    pump.stop().await;
    world.directory.damage("s");
    world.store.restart_empty();
    let start = Instant::now();
    let _pump = world.pump(PumpSettings::default());
    secs(60).await;
    assert_eq!(world.directory.least("s", start), 10, "nobody is forgotten");
    let sealed = world.directory.sealed("s").expect("a list");
    let read = ListOpener::unverified().open(&sealed).expect("a good one again");
    assert_eq!(read.list.instances.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn t18_a_wiped_directory_is_written_anew_with_a_greater_epoch() {
    let (mut world, pump) = World::with(10, PumpSettings::default()).await;
    world.fleet.start("t", 5);
    secs(5).await;
    let before = pump.handle.status().epoch.expect("epoch");
    world.directory.wipe();
    until(3 * SECOND, "both lists", || {
        world.directory.len("s") == 10 && world.directory.len("t") == 5
    })
    .await;
    assert!(
        world
            .directory
            .list("s")
            .expect("list")
            .version
            .expect("version")
            .epoch
            > before
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_of_leaders_lets_nobody_go_faster() {
    let (mut world, _leader) = World::with(20, named("leader")).await;
    let standby = world.pump(named("standby"));
    secs(17).await;
    world.fleet.kill("s", 0..12);
    until(25 * SECOND, "the first to leave", || {
        world.directory.len("s") < 20
    })
    .await;
    let first = Instant::now();
    until(9 * SECOND, "a fifth left", || world.directory.len("s") == 16).await;
    world.directory.depose(true);
    until(2 * SECOND, "the standby leads", || {
        standby.handle.status().role == Role::Leading
    })
    .await;
    sleep_until(first + 9 * SECOND).await;
    assert_eq!(world.directory.least("s", first), 16, "within one window");
    until(120 * SECOND, "half are left", || world.directory.len("s") == 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_on_with_a_hold_and_with_what_was_there_before_it() {
    let (mut world, first) = World::with(20, named("first")).await;
    world.fleet.kill("s", 0..18);
    secs(60).await;
    assert_eq!(world.directory.len("s"), 10);
    first.kill().await;
    let published = || world.directory.list("s").expect("list").hold;
    assert_eq!(published().expect("a hold").before, 20);

    let second = world.pump(named("second"));
    secs(100).await;
    assert_eq!(
        world.directory.len("s"),
        10,
        "half of what was there, not of what it found"
    );
    let hold = second.handle.status().holds[0].clone();
    // How old a hold is when it changes hands is reckoned by the wall clock, which does not go with the paused one.
    assert!(hold.before == 20 && hold.age_ms > 110_000, "{hold:?}");

    secs(110).await;
    assert_eq!(world.directory.len("s"), 10, "it lasts");
    until(200 * SECOND, "released", || world.directory.len("s") == 2).await;
    until(7 * SECOND, "no hold any more", || published().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_knows_no_more_than_a_new_one_keeps_its_hold() {
    let (mut world, pump) = World::with(20, named("only")).await;
    world.fleet.kill("s", 0..18);
    secs(60).await;
    assert_eq!(world.directory.len("s"), 10);
    let start = Instant::now();
    // It wins again while it cannot ask its source, and begins anew with what it published.
    world.store.set_down(true);
    secs(5).await;
    world.directory.depose(true);
    secs(2).await;
    world.store.set_down(false);
    secs(120).await;
    assert_eq!(world.directory.least("s", start), 10, "half of what was there");
    let holds = pump.handle.status().holds.clone();
    assert!(holds.len() == 1 && holds[0].before == 20, "{holds:?}");
    let published = world.directory.list("s").expect("list").hold;
    assert_eq!(published.expect("a hold").before, 20);
}

#[tokio::test(start_paused = true)]
async fn an_inherited_hold_ends_when_all_are_back() {
    let (mut world, first) = World::with(20, named("first")).await;
    world.fleet.kill("s", 0..12);
    secs(60).await;
    first.kill().await;
    world.fleet.start("s", 12);
    let second = world.pump(named("second"));
    until(10 * SECOND, "whole", || world.directory.len("s") == 20).await;
    until(7 * SECOND, "no hold", || {
        second.handle.status().holds.is_empty()
            && world.directory.list("s").is_some_and(|list| list.hold.is_none())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_wipe_a_restarted_pump_gathers_renewals_before_it_writes() {
    let folder = tempfile::tempdir().expect("folder");
    let settings = PumpSettings {
        state_file: Some(folder.path().join("pump.state")),
        ..PumpSettings::default()
    };
    let (world, pump) = World::with(10, settings.clone()).await;
    let before = pump.handle.status().epoch.expect("epoch");
    pump.stop().await;
    world.directory.wipe();
    world.store.restart_empty();
    let start = Instant::now();
    let pump = world.pump(settings);
    secs(8).await;
    assert!(
        pump.handle
            .status()
            .not_ready
            .as_ref()
            .is_some_and(|why| why.contains("wiped"))
    );
    assert!(world.directory.lists_stored().is_empty());
    until(12 * SECOND, "written", || world.directory.len("s") > 0).await;
    assert_eq!(
        world.directory.least("s", start),
        10,
        "whole from the first write on"
    );
    let version = world.directory.list("s").expect("list").version.expect("version");
    assert_eq!((version.epoch, version.sequence), (before + 1, 1));
}

#[tokio::test(start_paused = true)]
async fn after_a_wipe_a_source_that_is_away_has_a_ttl_too() {
    let folder = tempfile::tempdir().expect("folder");
    let settings = PumpSettings {
        state_file: Some(folder.path().join("pump.state")),
        shrink_hold_ms: 60_000,
        ..PumpSettings::default()
    };
    let (world, pump) = World::with(10, settings.clone()).await;
    pump.stop().await;
    world.directory.wipe();
    world.store.restart_empty();
    let start = Instant::now();
    let pump = world.pump(settings.clone());
    secs(2).await;
    world.store.set_down(true);
    secs(20).await;
    assert!(
        world.directory.lists_stored().is_empty(),
        "those who have not come back may live"
    );
    world.store.set_down(false);
    until(20 * SECOND, "written", || world.directory.len("s") > 0).await;
    assert_eq!(world.directory.least("s", start), 10);
    pump.stop().await;
    world.directory.wipe();
    world.store.restart_empty();
    let _pump = world.pump(settings);
    secs(2).await;
    world.store.set_down(true);
    until(62 * SECOND, "what there is, in the end", || {
        world.directory.len("s") > 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_wipe_a_pump_that_only_stood_by_knows_that_there_were_lists() {
    let folder = tempfile::tempdir().expect("folder");
    let settings = PumpSettings {
        state_file: Some(folder.path().join("standby.state")),
        ..named("standby")
    };
    let (world, leader) = World::with(10, named("leader")).await;
    let standby = world.pump(settings.clone());
    secs(20).await;
    assert_eq!(standby.handle.status().role, Role::Standby);
    standby.stop().await;
    leader.stop().await;
    world.directory.wipe();
    world.store.restart_empty();
    let start = Instant::now();
    let standby = world.pump(settings);
    secs(8).await;
    let status = standby.handle.status();
    assert!(
        status.not_ready.as_ref().is_some_and(|why| why.contains("wiped")),
        "it never wrote a list itself: {status:?}"
    );
    until(12 * SECOND, "written", || world.directory.len("s") > 0).await;
    assert_eq!(
        world.directory.least("s", start),
        10,
        "whole from the first write on"
    );
}

#[tokio::test(start_paused = true)]
async fn a_damaged_state_file_stops_no_pump() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("pump.state");
    std::fs::write(&path, b"\xff\x00 nonsense").expect("write");
    let (_world, _pump) = World::with(
        3,
        PumpSettings {
            state_file: Some(path.clone()),
            ..PumpSettings::default()
        },
    )
    .await;
    assert!(
        std::fs::read_to_string(&path)
            .expect("replaced")
            .contains("\"epoch\":1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_stored_list_of_a_later_epoch_asks_for_a_greater_one() {
    let mut world = World::new();
    let version = Some(ListVersion {
        epoch: 77,
        sequence: 9,
    });
    world.directory.plant(ServiceList {
        service: "s".into(),
        version,
        ..ServiceList::default()
    });
    world.fleet.start("s", 3);
    let _pump = world.pump(PumpSettings::default());
    until(5 * SECOND, "written", || world.directory.len("s") == 3).await;
    assert_eq!(
        world
            .directory
            .list("s")
            .expect("list")
            .version
            .expect("version")
            .epoch,
        78
    );
}

#[tokio::test(start_paused = true)]
async fn a_campaign_outlives_a_directory_that_is_away() {
    let mut world = World::new();
    world.directory.set_away(true);
    world.fleet.start("s", 3);
    let pump = world.pump(PumpSettings::default());
    secs(10).await;
    assert_eq!(pump.handle.status().role, Role::Standby);
    assert!(pump.handle.status().last_error.is_some());
    world.directory.set_away(false);
    until(3 * SECOND, "written", || world.directory.len("s") == 3).await;
    let json = serde_json::to_string(&*pump.handle.status()).expect("serializable");
    assert!(json.contains("\"role\":\"leading\""), "{json}");
}

#[tokio::test(start_paused = true)]
async fn a_pump_that_stops_hands_over_at_once() {
    let (mut world, first) = World::with(3, named("first")).await;
    let second = world.pump(named("second"));
    secs(20).await;
    first.stop().await;
    world.fleet.start_one("s", 9, Duration::ZERO);
    until(SECOND, "written by the second", || world.directory.len("s") == 4).await;
    assert_eq!(second.handle.status().role, Role::Leading);
}

#[tokio::test(start_paused = true)]
async fn a_signing_pump_takes_over_its_own_lists_and_no_stranger_s() {
    let key = || SigningKey::from_random(&[7; 32]);
    let opener = || {
        let keys = TrustedKeys::from_pem(&key().public_pem().expect("pem")).expect("keys");
        ListOpener::trusting("test", keys)
    };
    let mut world = World::new();
    world.fleet.start("s", 3);
    let settings = PumpSettings::default();
    let pump = world.pump_sealing(settings.clone(), ListSealer::signing("test", key()), opener());
    until(5 * SECOND, "written", || world.directory.len("s") == 3).await;
    pump.stop().await;
    let signed = world.directory.sealed("s").expect("stored");
    assert!(opener().open(&signed).is_ok(), "it is signed");
    // A list that nobody signed, as whoever may write to the directory could plant it.
    world.directory.plant(ServiceList {
        service: "forged".into(),
        version: Some(ListVersion {
            epoch: 1,
            sequence: 1,
        }),
        instances: vec![ListedInstance {
            instance: "forged/1".into(),
            address: "evil:1".into(),
            ..ListedInstance::default()
        }],
        ..ServiceList::default()
    });
    let start = Instant::now();
    let pump = world.pump_sealing(settings, ListSealer::signing("test", key()), opener());
    secs(30).await;
    assert!(pump.handle.status().ready, "{:?}", pump.handle.status());
    assert_eq!(
        pump.handle.status().services,
        1,
        "the forged one is no part of its view"
    );
    assert!(world.directory.writes("forged", start).is_empty());
    assert!(
        world.directory.writes("s", start).is_empty(),
        "its own list it took over"
    );
    pump.stop().await;
}
