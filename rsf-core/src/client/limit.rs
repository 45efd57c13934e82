//! The consumer's own limits: concurrency and rate per method, in each process.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use serde::Serialize;
use tokio::time::Instant;

use super::stack::{Guard, OutboundCall, Outcome};
use crate::error::RpcError;
use crate::outcome::Reason;
use crate::policy::{LimitRules, MethodPolicy};

/// Refuses what this application may not send.
pub(crate) struct Limit {}

impl Guard for Limit {
    type Pass = Option<Place>;

    #[inline(always)]
    fn enter(call: &mut OutboundCall) -> Result<Self::Pass, Outcome> {
        match &call.guards().limit {
            None => Ok(None),
            Some(limit) => limit.enter(call).map_err(Err),
        }
    }
}

/// A method's limits as one snapshot rules them.
pub(crate) struct ConsumerLimit {
    rules: LimitRules,
    /// Calls under way; counted while `concurrency` is set.
    under_way: Arc<AtomicU32>,
    rate: Option<Arc<Rate>>,
    /// The layers that set concurrency and rate.
    origins: [Arc<str>; 2],
}

impl ConsumerLimit {
    /// The limits that policy wants, with what `previous` has counted; `None` where policy wants none.
    pub(super) fn build(
        policy: &MethodPolicy,
        previous: Option<&Arc<ConsumerLimit>>,
    ) -> Option<Arc<ConsumerLimit>> {
        let rules = policy.call.limit;
        if rules.concurrency.is_none() && rules.rate_per_second.is_none() {
            return None;
        }
        let counted = previous.filter(|previous| previous.rules.concurrency.is_some());
        let origin = |field| {
            policy
                .origins
                .get(field)
                .cloned()
                .unwrap_or_else(|| "built-in".into())
        };
        Some(Arc::new(ConsumerLimit {
            rules,
            under_way: counted.map_or_else(Arc::default, |previous| previous.under_way.clone()),
            rate: Rate::build(&rules, previous.and_then(|previous| previous.rate.as_ref())),
            origins: [origin("limit.concurrency"), origin("limit.rate_per_second")],
        }))
    }

    /// A place for a call, which it keeps until its end; the rate's part cannot be given back, so it comes last.
    #[inline(always)]
    fn enter(&self, call: &OutboundCall) -> Result<Option<Place>, RpcError> {
        let path = call.method().path.as_str();
        let refused = |problem: String| {
            RpcError::new(
                Reason::ConsumerLimit,
                false,
                format!("{path}: {problem}; not sent"),
            )
        };
        let place = match self.rules.concurrency {
            None => None,
            Some(most) => {
                Some(Place::take(&self.under_way, most).ok_or_else(|| refused(self.no_place(most)))?)
            }
        };
        match &self.rate {
            Some(rate) if rate.limiter.check().is_err() => Err(refused(format!(
                "this process has begun as many calls as `limit.rate_per_second` of {} allows: {} a second, {} at once",
                self.origins[1], rate.per_second, rate.burst
            ))),
            _ => Ok(place),
        }
    }

    fn no_place(&self, most: u32) -> String {
        format!(
            "{most} calls of this process are under way, as many as `limit.concurrency` of {} allows",
            self.origins[0]
        )
    }

    /// How much of it is used.
    pub(super) fn view(&self) -> LimitView {
        LimitView {
            concurrency: self.rules.concurrency,
            under_way: (self.rules.concurrency).map(|_| self.under_way.load(Ordering::Relaxed)),
            rate_per_second: self.rate.as_ref().map(|rate| rate.per_second.get()),
            burst: self.rate.as_ref().map(|rate| rate.burst.get()),
        }
    }

    /// Why a call of the method at `path` would not be sent now, as far as calls under way are concerned. The rate cannot
    /// be asked without using it up.
    pub(super) fn refusal(&self, path: &str) -> Option<String> {
        let most = self.rules.concurrency?;
        let full = self.under_way.load(Ordering::Relaxed) >= most;
        full.then(|| format!("{path}: {}; not sent", self.no_place(most)))
    }
}

