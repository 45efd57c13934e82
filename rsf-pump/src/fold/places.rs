//! Where the instances stand: by their ids, and by small numbers that everything else names them by.

use std::collections::HashMap;
use std::sync::Arc;

use super::known::Known;

/// The place of an instance in a fold. When the instance is forgotten another one may get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u32);

impl Place {
    /// The least of all.
    pub(super) const FIRST: Place = Place(0);

    #[cfg(test)]
    pub(crate) fn at(index: u32) -> Place {
        Place(index)
    }

    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug, Default)]
pub(super) struct Places {
    places: Vec<Option<Known>>,
    free: Vec<Place>,
    ids: HashMap<Arc<str>, Place>,
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn find(&self, instance: &str) -> Option<Place> {
        self.ids.get(instance).copied()
    }

    pub(super) fn get(&self, place: Place) -> Option<&Known> {
        self.places.get(place.index())?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Known> {
        self.places.get_mut(place.index())?.as_mut()
    }

    /// Takes in an instance that is not known.
    pub(super) fn insert(&mut self, known: Known) -> Place {
        let place = self.free.pop().unwrap_or_else(|| {
            let next = u32::try_from(self.places.len());
            self.places.push(None);
            // 4 billion instances do not fit any memory.
            Place(next.unwrap_or(u32::MAX))
        });
        self.ids.insert(known.id.clone(), place);
        self.places[place.index()] = Some(known);
        place
    }

    pub(super) fn remove(&mut self, place: Place) {
        if let Some(known) = self.places.get_mut(place.index()).and_then(Option::take) {
            self.ids.remove(&known.id);
            self.free.push(place);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, &Known)> {
        let places = (0..).map(Place).zip(&self.places);
        places.filter_map(|(place, known)| Some((place, known.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Place, &mut Known)> {
        let places = (0..).map(Place).zip(&mut self.places);
        places.filter_map(|(place, known)| Some((place, known.as_mut()?)))
    }
}
