//! Published lists become the last known view again.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rsf_registry::directory::slot;
use rsf_registry::record::{ListedInstance, Removal, RemovalCause, ServiceList};

use super::held::{Held, ServiceId, Shared};
use super::known::{Known, Restored};
use super::members::Member;
use super::places::Place;
use super::{Fold, Moment};

/// What published lists say together, taken in list by list: those of a large fleet are gigabytes at once.
#[derive(Debug, Default)]
pub struct LastView {
    /// Its own services; a fold has others.
    shared: Shared,
    shadows: BTreeMap<Arc<str>, Shadow>,
    /// Every list, and who left it last.
    lists: Vec<(ServiceId, Vec<Removal>)>,
}

/// An instance as all lists together say.
#[derive(Debug)]
struct Shadow {
    held: Held,
    /// The services of the lists that name its newest incarnation, and its schemas.
    offered: BTreeMap<ServiceId, Arc<str>>,
    /// The lists that name earlier ones.
    older: Vec<(ServiceId, u64)>,
}

impl LastView {
    /// Adds one list.
    pub fn add(&mut self, list: &ServiceList) {
        let Some(service) = self.shared.service(&list.service) else {
            return;
        };
        for listed in &list.instances {
            self.shadow(service, listed);
        }
        self.lists.push((service, list.removed.clone()));
    }

    /// Leaves out the lists of services for which `stays` is false.
    pub fn retain(&mut self, stays: impl Fn(&str) -> bool) {
        let keys = self.shared.keys();
        let stays: BTreeMap<ServiceId, bool> = keys.map(|(service, key)| (service, stays(key))).collect();
        let stays = |service: ServiceId| stays.get(&service).is_none_or(|stays| *stays);
        self.lists.retain(|(service, _)| stays(*service));
        self.shadows.retain(|_, shadow| {
            shadow.offered.retain(|service, _| stays(*service));
            shadow.older.retain(|(service, _)| stays(*service));
            !shadow.offered.is_empty() || !shadow.older.is_empty()
        });
    }

    fn shadow(&mut self, service: ServiceId, listed: &ListedInstance) {
        let schema = self.shared.string(&listed.schema_hash);
        let Some(shadow) = self.shadows.get_mut(&*listed.instance) else {
            let shadow = Shadow {
                held: self.shared.hold_listed(listed),
                offered: BTreeMap::from([(service, schema)]),
                older: Vec::new(),
            };
            self.shadows.insert(listed.instance.as_str().into(), shadow);
            return;
        };
        match shadow.held.incarnation.cmp(&listed.incarnation) {
            Ordering::Greater => shadow.older.push((service, listed.incarnation)),
            Ordering::Equal => drop(shadow.offered.insert(service, schema)),
            Ordering::Less => {
                let former = shadow.held.incarnation;
                shadow.held = self.shared.hold_listed(listed);
                let offered = std::mem::replace(&mut shadow.offered, BTreeMap::from([(service, schema)]));
                shadow
                    .older
                    .extend(offered.into_keys().map(|service| (service, former)));
            }
        }
    }
}

impl<L: Borrow<ServiceList>> FromIterator<L> for LastView {
    fn from_iter<I: IntoIterator<Item = L>>(lists: I) -> Self {
        let mut view = LastView::default();
        lists.into_iter().for_each(|list| view.add(list.borrow()));
        view
    }
}

/// The services of a view as a fold knows them.
struct Translation(Vec<Option<ServiceId>>);

impl Translation {
    fn of(&self, service: ServiceId) -> Option<ServiceId> {
        *self.0.get(service.index())?
    }
}

impl Fold {
    /// Takes back published lists as the last known view: whoever stands in them and is not known counts as alive
    /// for one `ttl`, and has to show up in a source until then. Of those that no source has, the lists decide who has
    /// left already: rule R let an earlier leader go at its own pace. Answers where those stand whom the lists name.
    pub fn restore(&mut self, at: Moment, view: LastView, ttl: Duration) -> Vec<Place> {
        let LastView {
            shared,
            shadows,
            lists,
        } = view;
        let services = shared.keys().map(|(_, key)| self.shared.service(key));
        let services = Translation(services.collect());
        let lists: Vec<(ServiceId, Vec<Removal>)> = lists
            .into_iter()
            .filter_map(|(service, removed)| Some((services.of(service)?, removed)))
            .collect();
        for (service, _) in &lists {
            self.members_mut(*service);
        }
        for (id, shadow) in &shadows {
            self.restore_one(at, id, shadow, &services, ttl);
        }
        for (service, removed) in &lists {
            self.let_go(at, *service, removed);
        }
        for (id, shadow) in &shadows {
            let newest = shadow
                .offered
                .iter()
                .map(|(service, schema)| (*service, shadow.held.incarnation, Some(schema)));
            let older = shadow
                .older
                .iter()
                .map(|(service, incarnation)| (*service, *incarnation, shadow.offered.get(service)));
            for (service, incarnation, schema) in newest.chain(older) {
                if let Some(service) = services.of(service) {
                    self.realign(at, id, service, incarnation, schema);
                }
            }
        }
        for (service, removed) in lists {
            self.remember(service, &removed);
        }
        shadows.keys().filter_map(|id| self.places.find(id)).collect()
    }

