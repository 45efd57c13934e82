//! The instance's pool: so many handlers run at once, and the calls beyond wait in the queue.
//!
//! [`joining`] has who may wait, and for how long; [`waiting`] has a waiting call's own side.

mod place;

mod joining;
mod waiting;

pub(in crate::server) use place::PoolPlace;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::MethodLimits;
use super::adaptive::Learning;
use super::groups::Shares;
use super::handling::Mean;
use super::queue::{Left, Queue};
use crate::context::Context;
use crate::message::Response;
use crate::metrics::{PoolMetrics, PoolNow};
use crate::policy::{Priority, ProviderRules};
use crate::server::stack::{InboundCall, Stage};
use crate::status::Status;
use crate::wire::Frame;
use place::Timed;
use waiting::Granted;

/// One waiting call in [`PoolLimits::counts`]; one running call is 1.
const WAITING: u64 = 1 << 32;

/// No limit to the wait but the call's own deadline.
const NO_TIMEOUT: u64 = 0;

/// The instance's pool and queue, as policy has them now.
pub(in crate::server) struct PoolLimits {
    /// Running calls in the lower half, waiting ones in the upper: one word, so that whoever leaves knows whether
    /// somebody waits, and whoever comes overtakes nobody.
    counts: AtomicU64,
    /// Places of the pool: policy's, or the learned limit.
    size: AtomicUsize,
    queue_length: AtomicUsize,
    /// Milliseconds.
    queue_timeout: AtomicU64,
    queue: Mutex<Queue>,
    mean: Mean,
    learning: Learning,
    metrics: PoolMetrics,
}

/// What a call brings that has to wait.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Entering {
    pub(in crate::server) deadline: Option<Instant>,
    pub(in crate::server) priority: Priority,
}

impl Entering {
    pub(super) fn of(context: &Context) -> Self {
        Entering {
            deadline: context.deadline(),
            priority: context.priority(),
        }
    }
}

fn running(counts: u64) -> usize {
    (counts % WAITING) as usize
}

fn waiting(counts: u64) -> usize {
    (counts / WAITING) as usize
}

impl PoolLimits {
    pub(in crate::server) fn new(metrics: PoolMetrics) -> Arc<Self> {
        let built_in = ProviderRules::default();
        let limits = Arc::new(PoolLimits {
            counts: AtomicU64::new(0),
            size: AtomicUsize::new(built_in.pool as usize),
            queue_length: AtomicUsize::new(built_in.queue as usize),
            queue_timeout: AtomicU64::new(NO_TIMEOUT),
            queue: Mutex::default(),
            mean: Mean::default(),
            learning: Learning::new(),
            metrics: metrics.clone(),
        });
        let shown = Arc::downgrade(&limits);
        metrics.show(move || {
            let limits = shown.upgrade()?;
            let counts = limits.counts.load(Ordering::Relaxed);
            Some(PoolNow {
                running: running(counts),
                waiting: waiting(counts),
                size: limits.size(),
            })
        });
        limits
    }

    /// Takes over what policy says. Places that are out stay valid; a smaller pool is reached as they return.
    pub(in crate::server) fn set(self: &Arc<Self>, rules: &ProviderRules) {
        let learned = self.learning.set(rules.adaptive);
        self.queue_length.store(rules.queue as usize, Ordering::Relaxed);
        let timeout = rules.queue_timeout_ms.unwrap_or(NO_TIMEOUT);
        self.queue_timeout.store(timeout, Ordering::Relaxed);
        self.resize(learned.unwrap_or(rules.pool as usize));
    }

    fn resize(self: &Arc<Self>, size: usize) {
        if self.size.swap(size, Ordering::Relaxed) < size {
            self.serve_waiting();
        }
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Running and waiting calls over the pool's size as it is now: 1 is full, more is a queue.
    pub(in crate::server) fn utilization(&self) -> f32 {
        let counts = self.counts.load(Ordering::Relaxed);
        (running(counts) + waiting(counts)) as f32 / self.size().max(1) as f32
    }

    /// Takes a place, or waits for one. `entering` is asked for only where that is needed.
    ///
    /// # Errors
    /// The status to refuse the call with: the queue is full, or takes longer than the call can wait.
    pub(in crate::server) async fn enter(
        self: &Arc<Self>,
        method: &Arc<MethodLimits>,
        entering: impl FnOnce() -> Entering,
    ) -> Result<PoolPlace, Status> {
        if self.take_at_once(method) {
            return Ok(self.place(method, Shares::default(), Instant::now));
        }
        match self.join(method, entering())? {
            Ok(place) => Ok(place),
            Err(waiting) => waiting.granted().await,
        }
    }

    /// Takes a place where one is free and nobody waits, for methods without shares of their own; until
    /// [`PoolLimits::leave`].
    #[inline(always)]
    pub(in crate::server) fn take_at_once(&self, method: &MethodLimits) -> bool {
        !method.is_shared() && self.take(0)
    }

    /// The call that has taken a place is over.
    #[inline(always)]
    pub(in crate::server) fn leave(self: &Arc<Self>) {
        // AcqRel: whoever begins to wait after this sees the share's place free, and whoever did before is seen here.
        if waiting(self.counts.fetch_sub(1, Ordering::AcqRel)) > 0 {
            self.serve_waiting();
        }
    }

    /// Whether a call's handler is timed: one in eight; where a limit is learned, or nothing is known yet, all.
    #[inline(always)]
    pub(in crate::server) fn is_timed(&self, method: &MethodLimits) -> bool {
        fastrand::u8(..) < 32 || self.learning.is_enabled() || method.handling.is_unknown()
    }

    /// How long the handler of a call that is timed took. Where it was dropped, that says only that it takes at least as long.
    pub(in crate::server) fn timed(self: &Arc<Self>, method: &MethodLimits, took: Duration, returned: bool) {
        if !returned && took < method.handling.get() {
            return;
        }
        method.handling.add(took);
        self.mean.add(took);
        if self.learning.is_enabled()
            && let Some(size) = self
                .learning
                .add(took, running(self.counts.load(Ordering::Relaxed)))
        {
            self.resize(size);
        }
    }

    /// Takes a place where one is free and no more than `others` wait.
    #[inline(always)]
    fn take(&self, others: usize) -> bool {
        let size = self.size();
        let taken = self
            .counts
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |counts| {
                (running(counts) < size && waiting(counts) <= others).then_some(counts + 1)
            });
        taken.is_ok()
    }

