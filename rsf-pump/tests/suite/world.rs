//! Some stores, one directory, and the pumps between them, on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rsf_pump::{Pump, PumpHandle, PumpSettings};
use rsf_registry::LeaseSource;
use rsf_registry::directory::{ListOpener, ListSealer};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::twin::{Directory, Fleet, Store, TTL};

/// Everything a case needs.
pub(crate) struct World {
    /// The first of the stores, and in most cases the only one.
    pub(crate) store: Arc<Store>,
    pub(crate) stores: Vec<Arc<Store>>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) fleet: Fleet,
}

/// A pump that runs.
pub(crate) struct Running {
    pub(crate) handle: PumpHandle,
    pub(crate) registry: Registry,
    shutdown: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl World {
    pub(crate) fn new() -> World {
        World::of(1)
    }

    /// A world of so many lease stores.
    pub(crate) fn of(stores: usize) -> World {
        let stores: Vec<_> = (0..stores)
            .map(|index| Store::new(&format!("twin-{index}")))
            .collect();
        World {
            fleet: Fleet::new(&stores),
            directory: Directory::new(),
            store: stores[0].clone(),
            stores,
        }
    }

    /// A world with one leading pump and these many instances of `s`, all published.
    pub(crate) async fn with(count: usize, settings: PumpSettings) -> (World, Running) {
        World::of_with(1, count, settings).await
    }

    /// The same on so many lease stores.
    pub(crate) async fn of_with(stores: usize, count: usize, settings: PumpSettings) -> (World, Running) {
        let mut world = World::of(stores);
        world.fleet.start("s", count);
        let pump = world.pump(settings);
        secs(20).await;
        assert_eq!(world.directory.len("s"), count);
        assert!(pump.handle.status().ready, "{:?}", pump.handle.status());
        (world, pump)
    }

    /// A world with one leading pump that probes, and these many instances of `s`, all published.
    pub(crate) async fn probing(stores: usize, count: usize) -> (World, Running) {
        let mut world = World::of(stores);
        world.fleet.start("s", count);
        let pump = world.start(PumpSettings::default(), |pump| {
            pump.with_evidence(world.fleet.hosts())
        });
        secs(20).await;
        assert_eq!(world.directory.len("s"), count);
        (world, pump)
    }

    pub(crate) fn pump(&self, settings: PumpSettings) -> Running {
        self.start(settings, |pump| pump)
    }

    /// A pump that signs.
    pub(crate) fn pump_sealing(
        &self,
        settings: PumpSettings,
        sealer: ListSealer,
        opener: ListOpener,
    ) -> Running {
        self.start(settings, |pump| pump.sealing(sealer, opener))
    }

    pub(crate) fn start(&self, settings: PumpSettings, with: impl FnOnce(Pump) -> Pump) -> Running {
        let registry = Registry::new();
        let config = settings.validate().expect("valid settings");
        let sources = self
            .stores
            .iter()
            .map(|store| store.clone() as Arc<dyn LeaseSource>);
        let pump = Pump::new(sources.collect(), self.directory.clone(), config, &registry)
            .expect("a fresh registry");
        let pump = with(pump);
        let (handle, shutdown) = (pump.handle(), CancellationToken::new());
        let task = AbortOnDropHandle::new(tokio::spawn(pump.run(shutdown.clone())));
        Running {
            handle,
            registry,
            shutdown,
            task,
        }
    }

    /// Evidence lets the dead go, down to `left`, well before the hold would end by itself: it is asked for twice, three seconds
    /// apart.
    pub(crate) async fn hold_ends_early(&self, pump: &Running, left: usize) {
        let second = Duration::from_secs(1);
        until(TTL + 8 * second, "the dead are gone", || {
            self.directory.len("s") == left
        })
        .await;
        until(6 * second, "the hold is over", || {
            pump.handle.status().holds.is_empty()
        })
        .await;
    }
}

impl Running {
    /// Ends the pump in good order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the pump does not panic");
    }

    /// `kill -9`.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(
            self.task.await.expect_err("aborted").is_cancelled(),
            "the pump had panicked"
        );
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

pub(crate) async fn secs(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// How long it takes until `done`; panics after `limit`.
pub(crate) async fn until(limit: Duration, what: &str, done: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() <= limit, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}