    fn restore_one(
        &mut self,
        at: Moment,
        id: &Arc<str>,
        shadow: &Shadow,
        services: &Translation,
        ttl: Duration,
    ) {
        let incarnation = shadow.held.incarnation;
        let place = self.places.find(id);
        let known = place.and_then(|place| self.places.get(place));
        let mut offering = shadow.offered.keys().filter_map(|service| services.of(*service));
        let left = offering.all(|service| {
            let members = self.services.get(service.index());
            members.is_some_and(|members| members.has_left(id, incarnation))
        });
        if left || known.is_some_and(|known| known.held.incarnation >= incarnation) {
            return;
        }
        let offered = shadow.offered.iter().filter_map(|(service, schema)| {
            let schema = self.shared.string(schema);
            Some((services.of(*service)?, schema))
        });
        let offered = offered.collect();
        let held = self.shared.adopt(&shadow.held, offered);
        let place = place.unwrap_or_else(|| self.places.insert(Known::new(id.clone(), held.clone())));
        self.replace(at, place, held);
        if let Some(known) = self.places.get_mut(place) {
            known.restored = Some(Restored {
                deadline: at.elapsed + ttl,
                ttl,
            });
            known.suspect = true;
            self.suspects.insert(place);
        }
    }

    /// Of the instances that no source has, a standby lets others go than the leader whose shadow it is, and at another
    /// pace. What the leader published stands: else a change of leaders would shrink a list faster than rule R admits.
    fn let_go(&mut self, at: Moment, service: ServiceId, removed: &[Removal]) {
        for removal in removed {
            let Some(place) = self.places.find(&removal.instance) else {
                continue;
            };
            let held = self.places.get(place).is_some_and(|known| {
                known.held.incarnation == removal.incarnation
                    && known.is_listed_in(service)
                    && !known.lingers()
            });
            if held {
                self.unlist(at, service, place, removal.cause());
            }
        }
    }

    /// The other half of [`Fold::let_go`]: the published list has an instance that this fold's has not. It is taken back
    /// where only its lease ran out, and where no source has its lease now: its last word that this fold heard may be
    /// older than the list. Who left by its word while nobody led was never in a list of this fold: without a reason
    /// consumers would keep it.
    fn realign(
        &mut self,
        at: Moment,
        id: &Arc<str>,
        service: ServiceId,
        incarnation: u64,
        schema: Option<&Arc<str>>,
    ) {
        let Some(place) = self.places.find(id) else { return };
        let (Some(known), Some(members)) = (self.places.get(place), self.services.get_mut(service.index()))
        else {
            return;
        };
        let older = known.held.incarnation < incarnation;
        if known.is_listed_in(service) || older || members.has_left(id, incarnation) {
            return;
        }
        let same_start = known.held.incarnation == incarnation;
        let expired = members.has_expired(id, incarnation);
        // What is known of it was its word once, or stood in other lists.
        let hearsay = !known.lingers() && !known.held.is_tombstone();
        let ousted = self
            .claims
            .owner(&known.held.address)
            .is_some_and(|owner| owner != place);
        if same_start && !ousted && (expired || hearsay) {
            self.take_back(place, service, schema);
        } else if !expired {
            let said = same_start && !hearsay && !known.held.offers(service);
            let cause = if said || known.held.is_tombstone() {
                RemovalCause::Deregistered
            } else {
                // A later start, or another instance at its address.
                RemovalCause::Evicted
            };
            let removal = members.note(id, incarnation, cause, at.unix_ms);
            self.removed.push((service, removal));
        }
    }

    fn take_back(&mut self, place: Place, service: ServiceId, schema: Option<&Arc<str>>) {
        let Some(known) = self.places.get_mut(place) else {
            return;
        };
        if let Some(schema) = schema.filter(|_| !known.held.offers(service)) {
            let mut offered = known.held.offered();
            offered.insert(service, self.shared.string(schema));
            known.held = self.shared.offering(known.held.clone(), offered);
        }
        let mut listed: Vec<ServiceId> = known.listed.iter().copied().chain([service]).collect();
        listed.sort_unstable();
        known.listed = listed.into();
        (known.suspect, known.left) = (true, None);
        let (id, incarnation) = (known.id.clone(), known.held.incarnation);
        self.suspects.insert(place);
        // It gave its address up when it left the last list.
        self.claims.add(place, &self.places);
        let member = Member {
            slot: slot(&id),
            place,
        };
        self.members_mut(service).put(member, &id, incarnation);
        self.changed.entry(service).or_default().insert(member.slot);
    }

    fn remember(&mut self, service: ServiceId, removed: &[Removal]) {
        let Some(members) = self.services.get_mut(service.index()) else {
            return;
        };
        let places = &self.places;
        members.remember(removed, |instance| {
            let known = places.get(places.find(instance)?)?;
            known.is_listed_in(service).then_some(known.held.incarnation)
        });
    }
}
