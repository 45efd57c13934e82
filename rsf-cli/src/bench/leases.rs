//! The instances' side: leases written, renewed, replaced and left to die, over a few connections.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use rsf_registry::agent::REPEATED_EVERY;
use rsf_registry::record::{Acknowledgement, Lease, LeaseState};
use rsf_registry::{Backend, RegistryUrl, Renewal, StoreError};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::fleet::{Shape, instance_id};
use crate::Failure;

/// Requests that one connection has under way at most.
const IN_FLIGHT: usize = 128;
/// How often a lease is written before the bench gives up, and the pause between: an instance would go on for ever.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(500);
/// How often renewals that are due are sent.
const TICK: Duration = Duration::from_millis(20);
/// Of so many instances one has its renewals timed.
const TIMED_ONE_IN: usize = 64;
/// How long the word that an instance left stays.
const TOMBSTONE: Duration = Duration::from_secs(30);

/// All leases of the fleet.
pub(super) struct Leases {
    pub(super) shape: Shape,
    pub(super) namespace: String,
    pub(super) ttl: Duration,
    stores: Vec<Backend>,
    /// The incarnation of each instance; those that are dead are not renewed.
    incarnations: Vec<AtomicU64>,
    dead: Vec<AtomicBool>,
    pub(super) counts: Counts,
}

/// What was done since the beginning.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) renewed: AtomicU64,
    /// Renewals of leases that the store did not know; they were written again.
    pub(super) unknown: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Renewals that were sent later than half a TTL after the one before.
    pub(super) late: AtomicU64,
    took: Mutex<Vec<Duration>>,
}

