//! Entries by the tick at which they are due: a slab in blocks, each of which knows a tick before which none of its entries
//! is due.
//!
//! Setting touches one entry and its block's bound; cancelling touches the entry alone. A bound falls with each earlier entry
//! and is found anew when its tick has come, so that what was cancelled meanwhile costs one look at a block, once in as long as
//! timers are set for.
//!
//! Each look passes over all bounds under its shard's lock, and sorts what is due: its cost grows with the number of entries
//! that were ever pending at once, by one word for each 64 of them.

/// Entries of a block.
const BLOCK: usize = 64;
/// The bound of a block in which nothing is due.
const NEVER: u64 = u64::MAX;
/// The end of the list of free entries.
const NIL: u32 = u32::MAX;

/// Values by the tick at which they are due.
pub(super) struct Blocks<T> {
    entries: Vec<Entry<T>>,
    /// A block's: none of its entries is due before that.
    bounds: Vec<u64>,
    free: u32,
}

struct Entry<T> {
    tick: u64,
    /// The next free one.
    next: u32,
    /// Which entry of this place it is.
    turn: u32,
    /// `None` while it is free.
    value: Option<T>,
}

/// Names an entry. Stale once the entry is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    index: u32,
    turn: u32,
}

impl<T> Blocks<T> {
    pub(super) fn new() -> Self {
        Blocks {
            entries: Vec::new(),
            bounds: Vec::new(),
            free: NIL,
        }
    }

    /// Adds a value that is due at `tick`, or at the next look where that has passed.
    #[inline(always)]
    pub(super) fn insert(&mut self, tick: u64, value: T) -> Place {
        if self.free == NIL {
            self.grow();
        }
        // What lies this far ahead is never looked for, which is as good as waiting for it.
        let tick = tick.min(NEVER - 1);
        let index = self.free;
        let entry = &mut self.entries[index as usize];
        self.free = entry.next;
        entry.tick = tick;
        entry.value = Some(value);
        let turn = entry.turn;
        let bound = &mut self.bounds[index as usize / BLOCK];
        *bound = (*bound).min(tick);
        Place { index, turn }
    }

    /// The value of an entry that is not out yet.
    #[inline]
    pub(super) fn get(&mut self, place: Place) -> Option<&mut T> {
        let entry = self.entries.get_mut(place.index as usize)?;
        (entry.turn == place.turn)
            .then_some(entry.value.as_mut())
            .flatten()
    }

    /// Takes an entry out, unless it is out already.
    #[inline(always)]
    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        let entry = self.entries.get_mut(place.index as usize)?;
        if entry.turn != place.turn {
            return None;
        }
        let value = entry.release(self.free);
        self.free = place.index;
        value
    }

    /// Takes out all that is due up to `to`, in the order of their ticks. Returns the tick at which to look next: no entry is
    /// due before it.
    pub(super) fn advance(&mut self, to: u64, due: &mut Vec<(u64, T)>) -> Option<u64> {
        let mut next = NEVER;
        for (block, bound) in self.bounds.iter_mut().enumerate() {
            if *bound > to {
                next = next.min(*bound);
                continue;
            }
            *bound = NEVER;
            let first = block * BLOCK;
            for (index, entry) in self.entries[first..first + BLOCK].iter_mut().enumerate() {
                if entry.value.is_none() {
                    continue;
                }
                if entry.tick > to {
                    *bound = (*bound).min(entry.tick);
                    continue;
                }
                due.extend(entry.release(self.free).map(|value| (entry.tick, value)));
                self.free = (first + index) as u32;
            }
            next = next.min(*bound);
        }
        due.sort_unstable_by_key(|(tick, _)| *tick);
        (next != NEVER).then_some(next)
    }

    /// What [`Blocks::advance`] would say now.
    #[cfg(test)]
    pub(super) fn next_tick(&self) -> Option<u64> {
        self.bounds.iter().copied().min().filter(|bound| *bound != NEVER)
    }

    /// One block more.
    #[cold]
    fn grow(&mut self) {
        let first = self.entries.len();
        let entries = (first..first + BLOCK).map(|index| Entry {
            tick: NEVER,
            next: match index + 1 {
                next if next < first + BLOCK => next as u32,
                _ => NIL,
            },
            turn: 0,
            value: None,
        });
        self.entries.extend(entries);
        self.bounds.push(NEVER);
        self.free = first as u32;
    }
}

