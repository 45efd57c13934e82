//! A lease as the fold keeps it: what many leases say alike is kept once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rsf_registry::record::{Lease, LeaseState, ListedInstance, ProvidedService};

/// The greatest weight that is published.
const GREATEST_WEIGHT: u32 = 10_000;
/// How many shared values are kept before those that nobody uses any more are looked for.
const CLEAN_AT: usize = 4_096;

/// A service, by its place among all that were ever named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServiceId(u32);

impl ServiceId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the fold keeps of one lease.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) address: Arc<str>,
    admin_address: Arc<str>,
    profile: Arc<Profile>,
    state: LeaseState,
}

/// What the instances of one application mostly have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Profile {
    application: Arc<str>,
    zone: Arc<str>,
    /// Sorted.
    tags: Box<[(Arc<str>, Arc<str>)]>,
    weight: u32,
    offer: Arc<Offer>,
}

/// Services with their schemas.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Offer {
    /// Sorted, each once.
    services: Arc<[ServiceId]>,
    /// The schema hash of each.
    schemas: Box<[Arc<str>]>,
}

impl Held {
    pub(super) fn order(&self) -> (u64, u64) {
        (self.incarnation, self.sequence)
    }

    /// Whether the instance has left on purpose.
    pub(super) fn is_tombstone(&self) -> bool {
        self.state == LeaseState::Deregistered
    }

    /// Whether the instance has said that it will leave.
    pub(super) fn is_draining(&self) -> bool {
        self.state == LeaseState::Draining
    }

    /// The services in whose lists it wants to stand; none without an address, and none that is no valid key.
    pub(super) fn services(&self) -> &Arc<[ServiceId]> {
        &self.profile.offer.services
    }

    /// Whether it wants to stand in a service's list.
    pub(super) fn offers(&self, service: ServiceId) -> bool {
        self.services().binary_search(&service).is_ok()
    }

    /// Those services with their schemas.
    pub(super) fn offered(&self) -> BTreeMap<ServiceId, Arc<str>> {
        let offer = &self.profile.offer;
        offer
            .services
            .iter()
            .copied()
            .zip(offer.schemas.iter().cloned())
            .collect()
    }

    fn schema(&self, service: ServiceId) -> Option<&Arc<str>> {
        let offer = &self.profile.offer;
        let place = offer.services.binary_search(&service).ok()?;
        offer.schemas.get(place)
    }

    /// Whether a service's list says the same of both.
    pub(super) fn reads_like(&self, other: &Held, service: ServiceId) -> bool {
        let same = self.incarnation == other.incarnation
            && self.address == other.address
            && self.admin_address == other.admin_address
            && self.state == other.state;
        if !same || Arc::ptr_eq(&self.profile, &other.profile) {
            return same;
        }
        let (mine, theirs) = (&*self.profile, &*other.profile);
        mine.application == theirs.application
            && mine.zone == theirs.zone
            && mine.tags == theirs.tags
            && mine.weight == theirs.weight
            && self.schema(service) == other.schema(service)
    }

    /// What a service's list says of it.
    pub(super) fn entry(&self, instance: &str, service: ServiceId) -> ListedInstance {
        let tags = self.profile.tags.iter();
        ListedInstance {
            instance: instance.to_owned(),
            incarnation: self.incarnation,
            application: self.profile.application.to_string(),
            address: self.address.to_string(),
            admin_address: self.admin_address.to_string(),
            zone: self.profile.zone.to_string(),
            tags: tags
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            weight: self.profile.weight,
            state: self.state.into(),
            schema_hash: self
                .schema(service)
                .map(|schema| schema.to_string())
                .unwrap_or_default(),
        }
    }
}

/// Everything that leases share: names, and what is made of them.
#[derive(Debug, Default)]
pub(super) struct Shared {
    services: HashMap<Arc<str>, ServiceId>,
    keys: Vec<Arc<str>>,
    strings: HashSet<Arc<str>>,
    offers: HashSet<Arc<Offer>>,
    profiles: HashSet<Arc<Profile>>,
    clean_at: usize,
}

