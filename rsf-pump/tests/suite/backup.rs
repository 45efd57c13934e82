//! The directory goes back to a backup: what was published since is known to the pumps alone.

use std::time::Duration;

use rsf_pump::PumpSettings;
use rsf_registry::record::{LeaseState, ServiceList};
use tokio::time::Instant;

use crate::world::{Running, World, secs, until};

const SECOND: Duration = Duration::from_secs(1);

/// Ten instances, an earlier term's list of which is the backup; and one that came in a later term.
async fn with_backup(settings: PumpSettings) -> (World, Running, ServiceList) {
    let (mut world, pump) = World::with(10, settings).await;
    let backup = world.directory.list("s").expect("list");
    world.directory.depose(true);
    secs(3).await;
    world.fleet.start_one("s", 50, Duration::ZERO);
    until(3 * SECOND, "published", || world.directory.len("s") == 11).await;
    (world, pump, backup)
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
    let order = |list: &ServiceList| list.version.expect("version").order();
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
    let folder = tempfile::tempdir().expect("folder");
    let settings = PumpSettings {
        state_file: Some(folder.path().join("pump.state")),
        ..PumpSettings::default()
    };
    let (world, pump, backup) = with_backup(settings.clone()).await;
    pump.stop().await;
    world.directory.plant(backup);
    world.store.restart_empty();
    let start = Instant::now();
    let pump = world.pump(settings);
    secs(2).await;
    let status = pump.handle.status();
    assert!(
        status
            .not_ready
            .as_ref()
            .is_some_and(|why| why.contains("backup")),
        "{status:?}"
    );
    until(20 * SECOND, "written", || {
        !world.directory.writes("s", start).is_empty()
    })
    .await;
    let writes = world.directory.writes("s", start);
    assert!(writes.iter().all(|(_, length)| *length == 11), "{writes:?}");
    until(3 * SECOND, "ready", || pump.handle.status().ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_pump_writes_anew_what_consumers_refuse_as_older() {
    let folder = tempfile::tempdir().expect("folder");
    let settings = PumpSettings {
        state_file: Some(folder.path().join("pump.state")),
        ..PumpSettings::default()
    };
    let (mut world, pump, backup) = with_backup(settings.clone()).await;
    world.fleet.say("s", 50..51, LeaseState::Deregistered).await;
    until(3 * SECOND, "left", || world.directory.len("s") == 10).await;
    let newest = world.directory.list("s").expect("list");
    assert_eq!(backup.instances, newest.instances);
    pump.stop().await;
    world.directory.plant(backup);
    let _pump = world.pump(settings);
    secs(20).await;
    let order = |list: &ServiceList| list.version.expect("version").order();
    assert!(order(&world.directory.list("s").expect("list")) > order(&newest));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_ask_its_source_keeps_what_it_knows() {
    let (world, _pump, backup) = with_backup(PumpSettings::default()).await;
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
