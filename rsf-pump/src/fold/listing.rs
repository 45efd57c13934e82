//! Who claims which address, and what of it stands in which list.

use std::collections::{BTreeMap, BTreeSet};

use rsf_registry::record::{Lease, RemovalCause};

use super::{Fold, Moment, Slots};
use crate::listed::{entries, is_tombstone};

impl Fold {
    /// Puts `lease` in the place of what is known of its instance and brings all lists it touches up to date.
    pub(super) fn replace(&mut self, at: Moment, lease: Lease) {
        let instance = lease.instance.clone();
        let claim = (lease.incarnation, instance.clone());
        let claims = !is_tombstone(&lease) && !lease.address.is_empty();
        let address = lease.address.clone();
        let Some(known) = self.instances.get_mut(&instance) else {
            return;
        };
        let same_start = known.lease.incarnation == lease.incarnation;
        let cause = if same_start || is_tombstone(&lease) {
            RemovalCause::Deregistered
        } else {
            RemovalCause::Evicted
        };
        let old = std::mem::replace(&mut known.lease, lease);
        known.restored = None;
        known.left = None;
        known.found = None;
        known.suspect = known.copies.iter().any(|copy| copy.missing);
        if !known.suspect {
            self.suspects.remove(&instance);
        }

        let mut touched = BTreeSet::new();
        self.disclaim(&old, &mut touched);
        if claims {
            let rivals = self.claims.entry(address).or_default();
            touched.extend(rivals.last().map(|(_, rival)| rival.clone()));
            rivals.insert(claim);
        }
        touched.remove(&instance);
        self.relist(at, &instance, cause);
        for rival in touched {
            self.relist(at, &rival, RemovalCause::Evicted);
        }
    }

    /// Gives up an address; whoever stands next for it is touched.
    fn disclaim(&mut self, lease: &Lease, touched: &mut BTreeSet<String>) {
        let Some(rivals) = self.claims.get_mut(&lease.address) else {
            return;
        };
        rivals.remove(&(lease.incarnation, lease.instance.clone()));
        match rivals.last() {
            Some((_, next)) => drop(touched.insert(next.clone())),
            None => drop(self.claims.remove(&lease.address)),
        }
    }

    pub(super) fn forget(&mut self, at: Moment, instance: &str) {
        self.suspects.remove(instance);
        self.give_up_address(at, instance);
        self.instances.remove(instance);
    }

    /// Whoever stands next for the address of an instance that left has it now.
    pub(super) fn give_up_address(&mut self, at: Moment, instance: &str) {
        let Some(lease) = self.instances.get(instance).map(|known| known.lease.clone()) else {
            return;
        };
        let mut touched = BTreeSet::new();
        self.disclaim(&lease, &mut touched);
        touched.remove(instance);
        for next in touched {
            self.relist(at, &next, RemovalCause::Evicted);
        }
    }

    /// Brings one instance's entries in all lists in line with its lease and its claim to its address.
    fn relist(&mut self, at: Moment, instance: &str, cause: RemovalCause) {
        let Some(known) = self.instances.get_mut(instance) else {
            return;
        };
        let owner = self.claims.get(&known.lease.address).and_then(BTreeSet::last);
        let owns = owner.is_some_and(|(_, owner)| owner == instance);
        let wanted = if owns {
            entries(&known.lease)
        } else {
            BTreeMap::new()
        };
        let before = std::mem::replace(&mut known.listed, wanted.keys().cloned().collect());
        for service in before {
            if !wanted.contains_key(&service) {
                self.take_off(at, &service, instance, cause);
            }
        }
        for (service, entry) in wanted {
            let members = self.services.entry(service.clone()).or_default();
            if let Some(removal) = members.put(entry, at.unix_ms, &mut self.changes.services, &service) {
                self.changes.removed.push((service, removal));
            }
        }
    }

    pub(super) fn unlist(&mut self, at: Moment, service: &str, instance: &str, cause: RemovalCause) {
        if let Some(known) = self.instances.get_mut(instance) {
            known.listed.remove(service);
        }
        self.take_off(at, service, instance, cause);
    }

    pub(super) fn unlist_everywhere(&mut self, at: Moment, instance: &str, cause: RemovalCause) {
        let listed = self
            .instances
            .get_mut(instance)
            .map(|known| std::mem::take(&mut known.listed));
        for service in listed.unwrap_or_default() {
            self.take_off(at, &service, instance, cause);
        }
    }

    fn take_off(&mut self, at: Moment, service: &str, instance: &str, cause: RemovalCause) {
        let Some(members) = self.services.get_mut(service) else {
            return;
        };
        if let Some(removal) = members.remove(instance, cause, at.unix_ms) {
            let changed = self.changes.services.entry(service.to_owned()).or_default();
            changed.extend(Slots::of(instance));
            self.changes.removed.push((service.to_owned(), removal));
        }
    }
}