    /// The place that has just been taken.
    fn place(
        self: &Arc<Self>,
        method: &Arc<MethodLimits>,
        shares: Shares,
        now: impl FnOnce() -> Instant,
    ) -> PoolPlace {
        PoolPlace {
            shares,
            timed: self.is_timed(method).then(|| Timed {
                method: method.clone(),
                begun: now(),
            }),
            pool: self.clone(),
        }
    }

    #[cold]
    fn serve_waiting(self: &Arc<Self>) {
        let mut granted = Granted::default();
        let mut queue = self.queue.lock();
        self.serve(&mut queue, Instant::now(), &mut granted);
    }

    /// Hands free places to those who wait. While somebody waits, places are taken under the queue's lock alone.
    fn serve(self: &Arc<Self>, queue: &mut Queue, now: Instant, granted: &mut Granted) {
        loop {
            let counts = self.counts.load(Ordering::Acquire);
            if waiting(counts) == 0 || running(counts) >= self.size() {
                return;
            }
            let Some(waiter) = queue.next(self.size()) else {
                return;
            };
            waiter.shares.end_to_wait();
            if waiter.is_too_late(now) {
                self.counts.fetch_sub(WAITING, Ordering::AcqRel);
                granted.0.push((waiter.grant, Err(Left::TooLate)));
                continue;
            }
            self.counts.fetch_sub(WAITING - 1, Ordering::AcqRel);
            waiter.shares.begin_to_run();
            // Who waited is timed: when calls wait, it matters how long.
            let place = PoolPlace {
                timed: Some(Timed {
                    method: waiter.method,
                    begun: Instant::now(),
                }),
                shares: waiter.shares,
                pool: self.clone(),
            };
            granted.0.push((waiter.grant, Ok(place)));
        }
    }
}

/// Lets a bounded number of handlers run and a bounded number of calls wait for them.
pub(in crate::server) struct Pool<S> {
    inner: S,
    limits: Arc<PoolLimits>,
}

impl<S> Pool<S> {
    pub(in crate::server) fn new(inner: S, limits: Arc<PoolLimits>) -> Self {
        Pool { inner, limits }
    }
}

impl<S: Stage> Stage for Pool<S> {
    async fn call(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        let (method, context) = (&call.method.limits, &call.context);
        call.places.pool = Some(self.limits.enter(method, || Entering::of(context)).await?);
        self.inner.call(call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::RefusalMetrics;

    /// Calls that come, wait, give up and run on several threads at once: no place is lost, none is given twice.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_place_is_lost_or_given_twice() {
        const PLACES: usize = 3;
        let registry = prometheus::Registry::new();
        let pool = PoolLimits::new(PoolMetrics::register(&registry).unwrap());
        let rules = ProviderRules {
            pool: PLACES as u32,
            pool_share: [("shared".to_owned(), 50)].into(),
            ..ProviderRules::default()
        };
        pool.set(&rules);
        let methods = ["free", "shared"].map(|name| {
            let method = MethodLimits::new(name, RefusalMetrics::unregistered());
            method.set(name, &rules, &Default::default());
            method
        });
        let inside = Arc::new(AtomicUsize::new(0));
        let calls = (0..4000_u32).map(|number| {
            let (pool, inside) = (pool.clone(), inside.clone());
            let method = methods[number as usize % 2].clone();
            tokio::spawn(async move {
                let entering = || Entering {
                    deadline: None,
                    priority: [Priority::Low, Priority::Normal, Priority::High][number as usize % 3],
                };
                let patience = match number % 5 {
                    0 => Duration::from_micros(50),
                    _ => Duration::from_secs(30),
                };
                let entered = tokio::time::timeout(patience, pool.enter(&method, entering)).await;
                let Ok(Ok(_place)) = entered else {
                    return false;
                };
                assert!(inside.fetch_add(1, Ordering::SeqCst) < PLACES);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                true
            })
        });
        let calls: Vec<_> = calls.collect();
        let mut entered = 0;
        for call in calls {
            entered += usize::from(call.await.unwrap());
        }
        assert!(entered > 1000, "{entered}");
        assert_eq!(pool.counts.load(Ordering::SeqCst), 0);
        assert!(methods[1].shares().may_run(2) && methods[1].shares().full(1).is_none());
    }
}
