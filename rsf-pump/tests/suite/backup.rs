//! The directory goes back to a backup: what was published since is known to the pumps alone.

use std::time::Duration;

use rsf_pump::PumpSettings;
use rsf_registry::record::{LeaseState, ListHold, ServiceList};
use tokio::time::Instant;

use crate::world::{Running, World, secs, until};

const SECOND: Duration = Duration::from_secs(1);

/// Whether another term begins between the backup and its loss.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Since {
    SameTerm,
    LaterTerm,
}

/// How the pump ends before ZooKeeper comes back from its backup.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Stopped,
    /// Seconds after the last write.
    Killed,
}

const RESTARTS: [(Since, End); 3] = [
    (Since::LaterTerm, End::Stopped),
    (Since::SameTerm, End::Stopped),
    (Since::SameTerm, End::Killed),
];

/// Ten instances, an earlier list of which is the backup; and one that came later.
async fn with_backup(settings: PumpSettings, since: Since) -> (World, Running, ServiceList) {
    let (mut world, pump) = World::with(10, settings).await;
    let backup = world.directory.list("s").expect("list");
    if since == Since::LaterTerm {
        world.directory.depose(true);
        secs(3).await;
    }
    world.fleet.start_one("s", 50, Duration::ZERO);
    until(3 * SECOND, "published", || world.directory.len("s") == 11).await;
    (world, pump, backup)
}

async fn end(pump: Running, how: End) {
    match how {
        End::Stopped => pump.stop().await,
        End::Killed => {
            secs(5).await;
            pump.kill().await;
        }
    }
}

fn remembering(folder: &tempfile::TempDir) -> PumpSettings {
    PumpSettings {
        state_file: Some(folder.path().join("pump.state")),
        ..PumpSettings::default()
    }
}

fn order(list: &ServiceList) -> (u64, u64) {
    list.version.expect("version").order()
}

#[tokio::test(start_paused = true)]
async fn a_list_from_a_backup_is_written_anew_where_it_happens_to_be_right() {
    let (mut world, _pump) = World::with(5, PumpSettings::default()).await;
    let backup = world.directory.list("s").expect("list");
    world.fleet.start_one("s", 5, Duration::ZERO);
    secs(5).await;
    world.fleet.say("s", 5..6, LeaseState::Deregistered).await;
    secs(5).await;
    let newest = world.directory.list("s").expect("list");
    assert_eq!(backup.instances, newest.instances);
    // Consumers that saw the newest refuse what the backup has.
    world.directory.plant(backup);
    world.directory.depose(true);
    secs(5).await;
    let list = world.directory.list("s").expect("list");
    assert_eq!(list.instances, newest.instances);
    assert!(order(&list) > order(&newest));
    let begin = Instant::now();
    world.directory.depose(true);
    secs(5).await;
    assert!(
        world.directory.writes("s", begin).is_empty(),
        "nothing is behind any more"
    );
}

