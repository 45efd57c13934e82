//! This instance's lease: written as soon as the registry can be reached, renewed, and ended on purpose.
//!
//! An instance's incarnation is the time of its start, so that the later of two starts wins. Where a clock stepped back
//! in between, the later start has the smaller one and is refused. It then waits until the lease that stands there has
//! left or has not been seen for a whole TTL, which never happens while its owner renews it, and takes one more than
//! that, or the time if that is greater by now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::beat::Beat;
use crate::backoff::{Backoff, jittered};
use crate::error::REQUEST_TIMEOUT;
use crate::record::{Lease, LeaseState, ProvidedService};
use crate::{LeaseStore, Renewal, StoreError, limits, world};

/// How long the word that an instance left stays in the registry, or twice the lease's TTL where that is longer.
const TOMBSTONE_TTL: Duration = Duration::from_secs(30);

/// What an instance says about itself.
#[derive(Debug, Clone, Default)]
pub struct RegistrationRequest {
    /// The deployed program's name (`order`).
    pub application: String,
    /// The configured name of this copy; without one the advertised address stands for it.
    pub instance: Option<String>,
    /// `host:port` that others use for calls; empty for a pure consumer.
    pub address: String,
    /// `host:port` of the admin port; empty where there is none.
    pub admin_address: String,
    /// The data centre or machine room; may be empty.
    pub zone: String,
    /// Free labels.
    pub tags: HashMap<String, String>,
    /// Relative share of the calls, 0 to 10 000; `None` for 100.
    pub weight: Option<u32>,
    /// What it provides; empty for a pure consumer.
    pub services: Vec<ProvidedService>,
}

/// How a registration stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrationStatus {
    /// The lease is in the registry, as far as is known.
    pub registered: bool,
    /// Why the last attempt to write or renew it failed; `None` after a success.
    pub last_error: Option<Arc<str>>,
    /// Which start of the instance this is: Unix milliseconds, or more where the registry knew of a later one.
    pub incarnation: u64,
    /// Which of the wanted states was written last.
    pub(super) written: u64,
    /// How often the lease was written, and not only renewed.
    pub(super) lease_writes: u64,
}

impl RegistrationStatus {
    /// Whether the instance has left by its own word.
    pub(super) fn has_left(&self) -> bool {
        self.written > 0 && !self.registered && self.last_error.is_none()
    }
}

/// A lease that is kept alive. Dropping it deregisters in the background.
#[derive(Debug)]
pub struct Registration {
    wanted: watch::Sender<Wanted>,
    status: watch::Receiver<RegistrationStatus>,
}

/// The registry did not take a change of the lease in time; it is still being tried.
#[derive(Debug, thiserror::Error)]
#[error("the lease of `{instance}` was not written within {REQUEST_TIMEOUT:?}: {reason}")]
pub struct NotWritten {
    instance: String,
    reason: String,
}

#[derive(Debug, Clone)]
struct Wanted {
    lease: Lease,
    change: u64,
}

impl Registration {
    pub(super) fn start(
        leases: Arc<dyn LeaseStore>,
        request: RegistrationRequest,
        namespace: &str,
        ttl: Duration,
        beat: Arc<Beat>,
    ) -> Result<Self, StoreError> {
        let lease = lease(request, namespace);
        limits::check_lease(&lease)?;
        let (status_sender, status) = watch::channel(RegistrationStatus {
            incarnation: lease.incarnation,
            ..RegistrationStatus::default()
        });
        let keeper = Keeper::new(leases, ttl, beat, lease.incarnation, status_sender);
        let (wanted, wanted_receiver) = watch::channel(Wanted { lease, change: 1 });
        // It is not aborted with the registration: dropping that is the sign to deregister.
        tokio::spawn(keeper.run(wanted_receiver));
        Ok(Registration { wanted, status })
    }

    /// The lease as it is wanted now; its sequence is that of the first write.
    pub fn lease(&self) -> Lease {
        Lease {
            incarnation: self.status.borrow().incarnation,
            ..self.wanted.borrow().lease.clone()
        }
    }

    /// How the registration stands; the receiver is told of every change.
    pub fn status(&self) -> watch::Receiver<RegistrationStatus> {
        self.status.clone()
    }

    /// Says that this instance takes no new calls, and waits until the registry has it.
    ///
    /// # Errors
    /// Where the registry does not take it within the request timeout; it is tried on in the background.
    pub async fn drain(&self) -> Result<(), NotWritten> {
        self.change(|lease| lease.state = LeaseState::Draining.into())
            .await
    }

