//! The fold: leases in, service → instances lists out; pure, synchronous, and with no clock of its own.

mod listing;
mod members;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use rsf_registry::lease::LiveLease;
use rsf_registry::record::{Lease, ListedInstance, Removal, RemovalCause, ServiceList};

use crate::listed::{entries, is_draining, is_tombstone, leases};
use crate::shrink::ShrinkRule;
use members::Members;

/// No TTL counts as longer than this: a source whose clock jumped back reports hours.
const LONGEST_TTL: Duration = Duration::from_secs(600);

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
    /// The keys of services whose lists changed.
    pub services: BTreeSet<String>,
    /// Who left which service, in order.
    pub removed: Vec<(String, Removal)>,
}

/// What a sweep told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// How many leases were known to be alive before it.
    pub alive_before: usize,
    /// How many of them are gone long before their deadlines.
    pub vanished: usize,
}

/// Every known lease and every list. The cost of an event follows the change, not the size of the fleet.
///
/// Lists are decided by the leases alone: of all leases with one address the one with the greatest
/// `(incarnation, instance)` is listed. A lease that the source no longer has stays until [`Fold::reap`] lets it go.
#[derive(Debug, Default)]
pub struct Fold {
    instances: HashMap<String, Known>,
    claims: HashMap<String, BTreeSet<(u64, String)>>,
    services: BTreeMap<String, Members>,
    missing: BTreeSet<String>,
    changes: Changes,
    sweeps: u64,
}

/// One lease as it was last seen.
#[derive(Debug)]
struct Known {
    lease: Lease,
    /// When it runs out unless it is renewed.
    deadline: Duration,
    /// The longest rest of life it was seen with.
    ttl: Duration,
    /// When the question was sent whose answer this is.
    asked: Duration,
    /// When the source last confirmed it; `None` where only a published list names it.
    confirmed: Option<Duration>,
    /// The sweep that saw it last.
    sweep: u64,
    missing: bool,
    listed: BTreeSet<String>,
}

impl Known {
    fn order(&self) -> (u64, u64) {
        (self.lease.incarnation, self.lease.sequence)
    }
}

impl Fold {
    /// A fold of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a lease that the source has. `asked` is when the question was sent, so that the deadline is never
    /// guessed too late. Older incarnations and sequences than the known one are ignored.
    pub fn observe(&mut self, at: Moment, asked: Duration, live: LiveLease) {
        let LiveLease { lease, remaining } = live;
        if lease.instance.is_empty() {
            tracing::warn!(
                application = lease.application,
                "a lease names no instance; it is ignored"
            );
            return;
        }
        let remaining = remaining.min(LONGEST_TTL);
        let Some(known) = self.instances.get_mut(&lease.instance) else {
            let known = Known {
                deadline: asked + remaining,
                ttl: remaining,
                asked,
                confirmed: Some(at.elapsed),
                sweep: self.sweeps,
                missing: false,
                listed: BTreeSet::new(),
                lease: Lease {
                    instance: lease.instance.clone(),
                    ..Lease::default()
                },
            };
            self.instances.insert(lease.instance.clone(), known);
            return self.replace(at, lease);
        };
        let order = (lease.incarnation, lease.sequence);
        if order < known.order() {
            return;
        }
        let unchanged = order == known.order() && known.confirmed.is_some() && !known.missing;
        if !unchanged || asked >= known.asked {
            known.deadline = asked + remaining;
            known.asked = asked;
        }
        known.ttl = if lease.incarnation == known.lease.incarnation {
            known.ttl.max(remaining)
        } else {
            remaining
        };
        known.confirmed = Some(at.elapsed);
        known.sweep = self.sweeps;
        if std::mem::take(&mut known.missing) {
            self.missing.remove(&lease.instance);
        }
        if !unchanged {
            self.replace(at, lease);
        }
    }

    /// Takes in that the source did not have this lease when it was asked. Nothing leaves a list by this alone.
    pub fn missing(&mut self, asked: Duration, instance: &str) {
        let Some(known) = self.instances.get_mut(instance) else {
            return;
        };
        if known.confirmed.is_none_or(|confirmed| confirmed <= asked) && !known.missing {
            known.missing = true;
            self.missing.insert(instance.to_owned());
        }
    }