impl<T> Entry<T> {
    /// Its value; the place is free from now on, before `next`.
    #[inline(always)]
    fn release(&mut self, next: u32) -> Option<T> {
        self.turn = self.turn.wrapping_add(1);
        self.next = next;
        self.value.take()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn what_lies_beyond_time_can_be_cancelled_and_is_never_due() {
        let mut blocks = Blocks::new();
        let place = blocks.insert(u64::MAX, ());
        let mut due = Vec::new();
        blocks.advance(u64::MAX - 2, &mut due);
        assert!(due.is_empty());
        assert_eq!(blocks.remove(place), Some(()));
        assert_eq!(blocks.remove(place), None);
    }

    #[test]
    fn places_that_are_free_again_are_used_again() {
        let mut blocks = Blocks::new();
        for tick in 0..10_000 {
            let place = blocks.insert(tick, ());
            assert_eq!(blocks.remove(place), Some(()));
        }
        assert_eq!(blocks.entries.len(), BLOCK);
        // What was cancelled is looked at once, and then there is nothing to look for.
        assert_eq!(blocks.next_tick(), Some(0));
        blocks.advance(0, &mut Vec::new());
        assert_eq!(blocks.next_tick(), None);
    }

    #[test]
    fn it_does_what_a_plain_list_does() {
        let mut chance = fastrand::Rng::with_seed(11);
        for round in 0..200 {
            let mut blocks = Blocks::new();
            let mut naive: HashMap<u32, (u64, Place)> = HashMap::new();
            let mut now = 0;
            for name in 0..400_u32 {
                match chance.u32(..4) {
                    0 | 1 => {
                        let bits = chance.u32(..34);
                        let tick = now + chance.u64(..1 << bits);
                        naive.insert(name, (tick, blocks.insert(tick, name)));
                    }
                    2 => {
                        let gone = naive.keys().min().copied();
                        if let Some((name, (_, place))) = gone.and_then(|name| naive.remove_entry(&name)) {
                            assert_eq!(blocks.get(place), Some(&mut { name }));
                            assert_eq!(blocks.remove(place), Some(name));
                            assert_eq!(blocks.remove(place), None);
                        }
                    }
                    _ => {
                        let bits = chance.u32(..30);
                        let to = now + chance.u64(..1 << bits);
                        let earliest = naive.values().map(|(tick, _)| *tick).min();
                        if let Some(earliest) = earliest {
                            assert!(blocks.next_tick().is_some_and(|next| next <= earliest));
                        }
                        let mut due = Vec::new();
                        let next = blocks.advance(to, &mut due);
                        assert_eq!(next, blocks.next_tick(), "round {round}");
                        assert!(due.iter().map(|(tick, _)| *tick).is_sorted(), "round {round}");
                        let mut wanted: Vec<_> = naive
                            .iter()
                            .filter(|(_, (tick, _))| *tick <= to)
                            .map(|(name, (tick, _))| (*tick, *name))
                            .collect();
                        wanted.sort_unstable();
                        due.sort_unstable();
                        assert_eq!(due, wanted, "round {round}");
                        for (_, name) in due {
                            let (_, place) = naive.remove(&name).unwrap();
                            assert!(blocks.get(place).is_none());
                        }
                        // Whatever was cancelled, the bounds are true again once they have been reached.
                        assert!(blocks.next_tick().is_none_or(|next| next > to));
                        now = to;
                    }
                }
            }
        }
    }
}