    /// Replaces the provided services, and waits until the registry has them.
    ///
    /// # Errors
    /// As [`Registration::drain`], and where a name is wrong.
    pub async fn update(&self, services: Vec<ProvidedService>) -> Result<(), NotWritten> {
        let updated = Lease {
            services: services.clone(),
            ..self.lease()
        };
        limits::check_lease(&updated).map_err(|error| NotWritten {
            instance: updated.instance,
            reason: error.to_string(),
        })?;
        self.change(|lease| lease.services = services).await
    }

    /// Leaves: the registry keeps a tombstone for 30 s, so that leaving is not taken for dying.
    ///
    /// # Errors
    /// As [`Registration::drain`]; the lease then ends by its TTL.
    pub async fn deregister(self) -> Result<(), NotWritten> {
        self.change(|lease| lease.state = LeaseState::Deregistered.into())
            .await
    }

    async fn change(&self, change: impl FnOnce(&mut Lease)) -> Result<(), NotWritten> {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            change(&mut wanted.lease);
            wanted.change += 1;
            number = wanted.change;
        });
        let mut status = self.status.clone();
        let written = timeout(
            REQUEST_TIMEOUT,
            status.wait_for(|status| status.written >= number),
        )
        .await;
        if matches!(written, Ok(Ok(_))) {
            return Ok(());
        }
        let reason = self.status.borrow().last_error.clone();
        let reason = reason.map_or_else(
            || "the registry did not answer".to_owned(),
            |reason| reason.to_string(),
        );
        Err(NotWritten {
            instance: self.lease().instance,
            reason,
        })
    }
}

/// How a lease was kept.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Renewed,
    Written,
}

/// The task that keeps the lease.
struct Keeper {
    leases: Arc<dyn LeaseStore>,
    ttl: Duration,
    beat: Arc<Beat>,
    status: watch::Sender<RegistrationStatus>,
    incarnation: u64,
    /// The greatest incarnation that the registry has shown as another's.
    known: u64,
    /// When the registry refused this one for another's last.
    refused_at: Option<Instant>,
    /// Rises with every write.
    sequence: u64,
    /// Which wanted state the store has.
    written: u64,
    /// How often it was written.
    lease_writes: u64,
    /// When a lease was last replaced by a newer one.
    replaced: Option<Instant>,
    alive_until: Instant,
    backoff: Backoff,
}

