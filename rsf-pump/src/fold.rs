//! The fold: leases in, service → instances lists out; pure, synchronous, and with no clock of its own.

mod held;
mod known;
mod places;

mod claims;
mod listing;
mod members;
mod slots;

mod leave;
mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rsf_registry::lease::LiveLease;
use rsf_registry::record::{ListedInstance, Removal};
use rsf_registry::world::Guard;

use claims::Claims;
use held::{ServiceId, Shared};
use known::{Copy, Known};
pub use leave::FindingAges;
use members::Members;
pub use places::Place;
use places::Places;
pub use restore::LastView;
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

/// A sweep whose leases are being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweeping {
    source: usize,
    /// When it was asked for.
    asked: Duration,
    number: u64,
    alive_before: usize,
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
///
/// A list keeps no more than the places of its instances: what it says of them is made of their leases when it is asked
/// for, and what leases say alike is kept once.
#[derive(Debug, Default)]
pub struct Fold {
    places: Places,
    shared: Shared,
    claims: Claims,
    /// By their ids.
    services: Vec<Members>,
    suspects: BTreeSet<Place>,
    changed: BTreeMap<ServiceId, Slots>,
    removed: Vec<(ServiceId, Removal)>,
    sweeps: u64,
}

impl Fold {
    /// A fold of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a lease that `source` has. `asked` is when the question was sent, so that the deadline is never guessed
    /// too late. An older incarnation or sequence than this source told before is ignored; one that is older than what
    /// another source told shows that the instance was there, and changes no list. Answers where the instance stands.
    pub fn observe(&mut self, at: Moment, source: usize, asked: Duration, live: LiveLease) -> Option<Place> {
        let LiveLease { lease, remaining } = live;
        if lease.instance.is_empty() {
            tracing::warn!(
                application = lease.application,
                "a lease names no instance; it is ignored"
            );
            return None;
        }
        let remaining = remaining.min(LONGEST_TTL);
        let order = (lease.incarnation, lease.sequence);
        let sweep = self.sweeps;
        let found = self.places.find(&lease.instance);
        let place = found.unwrap_or_else(|| {
            let held = self.shared.hold(&lease);
            self.places
                .insert(Known::new(lease.instance.as_str().into(), held))
        });
        let known = self.places.get_mut(place)?;
        match known.copy(source) {
            Some(copy) if order < copy.order && Guard::Order.stands() => return Some(place),
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
            None => known.add(Copy {
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
        let again = known.suspect || known.left.is_some();
        let newer = order > known.order() || !Guard::Order.stands();
        if found.is_none() || newer || (order == known.order() && again) {
            let held = match found {
                Some(_) => self.shared.hold(&lease),
                None => known.held.clone(),
            };
            self.replace(at, place, held);
        }
        Some(place)
    }

    /// Takes in that `source` did not have this lease when it was asked. Nothing leaves a list by this alone.
    pub fn missing(&mut self, source: usize, asked: Duration, instance: &str) {
        let Some(place) = self.places.find(instance) else {
            return;
        };
        let Some(known) = self.places.get_mut(place) else {
            return;
        };
        let Some(copy) = known.copy(source) else {
            return;
        };
        if copy.confirmed <= asked && !copy.missing {
            copy.missing = true;
            known.suspect = true;
            self.suspects.insert(place);
        }
    }

    /// Takes in all leases that `source` has; whoever was there and is not among them is missing.
    pub fn sweep(&mut self, at: Moment, source: usize, asked: Duration, leases: Vec<LiveLease>) -> Swept {
        let sweeping = self.begin_sweep(source, asked);
        for live in leases {
            self.observe(at, source, asked, live);
        }
        self.end_sweep(at, sweeping)
    }

    /// Begins to take in all leases that `source` has: each is then [observed](Fold::observe), others may be meanwhile.
    pub fn begin_sweep(&mut self, source: usize, asked: Duration) -> Sweeping {
        self.sweeps += 1;
        let alive = self.places.iter().filter(|(_, known)| known.is_alive_on(source));
        Sweeping {
            source,
            asked,
            number: self.sweeps,
            alive_before: alive.count(),
        }
    }

    /// Ends a sweep: whoever was on its source and was not observed there since it began is missing.
    pub fn end_sweep(&mut self, at: Moment, sweeping: Sweeping) -> Swept {
        let Sweeping {
            source,
            asked,
            number,
            alive_before,
        } = sweeping;
        let mut swept = Swept {
            alive_before,
            vanished: 0,
        };
        for (place, known) in self.places.iter_mut() {
            let alive = known.is_alive_on(source);
            let Some(copy) = known.copy(source) else {
                continue;
            };
            if copy.sweep >= number || copy.confirmed > asked || copy.missing {
                continue;
            }
            if alive && copy.deadline > at.elapsed + copy.ttl / 10 {
                swept.vanished += 1;
            }
            copy.missing = true;
            if !std::mem::replace(&mut known.suspect, true) {
                self.suspects.insert(place);
            }
        }
        swept
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let services = std::mem::take(&mut self.changed).into_iter();
        let removed = std::mem::take(&mut self.removed).into_iter();
        let key = |service: ServiceId| self.shared.key(service).to_owned();
        Changes {
            services: services.map(|(service, slots)| (key(service), slots)).collect(),
            removed: removed
                .map(|(service, removal)| (key(service), removal))
                .collect(),
        }
    }

    /// Where an instance stands; `None` for one that is not known.
    pub fn place(&self, instance: &str) -> Option<Place> {
        self.places.find(instance)
    }

    /// The id of the instance at a place; empty where nobody stands there any more.
    pub fn id(&self, place: Place) -> Arc<str> {
        self.places
            .get(place)
            .map(|known| known.id.clone())
            .unwrap_or_default()
    }

    /// When `source` wants to be asked for an instance: its lease there runs out, or the published list that alone names
    /// it is no longer enough. `None` for an instance that is not known, or known to be missing there.
    pub fn deadline(&self, source: usize, place: Place) -> Option<Duration> {
        self.places.get(place).and_then(|known| known.deadline(source))
    }

    /// Whether any list has this instance.
    pub fn is_listed(&self, instance: &str) -> bool {
        let known = self
            .places
            .find(instance)
            .and_then(|place| self.places.get(place));
        known.is_some_and(Known::is_listed)
    }

    /// The list of one service, sorted by instance, and who left it last; empty where there is none.
    pub fn list(&self, service: &str) -> (Vec<ListedInstance>, Vec<Removal>) {
        let Some((service, members)) = self.members(service) else {
            return (Vec::new(), Vec::new());
        };
        let mut instances = self.entries(service, members.iter());
        instances.sort_unstable_by(|a, b| a.instance.cmp(&b.instance));
        (instances, members.removed())
    }

    /// One shard of a service's list, of `shards`. The cost is the shard's.
    pub fn shard(&self, service: &str, index: usize, shards: usize) -> Vec<ListedInstance> {
        let members = self.members(service);
        members
            .map(|(service, members)| self.entries(service, members.shard(index, shards)))
            .unwrap_or_default()
    }

    fn entries(&self, service: ServiceId, places: impl Iterator<Item = Place>) -> Vec<ListedInstance> {
        let known = places.filter_map(|place| self.places.get(place));
        known.map(|known| known.held.entry(&known.id, service)).collect()
    }

    fn members(&self, service: &str) -> Option<(ServiceId, &Members)> {
        let service = self.shared.find(service)?;
        Some((service, self.services.get(service.index())?))
    }

    /// Who left a service last.
    pub fn removed(&self, service: &str) -> Vec<Removal> {
        let members = self.members(service);
        members.map(|(_, members)| members.removed()).unwrap_or_default()
    }

    /// How many instances stand in a service's list.
    pub fn count(&self, service: &str) -> usize {
        self.members(service).map_or(0, |(_, members)| members.len())
    }

    /// The keys of all services that ever had a list, sorted.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        let exists = |service: ServiceId| {
            let members = self.services.get(service.index());
            members.is_some_and(|members| members.exists)
        };
        let keys = self.shared.keys().filter(|(service, _)| exists(*service));
        let mut keys: Vec<&str> = keys.map(|(_, key)| key).collect();
        keys.sort_unstable();
        keys.into_iter()
    }

    /// How many services ever had a list.
    pub fn service_count(&self) -> usize {
        self.services.iter().filter(|members| members.exists).count()
    }

    /// How many leases are known, tombstones and pure consumers included.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.places.len() == 0
    }

    /// How many listed instances no source has confirmed: `since` says for each source from when on its word counts.
    pub fn unconfirmed(&self, since: impl Fn(usize) -> Duration) -> usize {
        let confirmed = |known: &Known| known.current().any(|copy| copy.confirmed >= since(copy.source));
        let open = |(_, known): &(Place, &Known)| known.is_listed() && !confirmed(known);
        self.places.iter().filter(open).count()
    }
}