impl Counts {
    /// How long some of the renewals took since this was last asked.
    pub(super) fn took(&self) -> Vec<Duration> {
        std::mem::take(&mut self.took.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Leases {
    pub(super) fn open(
        shape: Shape,
        url: &RegistryUrl,
        namespace: &str,
        ttl: Duration,
        connections: usize,
    ) -> Result<Arc<Leases>, Failure> {
        let stores: Result<Vec<_>, _> = (0..connections).map(|_| Backend::open(url, namespace)).collect();
        let first = unix_ms();
        let instances = shape.instances();
        Ok(Arc::new(Leases {
            shape,
            namespace: namespace.to_owned(),
            ttl,
            stores: stores?,
            incarnations: (0..instances).map(|_| AtomicU64::new(first)).collect(),
            dead: (0..instances).map(|_| AtomicBool::new(false)).collect(),
            counts: Counts::default(),
        }))
    }

    /// Writes the leases of all instances.
    pub(super) async fn register(self: &Arc<Self>) -> Result<(), Failure> {
        self.each(0..self.shape.instances(), async |leases, instance| {
            leases.put(instance, &leases.lease(instance, 1), leases.ttl).await
        })
        .await
    }

    /// Replaces instances as a rolling release does: each drains and leaves, and comes back as another incarnation.
    /// `comes` is told of each just before that.
    pub(super) async fn replace(
        self: &Arc<Self>,
        instances: &[usize],
        comes: impl Fn(usize, u64),
    ) -> Result<(), Failure> {
        self.each(instances.iter().copied(), async |leases, instance| {
            for (sequence, state) in [(2, LeaseState::Draining), (3, LeaseState::Deregistered)] {
                let mut lease = leases.lease(instance, sequence);
                lease.state = state.into();
                let ttl = if state == LeaseState::Draining {
                    leases.ttl
                } else {
                    TOMBSTONE
                };
                leases.put(instance, &lease, ttl).await?;
            }
            comes(instance, leases.next_incarnation(instance));
            leases.put(instance, &leases.lease(instance, 1), leases.ttl).await
        })
        .await
    }

    /// Starts an instance anew without a word of its end, as after a crash. `comes` is told just before.
    pub(super) async fn restart(&self, instance: usize, comes: impl Fn(usize, u64)) -> Result<(), Failure> {
        comes(instance, self.next_incarnation(instance));
        let lease = self.lease(instance, 1);
        Ok(self.put(instance, &lease, self.ttl).await?)
    }

    /// From now on the lease of this instance is not renewed.
    pub(super) fn kill(&self, instance: usize) {
        self.dead[instance].store(true, Ordering::Relaxed);
    }

    pub(super) fn incarnation(&self, instance: usize) -> u64 {
        self.incarnations[instance].load(Ordering::Relaxed)
    }

    /// Renews every living lease three times a TTL, evenly, until the handles are dropped.
    pub(super) fn keep(self: &Arc<Self>) -> Vec<AbortOnDropHandle<()>> {
        (0..self.stores.len())
            .map(|connection| {
                let leases = Arc::clone(self);
                AbortOnDropHandle::new(tokio::spawn(async move { leases.renew_share(connection).await }))
            })
            .collect()
    }

    async fn renew_share(self: Arc<Self>, connection: usize) {
        let own: Vec<usize> = (connection..self.shape.instances())
            .step_by(self.stores.len())
            .collect();
        let period = (self.ttl / 3).as_secs_f64();
        let begun = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = 0;
        loop {
            ticks.tick().await;
            let due = (begun.elapsed().as_secs_f64() / period * own.len() as f64) as usize;
            if due - sent > own.len() / 2 {
                self.counts.late.fetch_add((due - sent) as u64, Ordering::Relaxed);
            }
            let now_due = (sent..due).map(|place| own[place % own.len()]);
            stream::iter(now_due)
                .for_each_concurrent(IN_FLIGHT, |instance| self.renew(instance))
                .await;
            sent = due;
        }
    }

    async fn renew(&self, instance: usize) {
        if self.dead[instance].load(Ordering::Relaxed) {
            return;
        }
        let (store, counts) = (&self.store(instance).leases, &self.counts);
        let incarnation = self.incarnation(instance);
        let begun = Instant::now();
        let renewed = store.renew(&instance_id(instance), incarnation, self.ttl).await;
        if instance.is_multiple_of(TIMED_ONE_IN) {
            counts
                .took
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(begun.elapsed());
        }
        match renewed {
            Ok(Renewal::Renewed) => counts.renewed.fetch_add(1, Ordering::Relaxed),
            // It may just be replaced.
            Ok(Renewal::Unknown) if incarnation != self.incarnation(instance) => 0,
            Ok(Renewal::Unknown) => {
                let lease = self.lease(instance, 4);
                if store.put(&lease, self.ttl).await.is_err() {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                }
                counts.unknown.fetch_add(1, Ordering::Relaxed)
            }
            Err(_) => counts.failed.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Says that an instance runs the fleet's policy, again where that fails.
    pub(super) async fn acknowledge(&self, instance: usize) {
        let acknowledgement = Acknowledgement {
            instance: instance_id(instance),
            incarnation: self.incarnation(instance),
            application: self.lease(instance, 1).application,
            scope: "fleet".to_owned(),
            revision: 7,
            at_unix_ms: unix_ms(),
            ..Acknowledgement::default()
        };
        let (store, ttl) = (&self.store(instance).acknowledgements, REPEATED_EVERY * 3);
        for _ in 0..TRIES {
            match store
                .acknowledge(std::slice::from_ref(&acknowledgement), ttl)
                .await
            {
                Ok(()) => return,
                Err(_) => self.counts.failed.fetch_add(1, Ordering::Relaxed),
            };
            sleep(PAUSE).await;
        }
    }

    /// Writes a lease, and again where that fails.
    async fn put(&self, instance: usize, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        let mut tried = 1;
        loop {
            match self.store(instance).leases.put(lease, ttl).await {
                Err(_) if tried < TRIES => {
                    tried += 1;
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn each<E>(
        self: &Arc<Self>,
        instances: impl Iterator<Item = usize>,
        work: impl AsyncFn(&Leases, usize) -> Result<(), E>,
    ) -> Result<(), Failure>
    where
        Failure: From<E>,
    {
        let mut running = stream::iter(instances)
            .map(|instance| work(self, instance))
            .buffer_unordered(IN_FLIGHT * self.stores.len());
        while let Some(done) = running.next().await {
            done?;
        }
        Ok(())
    }

    fn lease(&self, instance: usize, sequence: u64) -> Lease {
        self.shape
            .lease(&self.namespace, instance, self.incarnation(instance), sequence)
    }

    fn next_incarnation(&self, instance: usize) -> u64 {
        let next = unix_ms().max(self.incarnation(instance) + 1);
        self.incarnations[instance].store(next, Ordering::Relaxed);
        next
    }

    fn store(&self, instance: usize) -> &Backend {
        &self.stores[instance % self.stores.len()]
    }
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
