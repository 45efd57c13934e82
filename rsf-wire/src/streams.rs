//! The open streams of a connection: a ring by id, and a map for those that live much longer than their neighbours.

use std::collections::HashMap;

const LEAST: usize = 64;
const MOST: usize = 8192;
/// A larger ring is given back when it is empty.
const KEPT: usize = 512;

/// Something for each open stream. Ids are odd (all are a client's), and mostly young.
#[derive(Debug)]
pub(crate) struct Streams<T> {
    ring: Vec<Option<(u32, T)>>,
    old: HashMap<u32, T>,
    len: usize,
}

impl<T> Default for Streams<T> {
    fn default() -> Self {
        Streams {
            ring: Vec::new(),
            old: HashMap::new(),
            len: 0,
        }
    }
}

impl<T> Streams<T> {
    /// Adds a stream that is not there yet.
    pub(crate) fn insert(&mut self, id: u32, value: T) {
        if self.len >= self.ring.len() && self.ring.len() < MOST {
            self.grow();
        }
        self.len += 1;
        let place = self.place(id);
        if let Some((old, value)) = self.ring[place].replace((id, value)) {
            self.old.insert(old, value);
        }
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        if self.len == 0 {
            return None;
        }
        let place = self.place(id);
        match &mut self.ring[place] {
            Some((here, value)) if *here == id => Some(value),
            _ => self.old.get_mut(&id),
        }
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<T> {
        if self.len == 0 {
            return None;
        }
        let place = self.place(id);
        let removed = match self.ring[place].take() {
            Some((here, value)) if here == id => Some(value),
            other => {
                self.ring[place] = other;
                self.old.remove(&id)
            }
        };
        self.len -= usize::from(removed.is_some());
        if self.len == 0 && self.ring.len() > KEPT {
            *self = Streams::default();
        }
        removed
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let ring = self.ring.iter_mut().flatten().map(|(id, value)| (*id, value));
        ring.chain(self.old.iter_mut().map(|(id, value)| (*id, value)))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let ring = self.ring.iter().flatten().map(|(id, value)| (*id, value));
        ring.chain(self.old.iter().map(|(id, value)| (*id, value)))
    }

    fn place(&self, id: u32) -> usize {
        (id >> 1) as usize & (self.ring.len() - 1)
    }

    fn grow(&mut self) {
        let size = (self.ring.len() * 2).max(LEAST);
        let ring = std::mem::replace(&mut self.ring, (0..size).map(|_| None).collect());
        for (id, value) in ring.into_iter().flatten() {
            let place = self.place(id);
            if let Some((old, value)) = self.ring[place].replace((id, value)) {
                self.old.insert(old, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_outlives_thousands_is_still_found() {
        let mut streams = Streams::default();
        assert_eq!(streams.remove(1), None::<u32>);
        streams.insert(1, 1);
        for id in (3..100_001).step_by(2) {
            streams.insert(id, id);
            assert_eq!(streams.get_mut(id), Some(&mut id.clone()));
            assert_eq!(streams.remove(id), Some(id));
        }
        assert_eq!((streams.len(), streams.get_mut(1)), (1, Some(&mut 1)));
        assert_eq!(streams.ring.len(), LEAST);
        assert_eq!(streams.remove(1), Some(1));
        assert_eq!(streams.remove(1), None);
    }

    #[test]
    fn many_at_once_are_all_kept() {
        let mut streams = Streams::default();
        for id in (1..40_001).step_by(2) {
            streams.insert(id, id);
        }
        assert_eq!(
            (streams.len(), streams.iter().count(), streams.ring.len()),
            (20_000, 20_000, MOST)
        );
        for id in (1..40_001).step_by(2) {
            assert_eq!(streams.remove(id), Some(id));
        }
        assert_eq!((streams.len(), streams.ring.len()), (0, 0));
        streams.insert(40_001, 1);
        assert_eq!(streams.remove(40_001), Some(1));
    }
}
