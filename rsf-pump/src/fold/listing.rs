//! What of the leases stands in which list.

use std::collections::BTreeSet;
use std::sync::Arc;

use rsf_registry::directory::slot;
use rsf_registry::record::RemovalCause;

use super::held::{Held, ServiceId};
use super::members::{Member, Members};
use super::places::Place;
use super::{Fold, Moment};

impl Fold {
    /// Puts `held` in the place of what is known of an instance and brings all lists it touches up to date.
    pub(super) fn replace(&mut self, at: Moment, place: Place, held: Held) {
        let Some(known) = self.places.get_mut(place) else {
            return;
        };
        let same_start = known.held.incarnation == held.incarnation;
        let cause = if same_start || held.is_tombstone() {
            RemovalCause::Deregistered
        } else {
            RemovalCause::Evicted
        };
        let claims = !held.is_tombstone() && !held.address.is_empty();
        let old = std::mem::replace(&mut known.held, held);
        known.restored = None;
        known.left = None;
        known.found = None;
        known.suspect = known.copies.iter().any(|copy| copy.missing);
        if !known.suspect {
            self.suspects.remove(&place);
        }

        let mut touched = BTreeSet::new();
        self.disclaim(place, &old, &mut touched);
        if claims && let Some(known) = self.places.get(place) {
            touched.extend(self.claims.owner(&known.held.address));
            self.claims.add(place, &self.places);
        }
        touched.remove(&place);
        self.relist(at, place, Some(&old), cause);
        for rival in touched {
            self.relist(at, rival, None, RemovalCause::Evicted);
        }
    }

    /// Gives up an address; whoever stands next for it is touched.
    fn disclaim(&mut self, place: Place, old: &Held, touched: &mut BTreeSet<Place>) {
        if let Some(known) = self.places.get(place) {
            self.claims
                .remove(&old.address, old.incarnation, &known.id, place);
            touched.extend(self.claims.owner(&old.address));
        }
    }

    pub(super) fn forget(&mut self, at: Moment, place: Place) {
        self.suspects.remove(&place);
        self.give_up_address(at, place);
        self.places.remove(place);
    }

    /// Whoever stands next for the address of an instance that left has it now.
    pub(super) fn give_up_address(&mut self, at: Moment, place: Place) {
        let Some(held) = self.places.get(place).map(|known| known.held.clone()) else {
            return;
        };
        let mut touched = BTreeSet::new();
        self.disclaim(place, &held, &mut touched);
        touched.remove(&place);
        for next in touched {
            self.relist(at, next, None, RemovalCause::Evicted);
        }
    }

    /// Brings one instance's entries in all lists in line with its lease and its claim to its address. `old` is the lease
    /// whose entries stand there, where that is another.
    fn relist(&mut self, at: Moment, place: Place, old: Option<&Held>, cause: RemovalCause) {
        let Some(known) = self.places.get(place) else {
            return;
        };
        let (id, held) = (known.id.clone(), known.held.clone());
        let old = old.unwrap_or(&held);
        let wanted = match self.claims.owner(&held.address) {
            Some(owner) if owner == place => held.services().clone(),
            _ => Arc::default(),
        };
        let before = known.listed.clone();
        self.set_listed(place, wanted.clone());
        for service in before.iter() {
            if wanted.binary_search(service).is_err() {
                self.take_off(at, *service, place, &id, old.incarnation, cause);
            }
        }
        let member = Member {
            slot: slot(&id),
            place,
        };
        for service in wanted.iter() {
            let stood = before.binary_search(service).is_ok();
            if stood && held.reads_like(old, *service) {
                continue;
            }
            self.changed.entry(*service).or_default().insert(member.slot);
            let members = self.members_mut(*service);
            members.put(member, &id, held.incarnation);
            if stood && old.incarnation != held.incarnation {
                let removal = members.note(&id, old.incarnation, RemovalCause::Evicted, at.unix_ms);
                self.removed.push((*service, removal));
            }
        }
    }

    pub(super) fn unlist(&mut self, at: Moment, service: ServiceId, place: Place, cause: RemovalCause) {
        let Some(known) = self.places.get_mut(place) else {
            return;
        };
        let (id, incarnation) = (known.id.clone(), known.held.incarnation);
        known.listed = known
            .listed
            .iter()
            .copied()
            .filter(|listed| *listed != service)
            .collect();
        self.take_off(at, service, place, &id, incarnation, cause);
    }

    pub(super) fn unlist_everywhere(&mut self, at: Moment, place: Place, cause: RemovalCause) {
        let Some(known) = self.places.get(place) else {
            return;
        };
        let (id, incarnation, listed) = (known.id.clone(), known.held.incarnation, known.listed.clone());
        self.set_listed(place, Arc::default());
        for service in listed.iter() {
            self.take_off(at, *service, place, &id, incarnation, cause);
        }
    }

    pub(super) fn set_listed(&mut self, place: Place, listed: Arc<[ServiceId]>) {
        if let Some(known) = self.places.get_mut(place) {
            known.listed = listed;
        }
    }

    fn take_off(
        &mut self,
        at: Moment,
        service: ServiceId,
        place: Place,
        id: &Arc<str>,
        incarnation: u64,
        cause: RemovalCause,
    ) {
        let member = Member {
            slot: slot(id),
            place,
        };
        let members = self.members_mut(service);
        if members.remove(member) {
            let removal = members.note(id, incarnation, cause, at.unix_ms);
            self.changed.entry(service).or_default().insert(member.slot);
            self.removed.push((service, removal));
        }
    }

    pub(super) fn members_mut(&mut self, service: ServiceId) -> &mut Members {
        if self.services.len() <= service.index() {
            self.services.resize_with(service.index() + 1, Members::default);
        }
        let members = &mut self.services[service.index()];
        members.exists = true;
        members
    }
}
