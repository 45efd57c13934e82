//! Who claims which address. Nearly every address has one claimant, and there are hundreds of thousands of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::places::{Place, Places};

/// A claim; the greatest of an address has it.
type Claim = (u64, Arc<str>, Place);

#[derive(Debug, Default)]
pub(super) struct Claims {
    addresses: HashMap<Arc<str>, Claimants>,
}

#[derive(Debug)]
enum Claimants {
    One(Place),
    #[allow(
        clippy::box_collection,
        reason = "it is rare, and the map has a place for each address"
    )]
    Many(Box<BTreeSet<Claim>>),
}

impl Claims {
    /// Who has an address.
    pub(super) fn owner(&self, address: &str) -> Option<Place> {
        match self.addresses.get(address)? {
            Claimants::One(place) => Some(*place),
            Claimants::Many(claims) => claims.last().map(|(_, _, place)| *place),
        }
    }

    /// Adds the claim of an instance to its address.
    pub(super) fn add(&mut self, place: Place, places: &Places) {
        let claim = |place: Place| {
            let known = places.get(place)?;
            Some((known.held.incarnation, known.id.clone(), place))
        };
        let Some(known) = places.get(place) else { return };
        let address = &known.held.address;
        match self.addresses.get_mut(address) {
            None => drop(self.addresses.insert(address.clone(), Claimants::One(place))),
            Some(Claimants::One(other)) if *other == place => {}
            Some(claimants @ Claimants::One(_)) => {
                let Claimants::One(other) = *claimants else { return };
                let both = [claim(other), claim(place)].into_iter().flatten();
                *claimants = Claimants::Many(Box::new(both.collect()));
            }
            Some(Claimants::Many(claims)) => claims.extend(claim(place)),
        }
    }

    /// Takes the claim of an instance back that it made with this incarnation.
    pub(super) fn remove(&mut self, address: &str, incarnation: u64, id: &Arc<str>, place: Place) {
        match self.addresses.get_mut(address) {
            Some(Claimants::One(one)) if *one == place => drop(self.addresses.remove(address)),
            Some(Claimants::Many(claims)) => {
                claims.remove(&(incarnation, id.clone(), place));
                if let (1, Some((_, _, last))) = (claims.len(), claims.first()) {
                    let last = Claimants::One(*last);
                    self.addresses.insert(address.into(), last);
                }
            }
            Some(Claimants::One(_)) | None => {}
        }
    }
}