impl Keeper {
    fn new(
        leases: Arc<dyn LeaseStore>,
        ttl: Duration,
        beat: Arc<Beat>,
        incarnation: u64,
        status: watch::Sender<RegistrationStatus>,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), (ttl / 3).min(Duration::from_secs(2)));
        Keeper {
            leases,
            ttl,
            beat,
            status,
            incarnation,
            known: 0,
            refused_at: None,
            sequence: 0,
            written: 0,
            lease_writes: 0,
            replaced: None,
            alive_until: Instant::now(),
            backoff,
        }
    }

    async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            // An error means that the registration was dropped.
            let dropped = wanted.has_changed().is_err();
            let mut want = wanted.borrow_and_update().clone();
            if dropped && want.lease.state() != LeaseState::Deregistered {
                want.lease.state = LeaseState::Deregistered.into();
                want.change += 1;
            }
            let leaving = want.lease.state() == LeaseState::Deregistered;
            if leaving && self.written >= want.change {
                return;
            }
            let next = match self.keep(&want).await {
                Ok(_) if leaving => return,
                Ok(Kept::Renewed) => self.beat.next(),
                Ok(Kept::Written) => self.beat.next_after_write(),
                // One attempt is owed to those who watch; the TTL does the rest.
                Err(_) if dropped => return,
                Err(error) if error.is_transient() => Instant::now() + self.backoff.next(),
                // A replica that is being promoted refuses writes for a moment, and the lease goes on: there is time
                // for another attempt before it runs out, and for one after that.
                Err(StoreError::Refused { .. }) => Instant::now() + jittered(self.ttl / 6),
                Err(_) => Instant::now() + jittered(self.ttl / 3),
            };
            tokio::select! {
                biased;
                // Also where the registration is dropped.
                _ = wanted.changed() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Renews the lease, or writes it where the store does not have it as it is wanted.
    async fn keep(&mut self, want: &Wanted) -> Result<Kept, StoreError> {
        let result = self.renew_or_put(want).await;
        match &result {
            Ok(kept) => {
                self.lease_writes += u64::from(matches!(kept, Kept::Written));
                self.written = want.change;
                self.alive_until = Instant::now() + self.ttl;
                self.backoff.reset();
                let up = want.lease.state() != LeaseState::Deregistered;
                self.tell(RegistrationStatus {
                    registered: up,
                    last_error: None,
                    incarnation: self.incarnation,
                    written: self.written,
                    lease_writes: self.lease_writes,
                });
            }
            Err(error) => {
                if self.status.borrow().last_error.is_none() {
                    tracing::warn!(instance = want.lease.instance, %error, "the lease could not be kept; it is tried on");
                }
                let registered = self.written > 0 && Instant::now() < self.alive_until;
                let last_error = Some(error.to_string().into());
                self.tell(RegistrationStatus {
                    registered,
                    last_error,
                    incarnation: self.incarnation,
                    written: self.written,
                    lease_writes: self.lease_writes,
                });
            }
        }
        result
    }

    async fn renew_or_put(&mut self, want: &Wanted) -> Result<Kept, StoreError> {
        let stands = self.written == want.change;
        let unsettled = stands && !self.is_settled();
        let renewed = stands
            && !unsettled
            && self
                .leases
                .renew(&want.lease.instance, self.incarnation, self.ttl)
                .await?
                == Renewal::Renewed;
        let leaving = want.lease.state() == LeaseState::Deregistered;
        let put = match renewed {
            true if leaving || !self.outlived_the_other() => return Ok(Kept::Renewed),
            true => Ok(()),
            false if unsettled => self.write(&want.lease).await,
            false => self.put(&want.lease).await,
        };
        match put {
            Err(StoreError::Superseded { left: true, .. }) if !leaving => {}
            // The lease that stood there has run out: nobody renewed it.
            Ok(()) if !leaving && self.outlived_the_other() => {}
            put if unsettled => return put.map(|()| Kept::Renewed),
            put => return put.map(|()| Kept::Written),
        }
        self.incarnation = unix_ms().max(self.known.saturating_add(1));
        tracing::warn!(
            instance = want.lease.instance,
            known = self.known,
            incarnation = self.incarnation,
            "the registry knew of a later start of this instance, so that this one takes a later incarnation; did the clock step back?"
        );
        self.put(&want.lease).await.map(|()| Kept::Written)
    }

    /// Whether the later start that the registry knew of has been silent for a whole TTL. That a write was taken does
    /// not say so: a server that was emptied, or one that stands in for another, takes it while that owner lives. The
    /// owner puts its lease there too within a TTL, and this one is refused again.
    fn outlived_the_other(&self) -> bool {
        let silent = self.refused_at.is_some_and(|at| at.elapsed() >= self.ttl);
        silent && self.known >= self.incarnation
    }

    async fn put(&mut self, lease: &Lease) -> Result<(), StoreError> {
        self.sequence += 1;
        self.write(lease).await?;
        if self.sequence > 1 {
            self.replaced = Some(Instant::now());
        }
        Ok(())
    }

    /// A store that fails over to a replica can go back to the lease before the last change, and renewing would keep
    /// that one alive. Such a lease runs out within a TTL of the change; until the first renewal after that the lease is
    /// written whole, as it is.
    fn is_settled(&self) -> bool {
        self.replaced
            .is_none_or(|replaced| replaced.elapsed() >= self.ttl * 3 / 2)
    }

    async fn write(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let ttl = match lease.state() {
            // It has to outlive what may still stand on another server.
            LeaseState::Deregistered => TOMBSTONE_TTL.max(self.ttl * 2).min(*limits::TTL.end()),
            _ => self.ttl,
        };
        let lease = Lease {
            incarnation: self.incarnation,
            sequence: self.sequence,
            ..lease.clone()
        };
        let put = self.leases.put(&lease, ttl).await;
        if let Err(StoreError::Superseded { incarnation, .. }) = &put {
            self.known = self.known.max(*incarnation);
            self.refused_at = Some(Instant::now());
        }
        put
    }

    fn tell(&self, status: RegistrationStatus) {
        self.status.send_if_modified(|last| {
            let news = *last != status;
            if news {
                *last = status;
            }
            news
        });
    }
}

fn lease(request: RegistrationRequest, namespace: &str) -> Lease {
    let name = match request.instance {
        Some(name) => name,
        None if !request.address.is_empty() => request.address.clone(),
        // Nobody calls a pure consumer, so its name only has to be its own.
        None => format!("consumer-{:016x}", fastrand::u64(..)),
    };
    Lease {
        namespace: namespace.to_owned(),
        instance: format!("{}/{name}", request.application),
        application: request.application,
        incarnation: unix_ms(),
        sequence: 1,
        address: request.address,
        admin_address: request.admin_address,
        zone: request.zone,
        tags: request.tags,
        weight: request.weight.unwrap_or(100),
        services: request.services,
        state: LeaseState::Up.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn unix_ms() -> u64 {
    u64::try_from(world::unix_now().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
