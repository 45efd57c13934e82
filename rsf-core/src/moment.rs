//! A moment as a number: what a call compares, adds up and subtracts on its way, for an instruction each.

use std::ops::Add;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// Where the numbers begin. Before anything that runs, paused clocks of tests among them.
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

/// An instant, as nanoseconds since a beginning that is the same for the whole process. Sums that do not fit (after 584
/// years) stay at the end of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment {
    nanos: u64,
}

impl Moment {
    #[inline(always)]
    pub(crate) fn now() -> Moment {
        let since = Instant::now().saturating_duration_since(*EPOCH);
        // The present fits: no process has run for 584 years.
        let nanos = since.as_secs().wrapping_mul(1_000_000_000);
        Moment {
            nanos: nanos.wrapping_add(u64::from(since.subsec_nanos())),
        }
    }

    /// Where the numbers begin; stands for a moment that is not known yet.
    pub(crate) const fn epoch() -> Moment {
        Moment { nanos: 0 }
    }

    /// For those who wait by the runtime's clock.
    pub(crate) fn instant(self) -> Instant {
        *EPOCH + Duration::from_nanos(self.nanos)
    }

    #[inline(always)]
    pub(crate) fn millis(self) -> u64 {
        self.nanos / 1_000_000
    }

    /// The beginning of its millisecond, for simulations: two runs then count alike.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn whole(self) -> Moment {
        Moment::epoch() + Duration::from_millis(self.millis())
    }

    /// So many milliseconds later.
    #[inline(always)]
    pub(crate) fn plus_millis(self, millis: u64) -> Moment {
        Moment {
            nanos: self.nanos.saturating_add(millis.saturating_mul(1_000_000)),
        }
    }

    /// The time since `earlier`; nothing where that is later.
    #[inline(always)]
    pub(crate) fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }

    /// The same in nanoseconds.
    #[inline(always)]
    pub(crate) fn nanos_since(self, earlier: Moment) -> u64 {
        self.nanos.saturating_sub(earlier.nanos)
    }
}

/// A time in nanoseconds; at most 584 years.
#[inline(always)]
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl From<Instant> for Moment {
    #[inline(always)]
    fn from(instant: Instant) -> Moment {
        Moment::epoch() + instant.saturating_duration_since(*EPOCH)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    #[inline(always)]
    fn add(self, time: Duration) -> Moment {
        let time = time
            .as_secs()
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::from(time.subsec_nanos()));
        Moment {
            nanos: self.nanos.saturating_add(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn moments_follow_the_runtimes_clock() {
        let (instant, moment) = (Instant::now(), Moment::now());
        assert_eq!(moment, instant.into());
        assert_eq!(moment.instant(), instant);
        tokio::time::advance(Duration::from_nanos(1_500_001)).await;
        let later = Moment::now();
        assert_eq!(later.since(moment), Duration::from_nanos(1_500_001));
        assert_eq!(moment.since(later), Duration::ZERO);
        assert_eq!(later.instant(), instant + Duration::from_nanos(1_500_001));
    }

    #[test]
    fn what_does_not_fit_stays_at_the_end_of_time() {
        let moment = Moment::now();
        assert!(moment + Duration::MAX >= moment + Duration::from_secs(1));
        assert_eq!(moment + Duration::MAX + Duration::MAX, moment + Duration::MAX);
        assert_eq!((Moment::epoch() + Duration::from_micros(1_999)).millis(), 1);
    }
}
