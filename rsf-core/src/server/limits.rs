//! The provider's limits: a threshold per method, and the instance's pool with its queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::stack::{InboundCall, Stage};
use crate::error::framework_status;
use crate::message::Response;
use crate::outcome::Reason;
use crate::permits::Permits;
use crate::policy::ProviderRules;
use crate::status::Status;
use crate::wire::Frame;

/// How many calls of a method may be under way, waiting ones included. One more is refused at once.
pub(super) struct MethodLimit {
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl MethodLimit {
    pub(super) fn new() -> Self {
        MethodLimit {
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
        }
    }

    pub(super) fn set(&self, most: Option<u32>) {
        self.most
            .store(most.map_or(usize::MAX, |most| most as usize), Ordering::Relaxed);
    }

    fn enter(&self) -> Result<Place<'_>, usize> {
        let most = self.most.load(Ordering::Relaxed);
        enter(&self.under_way, most).ok_or(most)
    }
}

/// A place of the counter unless `most` are taken. A refusal takes none, not even for a moment.
fn enter(counter: &AtomicUsize, most: usize) -> Option<Place<'_>> {
    let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
        (n < most).then_some(n + 1)
    });
    taken.is_ok().then(|| Place(counter))
}

/// One of a counter's places; it returns on drop.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Applies the method's threshold.
pub(super) struct Threshold<S> {
    inner: S,
}

impl<S> Threshold<S> {
    pub(super) fn new(inner: S) -> Self {
        Threshold { inner }
    }
}

impl<S: Stage> Stage for Threshold<S> {
    async fn call(&self, call: InboundCall) -> Result<Response<Frame>, Status> {
        let method = call.method.clone();
        let _place = method.limit.enter().map_err(|most| {
            let problem = format!(
                "{} has {most} calls under way in this instance, its threshold (policy provider.concurrency)",
                method.path
            );
            framework_status(Reason::ProviderLimit, problem)
        })?;
        self.inner.call(call).await
    }
}

/// The instance's pool and queue, as policy has them now.
pub(super) struct PoolLimits {
    running: Arc<Permits>,
    waiting: AtomicUsize,
    queue: AtomicUsize,
}

impl PoolLimits {
    pub(super) fn new() -> Self {
        let built_in = ProviderRules::default();
        PoolLimits {
            running: Permits::new(built_in.pool as usize),
            waiting: AtomicUsize::new(0),
            queue: AtomicUsize::new(built_in.queue as usize),
        }
    }

    pub(super) fn set(&self, rules: &ProviderRules) {
        self.running.resize(rules.pool as usize);
        self.queue.store(rules.queue as usize, Ordering::Relaxed);
    }
}

/// Lets a bounded number of handlers run and a bounded number of calls wait for them, first come, first served. A call
/// whose deadline passes while it waits leaves the queue by itself.
pub(super) struct Pool<S> {
    inner: S,
    limits: Arc<PoolLimits>,
}

impl<S> Pool<S> {
    pub(super) fn new(inner: S, limits: Arc<PoolLimits>) -> Self {
        Pool { inner, limits }
    }
}

impl<S: Stage> Stage for Pool<S> {
    async fn call(&self, mut call: InboundCall) -> Result<Response<Frame>, Status> {
        let limits = &*self.limits;
        let permit = match limits.running.try_acquire() {
            Some(permit) => permit,
            None => {
                let queue = limits.queue.load(Ordering::Relaxed);
                let _waiting = enter(&limits.waiting, queue).ok_or_else(|| {
                    let problem =
                        format!("{queue} calls wait in this instance, its queue (policy provider.queue)");
                    framework_status(Reason::QueueFull, problem)
                })?;
                limits.running.acquire().await
            }
        };
        call.permit = Some(permit);
        self.inner.call(call).await
    }
}