/// What a consumer may send of one method, and what of it is used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LimitView {
    /// Calls that may be under way at once, in this process.
    pub concurrency: Option<u32>,
    /// Those that are; counted only where there is a limit.
    pub under_way: Option<u32>,
    /// Calls that may begin in a second.
    pub rate_per_second: Option<u32>,
    /// Calls of these that may begin at once.
    pub burst: Option<u32>,
}

/// One call under way.
pub(crate) struct Place(Arc<AtomicU32>);

impl Place {
    #[inline(always)]
    fn take(under_way: &Arc<AtomicU32>, most: u32) -> Option<Place> {
        let one_more = |count| (count < most).then_some(count + 1);
        under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| Place(under_way.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, TokioClock, StateInformationMiddleware>;

/// Calls a second, by governor's GCRA.
struct Rate {
    per_second: NonZeroU32,
    burst: NonZeroU32,
    limiter: Limiter,
}

impl Rate {
    fn build(rules: &LimitRules, previous: Option<&Arc<Rate>>) -> Option<Arc<Rate>> {
        let per_second = NonZeroU32::new(rules.rate_per_second?)?;
        let burst = rules.burst.and_then(NonZeroU32::new).unwrap_or(per_second);
        let same = previous.filter(|rate| rate.per_second == per_second && rate.burst == burst);
        if let Some(same) = same {
            return Some(same.clone());
        }
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, TokioClock(Instant::now())).with_middleware();
        let rate = Rate {
            per_second,
            burst,
            limiter,
        };
        // A changed limit is no fresh start: what is used up stays used up.
        if let Some(used) = previous.and_then(|previous| NonZeroU32::new(previous.used())) {
            let _ = rate.limiter.check_n(used.min(burst));
        }
        Some(Arc::new(rate))
    }

    /// How much of the burst is used up. Asking takes one more, so this is for a limiter that goes out of use.
    fn used(&self) -> u32 {
        match self.limiter.check() {
            Ok(state) => self
                .burst
                .get()
                .saturating_sub(state.remaining_burst_capacity() + 1),
            Err(_) => self.burst.get(),
        }
    }
}

/// Tokio's clock, which tests own; governor's default one is the processor's.
#[derive(Debug, Clone)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rate(per_second: u32, burst: Option<u32>, previous: Option<&Arc<Rate>>) -> Arc<Rate> {
        let rules = LimitRules {
            rate_per_second: Some(per_second),
            burst,
            ..LimitRules::default()
        };
        Rate::build(&rules, previous).unwrap()
    }

    fn begin(rate: &Rate, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(rate.limiter.check().is_ok())).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_time() {
        let rate = rate(10, None, None);
        let mut begun = 0;
        for _ in 0..60_000 {
            begun += begin(&rate, 1);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(
            (609..=611).contains(&begun),
            "{begun} in a minute: a burst, then ten a second"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_limit_is_no_fresh_start() {
        let first = rate(10, Some(20), None);
        assert_eq!(begin(&first, 15), 15);
        let same = rate(10, Some(20), Some(&first));
        assert!(Arc::ptr_eq(&same, &first));
        let larger = rate(10, Some(100), Some(&first));
        assert_eq!(begin(&larger, 200), 85);
        let smaller = rate(5, None, Some(&larger));
        assert_eq!(begin(&smaller, 10), 0);
        tokio::time::advance(Duration::from_millis(400)).await;
        assert_eq!(begin(&smaller, 10), 2);
    }

    #[test]
    fn places_come_back() {
        let under_way = Arc::default();
        let one = Place::take(&under_way, 1).unwrap();
        assert!(Place::take(&under_way, 1).is_none());
        let two = Place::take(&under_way, 2);
        assert!(two.is_some());
        drop((one, two));
        assert_eq!(under_way.load(Ordering::Relaxed), 0);
        assert!(Place::take(&under_way, 0).is_none());
    }
}