impl Shared {
    /// A lease as it is kept.
    pub(super) fn hold(&mut self, lease: &Lease) -> Held {
        let state = match lease.state() {
            state @ (LeaseState::Deregistered | LeaseState::Draining) => state,
            _ => LeaseState::Up,
        };
        let mut offered = BTreeMap::new();
        if !lease.address.is_empty() && state != LeaseState::Deregistered {
            for service in &lease.services {
                match self.service_of(service) {
                    Some(id) => drop(offered.insert(id, self.string(&service.schema_hash))),
                    None => tracing::warn!(
                        instance = lease.instance,
                        service = service.name,
                        implementation = service.implementation,
                        "a lease names a service that is no valid key; it is not listed"
                    ),
                }
            }
        }
        let profile = self.profile(
            &lease.application,
            &lease.zone,
            &lease.tags,
            lease.weight,
            offered,
        );
        Held {
            incarnation: lease.incarnation,
            sequence: lease.sequence,
            address: lease.address.as_str().into(),
            admin_address: lease.admin_address.as_str().into(),
            profile,
            state,
        }
    }

    /// The lease that entries of lists stand for.
    pub(super) fn hold_listed(&mut self, listed: &ListedInstance) -> Held {
        let profile = self.profile(
            &listed.application,
            &listed.zone,
            &listed.tags,
            listed.weight,
            BTreeMap::new(),
        );
        Held {
            incarnation: listed.incarnation,
            sequence: 0,
            address: listed.address.as_str().into(),
            admin_address: listed.admin_address.as_str().into(),
            profile,
            state: if listed.state() == LeaseState::Draining {
                LeaseState::Draining
            } else {
                LeaseState::Up
            },
        }
    }

    /// A lease of another fold's or view's, with these services and schemas.
    pub(super) fn adopt(&mut self, other: &Held, offered: BTreeMap<ServiceId, Arc<str>>) -> Held {
        let theirs = &*other.profile;
        let tags = theirs.tags.iter();
        let profile = Profile {
            application: self.string(&theirs.application),
            zone: self.string(&theirs.zone),
            tags: tags
                .map(|(key, value)| (self.string(key), self.string(value)))
                .collect(),
            weight: theirs.weight,
            offer: self.offer(offered),
        };
        Held {
            profile: self.share_profile(profile),
            ..other.clone()
        }
    }

    /// The same with these services and schemas.
    pub(super) fn offering(&mut self, mut held: Held, offered: BTreeMap<ServiceId, Arc<str>>) -> Held {
        let offer = self.offer(offered);
        let profile = Profile {
            application: held.profile.application.clone(),
            zone: held.profile.zone.clone(),
            tags: held.profile.tags.clone(),
            weight: held.profile.weight,
            offer,
        };
        held.profile = self.share_profile(profile);
        held
    }

    /// A service by its key, known from now on; `None` for what is no key.
    pub(super) fn service(&mut self, key: &str) -> Option<ServiceId> {
        if let Some(known) = self.services.get(key) {
            return Some(*known);
        }
        let (name, implementation) = key.split_once(':').unwrap_or((key, ""));
        if !is_key(name, implementation, key.len()) {
            return None;
        }
        let id = ServiceId(u32::try_from(self.keys.len()).ok()?);
        let key: Arc<str> = key.into();
        self.keys.push(key.clone());
        self.services.insert(key, id);
        Some(id)
    }

    fn service_of(&mut self, service: &ProvidedService) -> Option<ServiceId> {
        if service.name.contains(':') {
            return None;
        }
        match service.implementation.as_str() {
            "" => self.service(&service.name),
            implementation => self.service(&format!("{}:{implementation}", service.name)),
        }
    }

    /// A service that is known.
    pub(super) fn find(&self, key: &str) -> Option<ServiceId> {
        self.services.get(key).copied()
    }

    pub(super) fn key(&self, service: ServiceId) -> &str {
        self.keys.get(service.index()).map_or("", |key| key)
    }

    /// All services that are known, in the order in which they became so.
    pub(super) fn keys(&self) -> impl Iterator<Item = (ServiceId, &str)> {
        (0..).map(ServiceId).zip(self.keys.iter().map(|key| &**key))
    }

