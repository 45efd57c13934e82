//! The fold: leases in, service → instances lists out; pure, synchronous, and with no clock of its own.

mod known;
mod listing;
mod members;
mod slots;

mod leave;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use rsf_registry::lease::LiveLease;
use rsf_registry::record::{Lease, ListedInstance, Removal, RemovalCause, ServiceList};
use rsf_registry::world::Guard;

use crate::listed::{entries, is_tombstone, leases};
use known::{Copy, Known, Restored};
pub use leave::FindingAges;
use members::Members;
pub use slots::Slots;

/// No TTL counts as longer than this: a source whose clock jumped back reports hours.
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(600);

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since the pump's start, monotonic: all decisions hang on this.
    pub elapsed: Duration,
    /// Wall clock, Unix milliseconds, for people.
    pub unix_ms: u64,
}

/// What became different since it was last asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// The keys of services whose lists changed, and where.
    pub services: BTreeMap<String, Slots>,
    /// Who left which service, in order.
    pub removed: Vec<(String, Removal)>,
}

/// What a sweep of one source told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// How many leases were known to be alive on that source before it.
    pub alive_before: usize,
    /// How many of them are gone long before their deadlines.
    pub vanished: usize,
}

/// Every known lease and every list. The cost of an event follows the change, not the size of the fleet.
///
/// Lists are decided by the leases alone: of an instance's leases on several sources the one with the greatest
/// `(incarnation, sequence)` counts, and of all leases with one address the one with the greatest
/// `(incarnation, instance)` is listed. An instance that no source has any more stays until [`Fold::reap`] lets it go.
/// Sources go by their places in the pump's list.
#[derive(Debug, Default)]
pub struct Fold {
    instances: HashMap<String, Known>,
    claims: HashMap<String, BTreeSet<(u64, String)>>,
    services: BTreeMap<String, Members>,
    suspects: BTreeSet<String>,
    changes: Changes,
    sweeps: u64,
}

impl Fold {
    /// A fold of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a lease that `source` has. `asked` is when the question was sent, so that the deadline is never guessed
    /// too late. An older incarnation or sequence than this source told before is ignored; one that is older than what
    /// another source told shows that the instance was there, and changes no list.
    pub fn observe(&mut self, at: Moment, source: usize, asked: Duration, live: LiveLease) {
        let LiveLease { lease, remaining } = live;
        if lease.instance.is_empty() {
            tracing::warn!(
                application = lease.application,
                "a lease names no instance; it is ignored"
            );
            return;
        }
        let remaining = remaining.min(LONGEST_TTL);
        let order = (lease.incarnation, lease.sequence);
        let sweep = self.sweeps;
        let mut fresh = false;
        let known = match self.instances.get_mut(&lease.instance) {
            Some(known) => known,
            None => {
                fresh = true;
                self.instances.entry(lease.instance.clone()).or_default()
            }
        };
        match known.copy(source) {
            Some(copy) if order < copy.order && Guard::Order.stands() => return,
            Some(copy) => {
                if order != copy.order || copy.missing || asked >= copy.asked {
                    copy.deadline = asked + remaining;
                    copy.asked = asked;
                }
                let same_start = copy.order.0 == order.0;
                copy.ttl = if same_start {
                    copy.ttl.max(remaining)
                } else {
                    remaining
                };
                copy.order = order;
                copy.confirmed = at.elapsed;
                copy.sweep = sweep;
                copy.missing = false;
            }
            None => known.copies.push(Copy {
                source,
                order,
                deadline: asked + remaining,
                ttl: remaining,
                asked,
                confirmed: at.elapsed,
                sweep,
                missing: false,
            }),
        }
        if order > known.order()
            || !Guard::Order.stands()
            || (order == known.order() && (fresh || known.suspect || known.left.is_some()))
        {
            self.replace(at, lease);
        }
    }

    /// Takes in that `source` did not have this lease when it was asked. Nothing leaves a list by this alone.
    pub fn missing(&mut self, source: usize, asked: Duration, instance: &str) {
        let Some(known) = self.instances.get_mut(instance) else {
            return;
        };
        let Some(copy) = known.copy(source) else {
            return;
        };
        if copy.confirmed <= asked && !copy.missing {
            copy.missing = true;
            known.suspect = true;
            self.suspects.insert(instance.to_owned());
        }
    }

    /// Takes in all leases that `source` has; whoever was there and is not among them is missing.
    pub fn sweep(&mut self, at: Moment, source: usize, asked: Duration, leases: Vec<LiveLease>) -> Swept {
        self.sweeps += 1;
        let alive = self.instances.values().filter(|known| known.is_alive_on(source));
        let mut swept = Swept {
            alive_before: alive.count(),
            vanished: 0,
        };
        for live in leases {
            self.observe(at, source, asked, live);
        }
        for (instance, known) in &mut self.instances {
            let alive = known.is_alive_on(source);
            let Some(copy) = known.copy(source) else {
                continue;
            };
            if copy.sweep == self.sweeps || copy.confirmed > asked || copy.missing {
                continue;
            }
            if alive && copy.deadline > at.elapsed + copy.ttl / 10 {
                swept.vanished += 1;
            }
            copy.missing = true;
            if !std::mem::replace(&mut known.suspect, true) {
                self.suspects.insert(instance.clone());
            }
        }
        swept
    }