    /// Takes in all leases that the source has; whoever is not among them is missing.
    pub fn sweep(&mut self, at: Moment, asked: Duration, leases: Vec<LiveLease>) -> Swept {
        self.sweeps += 1;
        let mut swept = Swept {
            alive_before: 0,
            vanished: 0,
        };
        swept.alive_before = self.instances.values().filter(|known| known.is_alive()).count();
        for live in leases {
            self.observe(at, asked, live);
        }
        for (instance, known) in &mut self.instances {
            let seen =
                known.sweep == self.sweeps || known.confirmed.is_some_and(|confirmed| confirmed > asked);
            if seen || known.missing {
                continue;
            }
            if known.is_alive() && known.deadline > at.elapsed + known.ttl / 10 {
                swept.vanished += 1;
            }
            known.missing = true;
            self.missing.insert(instance.clone());
        }
        swept
    }

    /// Takes back published lists as the last known view: whoever stands in them and is not known counts as alive
    /// for one `ttl`, and has to show up in the source until then.
    pub fn restore(&mut self, at: Moment, lists: &[ServiceList], ttl: Duration) {
        for (instance, lease) in leases(lists) {
            let known_newer = self
                .instances
                .get(&instance)
                .is_some_and(|known| known.lease.incarnation >= lease.incarnation);
            if known_newer || self.has_removed(&lease) {
                continue;
            }
            let known = self.instances.entry(instance).or_insert_with(|| Known {
                deadline: at.elapsed + ttl,
                ttl,
                asked: at.elapsed,
                confirmed: None,
                sweep: self.sweeps,
                missing: false,
                listed: BTreeSet::new(),
                lease: Lease {
                    instance: lease.instance.clone(),
                    ..Lease::default()
                },
            });
            known.deadline = at.elapsed + ttl;
            known.confirmed = None;
            self.replace(at, lease);
        }
        for list in lists {
            self.services
                .entry(list.service.clone())
                .or_default()
                .remember(&list.removed);
        }
    }

    /// Lets go what has been missing past its deadline, as far as `rule` admits. Call it after a sweep that went
    /// well: one lost node looks the same as an emptied source, and only a sweep tells the two apart.
    pub fn reap(&mut self, at: Moment, rule: &mut ShrinkRule) {
        let mut leaving: BTreeMap<String, Vec<(Duration, String)>> = BTreeMap::new();
        let mut exempt = Vec::new();
        for instance in &self.missing {
            let Some(known) = self.instances.get(instance) else {
                continue;
            };
            if known.deadline > at.elapsed {
                continue;
            }
            if known.listed.is_empty() || is_draining(&known.lease) {
                exempt.push(instance.clone());
            } else if !rule.distrusted(at.elapsed, known.ttl) {
                for service in &known.listed {
                    leaving
                        .entry(service.clone())
                        .or_default()
                        .push((known.deadline, instance.clone()));
                }
            }
        }
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for instance in exempt {
            self.unlist_everywhere(at, &instance, RemovalCause::Expired);
            gone.insert(instance);
        }
        for (service, mut candidates) in std::mem::take(&mut leaving) {
            candidates.sort();
            let listed = self.services.get(&service).map_or(0, Members::len);
            let admitted = rule.admit(at.elapsed, &service, listed, candidates.len());
            for (_, instance) in candidates.drain(..admitted) {
                self.unlist(at, &service, &instance, RemovalCause::Expired);
                gone.insert(instance);
            }
            leaving.insert(service, candidates);
        }
        rule.settle(at.elapsed, |service| {
            leaving.get(service).is_some_and(|rest| !rest.is_empty())
        });
        for instance in gone {
            if self
                .instances
                .get(&instance)
                .is_some_and(|known| known.listed.is_empty())
            {
                self.forget(at, &instance);
            }
        }
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// When a lease runs out unless it is renewed; `None` for one that is not known or known to be missing.
    pub fn deadline(&self, instance: &str) -> Option<Duration> {
        self.instances
            .get(instance)
            .filter(|known| !known.missing)
            .map(|known| known.deadline)
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

    /// How many listed instances the source has not confirmed since then.
    pub fn unconfirmed(&self, since: Duration) -> usize {
        let open = |known: &&Known| {
            !known.listed.is_empty() && known.confirmed.is_none_or(|confirmed| confirmed < since)
        };
        self.instances.values().filter(open).count()
    }

    fn has_removed(&self, lease: &Lease) -> bool {
        entries(lease).keys().all(|service| {
            let members = self.services.get(service);
            members.is_some_and(|members| members.has_removed(&lease.instance, lease.incarnation))
        })
    }
}

impl Known {
    fn is_alive(&self) -> bool {
        !self.missing && self.confirmed.is_some() && !is_tombstone(&self.lease)
    }
}