#[tokio::test(start_paused = true)]
async fn a_restarted_pump_gathers_renewals_before_it_writes() {
    for (since, how) in RESTARTS {
        let folder = tempfile::tempdir().expect("folder");
        let settings = remembering(&folder);
        let (world, pump, backup) = with_backup(settings.clone(), since).await;
        end(pump, how).await;
        world.directory.plant(backup);
        world.store.restart_empty();
        let start = Instant::now();
        let pump = world.pump(settings);
        secs(2).await;
        let status = pump.handle.status();
        let why = status.not_ready.as_deref().unwrap_or_default();
        assert!(why.contains("backup"), "{since:?} {how:?} {status:?}");
        until(20 * SECOND, "written", || {
            !world.directory.writes("s", start).is_empty()
        })
        .await;
        let writes = world.directory.writes("s", start);
        assert!(writes.iter().all(|(_, length)| *length == 11), "{writes:?}");
        until(3 * SECOND, "ready", || pump.handle.status().ready).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_pump_writes_anew_what_consumers_refuse_as_older() {
    for (since, how) in RESTARTS {
        let folder = tempfile::tempdir().expect("folder");
        let settings = remembering(&folder);
        let (mut world, pump, backup) = with_backup(settings.clone(), since).await;
        world.fleet.say("s", 50..51, LeaseState::Deregistered).await;
        until(3 * SECOND, "left", || world.directory.len("s") == 10).await;
        let newest = world.directory.list("s").expect("list");
        assert_eq!(backup.instances, newest.instances);
        end(pump, how).await;
        world.directory.plant(backup);
        let _pump = world.pump(settings);
        secs(20).await;
        let list = world.directory.list("s").expect("list");
        assert!(order(&list) > order(&newest), "{since:?} {how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_a_stranger_overwrote_is_no_backup() {
    let folder = tempfile::tempdir().expect("folder");
    let settings = remembering(&folder);
    let (mut world, pump) = World::with(10, settings.clone()).await;
    world.fleet.start("t", 3);
    until(10 * SECOND, "published", || world.directory.len("t") == 3).await;
    pump.stop().await;
    // It was the newest.
    world.directory.damage("t");
    let start = Instant::now();
    let pump = world.pump(settings);
    secs(2).await;
    let status = pump.handle.status();
    let why = status.not_ready.as_deref().unwrap_or_default();
    assert!(!why.contains("backup"), "{status:?}");
    world.fleet.start_one("s", 50, Duration::ZERO);
    until(3 * SECOND, "the others go on", || world.directory.len("s") == 11).await;
    secs(20).await;
    let writes = world.directory.writes("s", start);
    assert_eq!(writes.len(), 1, "who came, and nothing else: {writes:?}");
    assert!(!world.directory.writes("t", start).is_empty(), "it is mended");
}

#[tokio::test(start_paused = true)]
async fn whoever_died_after_the_backup_does_not_come_back() {
    let (mut world, _pump) = World::with(10, PumpSettings::default()).await;
    let backup = world.directory.list("s").expect("list");
    world.fleet.kill("s", 5..6);
    until(20 * SECOND, "gone", || world.directory.len("s") == 9).await;
    secs(20).await;
    world.directory.plant(backup);
    let start = Instant::now();
    world.directory.depose(true);
    until(5 * SECOND, "written", || {
        !world.directory.writes("s", start).is_empty()
    })
    .await;
    secs(20).await;
    let writes = world.directory.writes("s", start);
    assert!(writes.iter().all(|(_, length)| *length == 9), "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hold_in_a_backup_does_not_end_the_one_under_way() {
    let (mut world, pump) = World::with(20, PumpSettings::default()).await;
    let mut backup = world.directory.list("s").expect("list");
    backup.hold = Some(ListHold {
        before: 20,
        // Long ago.
        since_unix_ms: 1_000,
    });
    world.fleet.kill("s", 0..12);
    until(40 * SECOND, "a hold", || !pump.handle.status().holds.is_empty()).await;
    secs(10).await;
    world.directory.plant(backup);
    let start = Instant::now();
    world.directory.depose(true);
    secs(120).await;
    assert_eq!(world.directory.least("s", start), 10, "half of them stay");
    let hold = &pump.handle.status().holds[0];
    assert!(!hold.releasing && hold.before == 20, "{hold:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_ask_its_source_keeps_what_it_knows() {
    let (world, _pump, backup) = with_backup(PumpSettings::default(), Since::LaterTerm).await;
    world.store.set_down(true);
    secs(8).await;
    world.directory.plant(backup);
    let start = Instant::now();
    world.directory.depose(true);
    secs(5).await;
    world.store.set_down(false);
    until(20 * SECOND, "all", || world.directory.len("s") == 11).await;
    let writes = world.directory.writes("s", start);
    assert!(writes.iter().all(|(_, length)| *length == 11), "{writes:?}");
}
