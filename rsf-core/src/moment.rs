//! A moment as the clock said it and as a number: whatever counts in milliseconds does not subtract instants anew.

use std::ops::Add;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// Where the numbers begin. Before anything that runs, paused clocks of tests among them.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

/// An instant, with its milliseconds since a beginning that is the same for the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    instant: Instant,
    millis: u64,
}

impl Moment {
    pub(crate) fn now() -> Moment {
        Instant::now().into()
    }

    /// Where the numbers begin; stands for a moment that is not known yet.
    pub(crate) fn epoch() -> Moment {
        (*EPOCH).into()
    }

    pub(crate) fn instant(self) -> Instant {
        self.instant
    }

    pub(crate) fn millis(self) -> u64 {
        self.millis
    }

    /// The beginning of its millisecond, for simulations: two runs then count alike.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn whole(self) -> Instant {
        *EPOCH + Duration::from_millis(self.millis)
    }

    /// The time since `earlier`; nothing where that is later.
    pub(crate) fn since(self, earlier: Instant) -> Duration {
        self.instant.saturating_duration_since(earlier)
    }
}

impl From<Instant> for Moment {
    fn from(instant: Instant) -> Moment {
        let since = instant.saturating_duration_since(*EPOCH);
        Moment {
            instant,
            millis: since.as_secs() * 1000 + u64::from(since.subsec_millis()),
        }
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        (self.instant + time).into()
    }
}