    /// A text that is kept once.
    pub(super) fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        self.clean();
        let text: Arc<str> = text.into();
        self.strings.insert(text.clone());
        text
    }

    fn profile(
        &mut self,
        application: &str,
        zone: &str,
        tags: &HashMap<String, String>,
        weight: u32,
        offered: BTreeMap<ServiceId, Arc<str>>,
    ) -> Arc<Profile> {
        let mut tags: Vec<_> = tags
            .iter()
            .map(|(key, value)| (self.string(key), self.string(value)))
            .collect();
        tags.sort_unstable();
        let profile = Profile {
            application: self.string(application),
            zone: self.string(zone),
            tags: tags.into(),
            weight: weight.min(GREATEST_WEIGHT),
            offer: self.offer(offered),
        };
        self.share_profile(profile)
    }

    fn share_profile(&mut self, profile: Profile) -> Arc<Profile> {
        if let Some(known) = self.profiles.get(&profile) {
            return known.clone();
        }
        self.clean();
        let profile = Arc::new(profile);
        self.profiles.insert(profile.clone());
        profile
    }

    fn offer(&mut self, offered: BTreeMap<ServiceId, Arc<str>>) -> Arc<Offer> {
        let (services, schemas): (Vec<_>, Vec<_>) = offered.into_iter().unzip();
        let offer = Offer {
            services: services.into(),
            schemas: schemas.into(),
        };
        if let Some(known) = self.offers.get(&offer) {
            return known.clone();
        }
        self.clean();
        let offer = Arc::new(offer);
        self.offers.insert(offer.clone());
        offer
    }

    /// Forgets what nobody uses any more, each time that half as much again is kept.
    fn clean(&mut self) {
        let kept = |shared: &Shared| shared.strings.len() + shared.offers.len() + shared.profiles.len();
        if kept(self) < self.clean_at.max(CLEAN_AT) {
            return;
        }
        self.profiles.retain(|profile| Arc::strong_count(profile) > 1);
        self.offers.retain(|offer| Arc::strong_count(offer) > 1);
        self.strings.retain(|string| Arc::strong_count(string) > 1);
        self.clean_at = kept(self) / 2 * 3;
    }
}

fn is_key(name: &str, implementation: &str, length: usize) -> bool {
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    !name.is_empty() && !name.starts_with('.') && length <= 200 && is_name(name) && is_name(implementation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provided(name: &str, implementation: &str) -> ProvidedService {
        ProvidedService {
            name: name.into(),
            implementation: implementation.into(),
            schema_hash: "h".into(),
        }
    }

    fn lease(services: Vec<ProvidedService>) -> Lease {
        Lease {
            instance: "i".into(),
            incarnation: 7,
            address: "h:1".into(),
            weight: 90_000,
            tags: HashMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
            services,
            ..Lease::default()
        }
    }

    #[test]
    fn names_that_are_no_keys_are_left_out_and_offers_are_kept_once() {
        let mut shared = Shared::default();
        let named = lease(vec![
            provided("a.B", ""),
            provided("a.B", "gold"),
            provided("a.B:gold", ""),
            provided("../x", ""),
            provided("", ""),
            provided("a/b", ""),
        ]);
        let (one, other) = (shared.hold(&named), shared.hold(&named));
        let keys: Vec<_> = one
            .services()
            .iter()
            .map(|service| shared.key(*service))
            .collect();
        assert_eq!(keys, ["a.B", "a.B:gold"]);
        assert!(Arc::ptr_eq(&one.profile, &other.profile));
        let silent = shared.hold(&Lease {
            address: String::new(),
            ..named
        });
        assert!(silent.services().is_empty(), "nobody can call it");
    }

    #[test]
    fn what_lists_say_comes_back_from_lists() {
        let mut shared = Shared::default();
        let held = shared.hold(&lease(vec![provided("a.B", ""), provided("a.C", "")]));
        let first = held.services()[0];
        let entry = held.entry("i", first);
        assert_eq!((entry.weight, entry.schema_hash.as_str()), (10_000, "h"));
        let offered = held
            .services()
            .iter()
            .map(|service| (*service, Arc::from("h")))
            .collect();
        let back = shared.hold_listed(&entry);
        let back = shared.offering(back, offered);
        assert!(back.reads_like(&held, first) && back.entry("i", first) == entry);
        let other = shared.hold(&Lease {
            tags: HashMap::new(),
            ..lease(vec![provided("a.B", "")])
        });
        assert!(!other.reads_like(&held, first));
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let mut shared = Shared::default();
        let kept = shared.hold(&lease(vec![provided("a.B", "")]));
        for number in 0..CLEAN_AT * 4 {
            shared.string(&number.to_string());
        }
        assert!(
            shared.strings.len() <= CLEAN_AT * 3 / 2,
            "{}",
            shared.strings.len()
        );
        let again = shared.hold(&lease(vec![provided("a.B", "")]));
        assert!(Arc::ptr_eq(&kept.profile, &again.profile));
    }
}
