//! The provider's limits: how many calls of a method are under way, how many handlers run, how many calls wait.
//!
//! 1. [`threshold`]: a counter per method and per group of methods; one call more is refused at once.
//! 2. [`groups`]: methods that share a counter, or a part of pool and queue.
//! 3. [`pool`]: the handlers that run at once. Where a place is free, entering costs one atomic operation.
//! 4. [`queue`]: the calls that wait for a place: in order of arrival, higher priority first, what is too late dropped.
//! 5. [`handling`]: how long handlers take, which is what "too late" is measured by.
//! 6. [`adaptive`]: a pool whose size follows from that.
//! 7. [`hosted`]: the same for unchanged tonic services.

pub(super) mod threshold;

mod groups;

mod pool;

mod queue;

mod handling;

mod adaptive;

mod hosted;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::Instant;

pub(super) use hosted::HostedLimits;
pub(super) use pool::{Entering, Pool, PoolLimits, PoolPlace};
pub(super) use threshold::{Groups, ThresholdPlace};

use crate::error::framework_status;
use crate::metrics::RefusalMetrics;
use crate::outcome::Reason;
use crate::policy::{Priority, ProviderRules};
use crate::status::Status;
use groups::{Group, Share, Shares};
use handling::Median;
use threshold::Counter;

/// What limits the calls of one method (of an unchanged tonic service: all its methods together).
pub(super) struct MethodLimits {
    /// As messages name it: the path, or the service.
    name: String,
    /// Another one for each in the process.
    number: usize,
    threshold: Counter,
    /// The method's own part of pool and queue.
    share: Arc<Share>,
    /// The groups that the method belongs to; none for most.
    groups: ArcSwapOption<Vec<Arc<Group>>>,
    /// Whether `groups` has any, because looking there costs more than a branch.
    grouped: AtomicBool,
    /// The shares that hold for the method now.
    shares: ArcSwap<Vec<Arc<Share>>>,
    shared: AtomicBool,
    handling: Median,
    /// The rank of the highest priority that a call may have.
    max_priority: AtomicU8,
    refusals: RefusalMetrics,
}

impl MethodLimits {
    pub(super) fn new(name: &str, refusals: RefusalMetrics) -> Arc<Self> {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        Arc::new(MethodLimits {
            name: name.to_owned(),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            threshold: Counter::default(),
            share: Share::new(),
            groups: ArcSwapOption::empty(),
            grouped: AtomicBool::new(false),
            shares: ArcSwap::default(),
            shared: AtomicBool::new(false),
            handling: Median::default(),
            max_priority: AtomicU8::new(Priority::High as u8),
            refusals,
        })
    }

    /// Takes over what policy says of the method called `method`. Calls under way keep the places they have.
    fn set(&self, method: &str, rules: &ProviderRules, groups: &HashMap<String, Arc<Group>>) {
        self.set_max_priority(rules);
        self.threshold.set(rules.concurrency.get(method).copied());
        let member = |name: &&String| {
            let methods = rules.groups.get(*name).and_then(|group| group.methods.as_deref());
            methods.is_some_and(|methods| methods.iter().any(|one| one == method))
        };
        let groups: Vec<_> = rules
            .groups
            .keys()
            .filter(member)
            .filter_map(|name| groups.get(name).cloned())
            .collect();
        let (pool, queue) = (rules.pool_share.get(method), rules.queue_share.get(method));
        let shares = self
            .share
            .set(pool.copied(), queue.copied())
            .then(|| self.share.clone());
        let of_groups = groups.iter().map(|group| group.share.clone());
        let shares: Vec<_> = shares
            .into_iter()
            .chain(of_groups.filter(|share| share.limits()))
            .collect();
        self.shared.store(!shares.is_empty(), Ordering::Relaxed);
        self.shares.store(Arc::new(shares));
        self.grouped.store(!groups.is_empty(), Ordering::Relaxed);
        self.groups.store((!groups.is_empty()).then(|| Arc::new(groups)));
    }

    fn set_max_priority(&self, rules: &ProviderRules) {
        self.max_priority
            .store(rules.max_priority as u8, Ordering::Relaxed);
    }

    /// The highest priority that a call has here, whatever its caller says.
    pub(super) fn max_priority(&self) -> Priority {
        const LOW: u8 = Priority::Low as u8;
        const NORMAL: u8 = Priority::Normal as u8;
        match self.max_priority.load(Ordering::Relaxed) {
            LOW => Priority::Low,
            NORMAL => Priority::Normal,
            _ => Priority::High,
        }
    }

    fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    fn shares(&self) -> Shares {
        Shares(self.is_shared().then(|| self.shares.load_full()))
    }

    fn groups(&self) -> Option<Arc<Vec<Arc<Group>>>> {
        self.grouped
            .load(Ordering::Relaxed)
            .then(|| self.groups.load_full())?
    }

    /// A refusal, counted.
    fn refuse(&self, reason: Reason, problem: impl Into<String>) -> Status {
        self.refusals.count(reason);
        framework_status(reason, problem)
    }
}

/// The limits of one service's methods, as policy has them now.
#[derive(Default)]
pub(super) struct ServiceLimits {
    methods: Vec<(String, Arc<MethodLimits>)>,
    /// By name, and kept for as long as the process lives: calls under way hold places in them.
    groups: HashMap<String, Arc<Group>>,
}

impl ServiceLimits {
    pub(super) fn add(&mut self, method: &str, limits: &Arc<MethodLimits>) {
        self.methods.push((method.to_owned(), limits.clone()));
    }

    pub(super) fn set(&mut self, rules: &ProviderRules) {
        for (name, policy) in &rules.groups {
            let group = self.groups.entry(name.clone());
            group.or_insert_with(|| Group::new(name)).set(policy);
        }
        for (name, limits) in &self.methods {
            limits.set(name, rules, &self.groups);
        }
    }
}

/// The places that a call has taken so far. They are free again when this is dropped: where a handler runs on a thread
/// that cannot be stopped, it goes there.
#[derive(Default)]
pub(super) struct Places {
    pub(super) threshold: Option<ThresholdPlace>,
    /// Whoever only waits for another call, as dedup does, gives it back meanwhile.
    pub(super) pool: Option<PoolPlace>,
}

impl Places {
    /// The handler has returned, and was not dropped: its time counts.
    pub(super) fn finished(&mut self, at: Instant) {
        if let Some(place) = &mut self.pool {
            place.finished(at);
        }
    }
}
