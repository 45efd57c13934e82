//! Methods that share a limit, and the parts of pool and queue that a method or a group may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::threshold::Counter;
use crate::policy::LimitGroupPolicy;

/// Methods of one service that share limits.
#[derive(Debug)]
pub(in crate::server) struct Group {
    pub(super) name: String,
    pub(super) threshold: Counter,
    pub(super) share: Arc<Share>,
}

impl Group {
    pub(super) fn new(name: &str) -> Arc<Group> {
        Arc::new(Group {
            name: name.to_owned(),
            threshold: Counter::default(),
            share: Share::new(),
        })
    }

    pub(super) fn set(&self, policy: &LimitGroupPolicy) {
        self.threshold.set(policy.concurrency);
        self.share.set(policy.pool_share, policy.queue_share);
    }
}

/// A part of pool and queue, in percent. It counts from the moment that a policy sets it: calls that run already are
/// none of it.
#[derive(Debug)]
pub(super) struct Share {
    pool_percent: AtomicU32,
    queue_percent: AtomicU32,
    running: AtomicUsize,
    waiting: AtomicUsize,
}

const WHOLE: u32 = 100;

impl Share {
    pub(super) fn new() -> Arc<Share> {
        Arc::new(Share {
            pool_percent: AtomicU32::new(WHOLE),
            queue_percent: AtomicU32::new(WHOLE),
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Whether it limits anything then.
    pub(super) fn set(&self, pool: Option<u32>, queue: Option<u32>) -> bool {
        self.pool_percent.store(pool.unwrap_or(WHOLE), Ordering::Relaxed);
        self.queue_percent
            .store(queue.unwrap_or(WHOLE), Ordering::Relaxed);
        self.limits()
    }

    pub(super) fn limits(&self) -> bool {
        self.pool_percent.load(Ordering::Relaxed) < WHOLE
            || self.queue_percent.load(Ordering::Relaxed) < WHOLE
    }
}

/// `percent` of `whole`, rounded up, so that the smallest part of the smallest pool is still a place.
fn part(whole: usize, percent: u32) -> usize {
    (whole * percent as usize).div_ceil(WHOLE as usize)
}

/// The shares that hold for one call; none for most. They are entered under the queue's lock, so that a look and the
/// step after it are one.
#[derive(Debug, Default, Clone)]
pub(super) struct Shares(pub(super) Option<Arc<Vec<Arc<Share>>>>);

impl Shares {
    fn all(&self) -> impl Iterator<Item = &Arc<Share>> {
        self.0.iter().flat_map(|shares| shares.iter())
    }

    pub(super) fn may_run(&self, pool: usize) -> bool {
        self.all().all(|share| {
            let most = part(pool, share.pool_percent.load(Ordering::Relaxed));
            share.running.load(Ordering::Relaxed) < most
        })
    }

    /// The share of the queue that is full, as a number of calls; `None` where one more may wait.
    pub(super) fn full(&self, queue: usize) -> Option<usize> {
        self.all().find_map(|share| {
            let most = part(queue, share.queue_percent.load(Ordering::Relaxed));
            (share.waiting.load(Ordering::Relaxed) >= most).then_some(most)
        })
    }

    pub(super) fn begin_to_wait(&self) {
        self.all().for_each(|share| {
            share.waiting.fetch_add(1, Ordering::Relaxed);
        });
    }

    pub(super) fn end_to_wait(&self) {
        self.all().for_each(|share| {
            share.waiting.fetch_sub(1, Ordering::Relaxed);
        });
    }

    pub(super) fn begin_to_run(&self) {
        self.all().for_each(|share| {
            share.running.fetch_add(1, Ordering::Relaxed);
        });
    }

    pub(super) fn end_to_run(&self) {
        if self.0.is_some() {
            self.all().for_each(|share| {
                share.running.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}
