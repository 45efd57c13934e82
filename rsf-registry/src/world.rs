//! What the control path takes from the world around it, wall clock and threads for the disk, and the guards that
//! simulations take away to see that they are missed.
//!
//! Only the feature `simulation`, which no program of RSF's turns on, puts something else in their place, and then only
//! on a thread that entered a `Simulation`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinError;

#[cfg(feature = "simulation")]
pub use simulated::Simulation;

/// The wall clock: for people, and for numbers that rise from one start to the next.
pub fn unix_now() -> Duration {
    #[cfg(feature = "simulation")]
    if let Some(now) = simulated::unix_now() {
        return now;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Runs `work` on a thread that may block.
///
/// # Errors
/// Where the work panicked or the runtime ends.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(feature = "simulation")]
    if simulated::unix_now().is_some() {
        // Another thread would end whenever it likes, and no run would be like the last.
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// How many bytes a shard of a list may have that usually may have `usual`: so few in some simulations that lists of a
/// dozen instances stand in shards.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub(crate) const fn shard_bytes(usual: usize) -> usize {
    usual
}

/// How many bytes a shard of a list may have that usually may have `usual`: so few in some simulations that lists of a
/// dozen instances stand in shards.
#[cfg(feature = "simulation")]
pub(crate) fn shard_bytes(usual: usize) -> usize {
    match simulated::has_small_shards() {
        // What a shard has beside its instances does not become less.
        true => usual / 512 + 48,
        false => usual,
    }
}

/// A protection of the control path. All of them stand, always, but in a simulation's negative control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// A consumer refuses an empty list that does not say why everybody is gone.
    EmptyList,
    /// A consumer refuses a list older than the one it has.
    OlderList,
    /// A snapshot on disk is refused where its checksum does not match.
    Checksum,
    /// The pump reads all leases again and again.
    Sweep,
    /// No lease expires for one TTL after a discontinuity of its source.
    Distrust,
    /// No list loses more than a share of its instances at once.
    ShrinkLimit,
    /// Of two records of one instance the one with the greater incarnation and sequence counts.
    Order,
    /// A new leader takes the published lists for the last known view.
    LastView,
    /// A leader whose directory was wiped gathers renewals for one TTL before it writes.
    Blind,
}

impl Guard {
    /// Whether this protection is in force here.
    #[cfg(not(feature = "simulation"))]
    #[inline(always)]
    pub const fn stands(self) -> bool {
        true
    }

    /// Whether this protection is in force here.
    #[cfg(feature = "simulation")]
    pub fn stands(self) -> bool {
        simulated::without() != Some(self)
    }
}

#[cfg(feature = "simulation")]
mod simulated {
    //! The simulated world of one thread.

    use std::cell::Cell;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Guard;

    #[derive(Clone, Copy)]
    struct World {
        start: Instant,
        unix: Duration,
        without: Option<Guard>,
        small_shards: bool,
    }

    thread_local! {
        static WORLD: Cell<Option<World>> = const { Cell::new(None) };
    }

    /// While this lives, its thread is in a simulated world: the wall clock goes with tokio's, the disk's work is done in
    /// place, and one guard may be missing.
    #[derive(Debug)]
    pub struct Simulation(());

    impl Simulation {
        /// Enters a world in which it is `unix` now; call it inside a runtime whose clock is paused.
        pub fn enter(unix: Duration, without: Option<Guard>) -> Self {
            let start = Instant::now();
            WORLD.set(Some(World {
                start,
                unix,
                without,
                small_shards: false,
            }));
            Simulation(())
        }

        /// Lets lists of a dozen instances stand in shards, as those of thousands do elsewhere.
        pub fn with_small_shards(self) -> Self {
            WORLD.set(WORLD.get().map(|world| World {
                small_shards: true,
                ..world
            }));
            self
        }
    }

    impl Drop for Simulation {
        fn drop(&mut self) {
            WORLD.set(None);
        }
    }

    pub(super) fn unix_now() -> Option<Duration> {
        WORLD.get().map(|world| world.unix + world.start.elapsed())
    }

    pub(super) fn has_small_shards() -> bool {
        WORLD.get().is_some_and(|world| world.small_shards)
    }

    pub(super) fn without() -> Option<Guard> {
        WORLD.get().and_then(|world| world.without)
    }
}