    /// Takes back published lists as the last known view: whoever stands in them and is not known counts as alive
    /// for one `ttl`, and has to show up in a source until then. Of those that no source has, the lists decide who has
    /// left already: rule R let an earlier leader go at its own pace.
    pub fn restore(&mut self, at: Moment, lists: &[ServiceList], ttl: Duration) {
        for (instance, lease) in leases(lists) {
            let known_newer = self
                .instances
                .get(&instance)
                .is_some_and(|known| known.lease.incarnation >= lease.incarnation);
            if known_newer || self.has_removed(&lease) {
                continue;
            }
            self.instances.entry(instance.clone()).or_default();
            self.replace(at, lease);
            if let Some(known) = self.instances.get_mut(&instance) {
                known.restored = Some(Restored {
                    deadline: at.elapsed + ttl,
                    ttl,
                });
                known.suspect = true;
                self.suspects.insert(instance);
            }
        }
        for list in lists {
            self.realign(at, list);
            self.services
                .entry(list.service.clone())
                .or_default()
                .remember(&list.removed);
        }
    }

    /// Brings what is known in line with one published list.
    ///
    /// Of the instances that no source has, a standby lets others go than the leader whose shadow it is, and at another
    /// pace. What the leader published stands: else a change of leaders would shrink a list faster than rule R admits.
    /// Who left by its word while nobody led was never in a list of this fold: without a reason consumers would keep it.
    fn realign(&mut self, at: Moment, list: &ServiceList) {
        let service = &list.service;
        for removal in &list.removed {
            let held = self.instances.get(&removal.instance).is_some_and(|known| {
                known.lease.incarnation == removal.incarnation
                    && known.listed.contains(service)
                    && !known.lingers()
            });
            if held {
                self.unlist(at, service, &removal.instance, removal.cause());
            }
        }
        for listed in &list.instances {
            let Some(known) = self.instances.get_mut(&listed.instance) else {
                continue;
            };
            if known.listed.contains(service) || known.lease.incarnation < listed.incarnation {
                continue;
            }
            let same_start = known.lease.incarnation == listed.incarnation;
            let members = self.services.entry(service.clone()).or_default();
            let expired = members.has_expired(&listed.instance, listed.incarnation);
            let owner = self.claims.get(&known.lease.address).and_then(BTreeSet::last);
            // What is known of it stood in other lists, and is not its own word.
            let hearsay =
                known.copies.is_empty() && owner.is_some_and(|(_, owner)| *owner == listed.instance);
            if members.has_left(&listed.instance, listed.incarnation) {
                continue;
            }
            if same_start && (expired || hearsay) {
                known.listed.insert(service.clone());
                (known.suspect, known.left) = (true, None);
                self.suspects.insert(listed.instance.clone());
                members.put(listed.clone(), at.unix_ms, &mut self.changes.services, service);
            } else if !expired {
                let lease = &known.lease;
                let said = same_start && !entries(lease).contains_key(service);
                let cause = if said || is_tombstone(lease) {
                    RemovalCause::Deregistered
                } else {
                    // A later start, or another instance at its address.
                    RemovalCause::Evicted
                };
                let removal = members.note(listed, cause, at.unix_ms);
                self.changes.removed.push((service.clone(), removal));
            }
        }
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// When `source` wants to be asked for an instance: its lease there runs out, or the published list that alone names
    /// it is no longer enough. `None` for an instance that is not known, or known to be missing there.
    pub fn deadline(&self, source: usize, instance: &str) -> Option<Duration> {
        self.instances
            .get(instance)
            .and_then(|known| known.deadline(source))
    }

    /// Whether any list has this instance.
    pub fn is_listed(&self, instance: &str) -> bool {
        self.instances
            .get(instance)
            .is_some_and(|known| !known.listed.is_empty())
    }

    /// The list of one service, sorted by instance, and who left it last; empty where there is none.
    pub fn list(&self, service: &str) -> (Vec<ListedInstance>, Vec<Removal>) {
        self.services.get(service).map(Members::list).unwrap_or_default()
    }

    /// One shard of a service's list, of `shards`. The cost is the shard's.
    pub fn shard(&self, service: &str, index: usize, shards: usize) -> Vec<ListedInstance> {
        let members = self.services.get(service);
        members
            .map(|members| members.shard(index, shards))
            .unwrap_or_default()
    }

    /// Who left a service last.
    pub fn removed(&self, service: &str) -> Vec<Removal> {
        self.services
            .get(service)
            .map(Members::removed)
            .unwrap_or_default()
    }

    /// Whether anybody stands in a service's list.
    pub fn has_instances(&self, service: &str) -> bool {
        self.services
            .get(service)
            .is_some_and(|members| members.len() > 0)
    }

    /// The keys of all services that ever had a list, sorted.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// How many leases are known, tombstones and pure consumers included.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// How many listed instances no source has confirmed: `since` says for each source from when on its word counts.
    pub fn unconfirmed(&self, since: impl Fn(usize) -> Duration) -> usize {
        let confirmed = |known: &Known| known.current().any(|copy| copy.confirmed >= since(copy.source));
        let open = |known: &&Known| !known.listed.is_empty() && !confirmed(known);
        self.instances.values().filter(open).count()
    }

    fn has_removed(&self, lease: &Lease) -> bool {
        entries(lease).keys().all(|service| {
            let members = self.services.get(service);
            members.is_some_and(|members| members.has_left(&lease.instance, lease.incarnation))
        })
    }
}
