//! The leases of one namespace in memory; the file follows behind.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::lease::{LiveLease, Renewal};
use crate::record::{Lease, LeaseState};
use crate::{StoreError, record};

/// The most leases of one namespace; larger fleets use Redis.
const MAX_LEASES: usize = 100_000;

/// What is to be written to the file: a lease with its TTL, or its removal.
pub(super) type Change = (String, Option<(Lease, Duration)>);

/// All leases, and which of them the file does not have yet.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: HashMap<String, Held>,
    unwritten: HashSet<String>,
}

#[derive(Debug)]
struct Held {
    lease: Lease,
    ttl: Duration,
    deadline: Instant,
}

impl Leases {
    /// Takes up what the file held; every lease gets one full TTL to be renewed.
    pub(super) fn load(stored: Vec<(Lease, Duration)>, now: Instant) -> Self {
        let held = |(lease, ttl): (Lease, Duration)| {
            let ttl = ttl.clamp(*crate::limits::TTL.start(), *crate::limits::TTL.end());
            (
                lease.instance.clone(),
                Held {
                    lease,
                    ttl,
                    deadline: now + ttl,
                },
            )
        };
        // Checked as when it was written: one lease of another version must not spoil a whole list.
        let valid = |(lease, _): &(Lease, Duration)| match crate::limits::check_lease(lease) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "left out a stored lease");
                false
            }
        };
        Leases {
            held: stored.into_iter().filter(valid).map(held).collect(),
            unwritten: HashSet::new(),
        }
    }

    pub(super) fn put(&mut self, lease: &Lease, ttl: Duration, now: Instant) -> Result<(), StoreError> {
        let offered = (lease.incarnation, lease.sequence);
        match self.alive(&lease.instance, now) {
            Some(held) if (held.lease.incarnation, held.lease.sequence) > offered => {
                return Err(StoreError::Superseded {
                    instance: lease.instance.clone(),
                    incarnation: held.lease.incarnation,
                    sequence: held.lease.sequence,
                    left: held.lease.state() == LeaseState::Deregistered,
                });
            }
            None if self.held.len() >= MAX_LEASES => {
                return Err(StoreError::Refused {
                    backend: "registry",
                    reason: format!(
                        "it holds {MAX_LEASES} leases, its limit; use Redis and ZooKeeper for larger fleets"
                    ),
                });
            }
            _ => {}
        }
        self.held.insert(
            lease.instance.clone(),
            Held {
                lease: lease.clone(),
                ttl,
                deadline: now + ttl,
            },
        );
        self.unwritten.insert(lease.instance.clone());
        Ok(())
    }

    /// Renews without touching the file: after a restart the lease has its last written TTL anew.
    pub(super) fn renew(&mut self, instance: &str, incarnation: u64, ttl: Duration, now: Instant) -> Renewal {
        let Some(held) = self.held.get_mut(instance) else {
            return Renewal::Unknown;
        };
        let left = held.lease.state == LeaseState::Deregistered as i32;
        if held.deadline <= now || held.lease.incarnation != incarnation || left {
            return Renewal::Unknown;
        }
        held.deadline = now + ttl;
        if held.ttl != ttl {
            held.ttl = ttl;
            self.unwritten.insert(instance.to_owned());
        }
        Renewal::Renewed
    }

    pub(super) fn read(&self, instance: &str, now: Instant) -> Option<LiveLease> {
        let held = self.alive(instance, now)?;
        Some(LiveLease {
            lease: held.lease.clone(),
            remaining: held.deadline - now,
        })
    }

    pub(super) fn all(&self, now: Instant) -> Vec<LiveLease> {
        self.held
            .keys()
            .filter_map(|instance| self.read(instance, now))
            .collect()
    }

    /// Drops what has run out and returns it.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<String> {
        let gone: Vec<String> = self
            .held
            .extract_if(|_, held| held.deadline <= now)
            .map(|(instance, _)| instance)
            .collect();
        self.unwritten.extend(gone.iter().cloned());
        gone
    }

    /// Takes what the file does not have yet.
    pub(super) fn take_unwritten(&mut self) -> Vec<Change> {
        let change = |instance: String| {
            let held = self
                .held
                .get(&instance)
                .map(|held| (held.lease.clone(), held.ttl));
            (instance, held)
        };
        std::mem::take(&mut self.unwritten)
            .into_iter()
            .map(change)
            .collect()
    }

    /// Gives back what could not be written, to be tried again.
    pub(super) fn put_back(&mut self, changes: Vec<Change>) {
        self.unwritten
            .extend(changes.into_iter().map(|(instance, _)| instance));
    }

    fn alive(&self, instance: &str, now: Instant) -> Option<&Held> {
        self.held.get(instance).filter(|held| held.deadline > now)
    }
}

/// The live acknowledgements of one namespace; they are repeated with each renewal, so no file holds them.
#[derive(Debug, Default)]
pub(super) struct Acknowledged {
    /// Scope → instance → record.
    scopes: HashMap<String, HashMap<String, (record::Acknowledgement, Instant)>>,
}

impl Acknowledged {
    /// Takes one; a late one of an earlier start does not replace that of a newer start.
    pub(super) fn put(&mut self, acknowledgement: &record::Acknowledgement, deadline: Instant, now: Instant) {
        let scope = self.scopes.entry(acknowledgement.scope.clone()).or_default();
        if let Some((held, alive_until)) = scope.get(&acknowledgement.instance)
            && *alive_until > now
            && held.incarnation > acknowledgement.incarnation
        {
            return;
        }
        scope.insert(
            acknowledgement.instance.clone(),
            (acknowledgement.clone(), deadline),
        );
    }

    pub(super) fn of(&self, scope: &str, now: Instant) -> Vec<record::Acknowledgement> {
        let alive =
            |(held, deadline): &(record::Acknowledgement, Instant)| (*deadline > now).then(|| held.clone());
        self.scopes
            .get(scope)
            .map(|held| held.values().filter_map(alive).collect())
            .unwrap_or_default()
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.scopes.retain(|_, held| {
            held.retain(|_, (_, deadline)| *deadline > now);
            !held.is_empty()
        });
    }
}
