//! A hierarchical wheel of ticks: six levels of 256 slots, each slot a list through one slab.

/// Bits of a tick that one level tells apart; together 48, which is nine thousand years of milliseconds.
const BITS: u32 = 8;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 6;
/// The last tick that the levels tell apart.
const LAST: u64 = (1 << (BITS * LEVELS as u32)) - 1;
/// The end of a list.
const NIL: u32 = u32::MAX;

/// Entries by the tick at which they are due.
pub(super) struct Wheel<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    levels: Box<[Level; LEVELS]>,
    /// The last tick that has been looked at.
    now: u64,
}

struct Level {
    heads: [u32; SLOTS],
    occupied: [u64; SLOTS / 64],
}

struct Entry<T> {
    tick: u64,
    next: u32,
    previous: u32,
    /// Which entry of this place it is; odd while it is in use.
    turn: u32,
    value: Option<T>,
}

/// Names an entry. Stale once the entry is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    index: u32,
    turn: u32,
}

impl<T> Wheel<T> {
    pub(super) fn new() -> Self {
        let level = || Level {
            heads: [NIL; SLOTS],
            occupied: [0; SLOTS / 64],
        };
        Wheel {
            entries: Vec::new(),
            free: NIL,
            levels: Box::new(std::array::from_fn(|_| level())),
            now: 0,
        }
    }

    /// Adds a value that is due at `tick`, or at the next tick where that has passed.
    pub(super) fn insert(&mut self, tick: u64, value: T) -> Place {
        // Not by way of `now`, which stands still while nothing is due, for weeks perhaps. Beyond what the levels tell
        // apart nobody waits.
        let tick = tick.max(self.now + 1).min(LAST);
        let index = self.free;
        let index = if index == NIL {
            self.entries.push(Entry {
                tick,
                next: NIL,
                previous: NIL,
                turn: 0,
                value: None,
            });
            (self.entries.len() - 1) as u32
        } else {
            self.free = self.entries[index as usize].next;
            index
        };
        let entry = &mut self.entries[index as usize];
        entry.tick = tick;
        entry.turn = entry.turn.wrapping_add(1);
        entry.value = Some(value);
        let turn = entry.turn;
        self.link(index);
        Place { index, turn }
    }

    /// The value of an entry that is not out yet.
    pub(super) fn get(&mut self, place: Place) -> Option<&mut T> {
        let entry = self.entries.get_mut(place.index as usize)?;
        (entry.turn == place.turn)
            .then_some(entry.value.as_mut())
            .flatten()
    }

    /// Takes an entry out, unless it is out already.
    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        self.get(place)?;
        self.unlink(place.index);
        self.release(place.index)
    }

    /// Takes out all that is due up to `to`, in the order of their ticks.
    pub(super) fn advance(&mut self, to: u64, due: &mut Vec<T>) {
        while let Some((tick, level)) = self.next_event() {
            if tick > to {
                break;
            }
            self.now = tick;
            let slot = slot_of(tick, level);
            let mut index = std::mem::replace(&mut self.levels[level].heads[slot], NIL);
            self.levels[level].occupied[slot / 64] &= !(1 << (slot % 64));
            while index != NIL {
                let entry = &self.entries[index as usize];
                let next = entry.next;
                if entry.tick <= tick {
                    due.extend(self.release(index));
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.now = self.now.max(to);
    }

    /// The next tick at which there is something to do: no entry is due before it.
    pub(super) fn next_tick(&self) -> Option<u64> {
        self.next_event().map(|(tick, _)| tick)
    }

    /// The first tick after `now` with an occupied slot, and its level. Lower levels are earlier.
    fn next_event(&self) -> Option<(u64, usize)> {
        (0..LEVELS).find_map(|level| {
            let slot = self.levels[level].occupied_after(slot_of(self.now, level))?;
            let shift = BITS * level as u32;
            let block = self.now >> (shift + BITS) << (shift + BITS);
            Some((block | (slot as u64) << shift, level))
        })
    }

    /// Puts an entry into the slot where it is looked at in time: the level of the highest bits in which its tick
    /// differs from now.
    fn link(&mut self, index: u32) {
        let tick = self.entries[index as usize].tick;
        let differing = 63 - (tick ^ self.now).max(1).leading_zeros();
        let level = ((differing / BITS) as usize).min(LEVELS - 1);
        let slot = slot_of(tick, level);
        let level = &mut self.levels[level];
        let head = std::mem::replace(&mut level.heads[slot], index);
        level.occupied[slot / 64] |= 1 << (slot % 64);
        let entry = &mut self.entries[index as usize];
        entry.next = head;
        entry.previous = NIL;
        if head != NIL {
            self.entries[head as usize].previous = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry {
            tick, next, previous, ..
        } = self.entries[index as usize];
        if next != NIL {
            self.entries[next as usize].previous = previous;
        }
        if previous != NIL {
            self.entries[previous as usize].next = next;
            return;
        }
        // The head of its slot; of the levels' slots for its tick one has it.
        for (place, level) in self.levels.iter_mut().enumerate() {
            let slot = slot_of(tick, place);
            if level.heads[slot] == index {
                level.heads[slot] = next;
                if next == NIL {
                    level.occupied[slot / 64] &= !(1 << (slot % 64));
                }
                return;
            }
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.turn = entry.turn.wrapping_add(1);
        entry.next = self.free;
        self.free = index;
        entry.value.take()
    }
}

impl Level {
    fn occupied_after(&self, slot: usize) -> Option<usize> {
        let first = slot + 1;
        (first / 64..SLOTS / 64).find_map(|word| {
            let mut bits = self.occupied[word];
            if word == first / 64 {
                bits &= u64::MAX << (first % 64);
            }
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        })
    }
}

fn slot_of(tick: u64, level: usize) -> usize {
    (tick >> (BITS * level as u32)) as usize & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A list of all entries: what the wheel must agree with.
    #[derive(Default)]
    struct Naive {
        now: u64,
        entries: HashMap<u32, (u64, Place)>,
    }

    #[test]
    fn what_is_set_after_weeks_of_idleness_is_not_due_before_its_time() {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        for days in [1, 25, 400, 100_000] {
            let (now, mut due) = (days * DAY, Vec::new());
            let mut wheel = Wheel::new();
            wheel.insert(now + 3000, ());
            wheel.advance(now + 2999, &mut due);
            assert!(due.is_empty(), "after {days} days");
            wheel.advance(now + 3000, &mut due);
            assert_eq!(due.len(), 1, "after {days} days");
        }
        let mut wheel = Wheel::new();
        let place = wheel.insert(u64::MAX, ());
        assert_eq!(wheel.remove(place), Some(()));
    }

    #[test]
    fn it_does_what_a_plain_list_does() {
        let mut chance = fastrand::Rng::with_seed(11);
        for round in 0..200 {
            let mut wheel = Wheel::new();
            let mut naive = Naive::default();
            for name in 0..400_u32 {
                match chance.u32(..4) {
                    0 | 1 => {
                        let bits = chance.u32(..34);
                        let tick = naive.now + chance.u64(..1 << bits);
                        let place = wheel.insert(tick, name);
                        let tick = tick.max(naive.now + 1).min(LAST);
                        naive.entries.insert(name, (tick, place));
                    }
                    2 => {
                        let gone = naive.entries.keys().min().copied();
                        if let Some((name, (_, place))) =
                            gone.and_then(|name| naive.entries.remove_entry(&name))
                        {
                            assert_eq!(wheel.remove(place), Some(name));
                            assert_eq!(wheel.remove(place), None);
                        }
                    }
                    _ => {
                        let bits = chance.u32(..30);
                        let to = naive.now + chance.u64(..1 << bits);
                        let earliest = naive.entries.values().map(|(tick, _)| *tick).min();
                        assert!(
                            wheel
                                .next_tick()
                                .is_none_or(|next| earliest.is_some_and(|tick| next <= tick))
                        );
                        assert_eq!(wheel.next_tick().is_none(), earliest.is_none());
                        let mut due = Vec::new();
                        wheel.advance(to, &mut due);
                        let ticks: Vec<_> = due.iter().map(|name| naive.entries[name].0).collect();
                        assert!(ticks.is_sorted(), "round {round}");
                        due.sort_unstable();
                        let mut wanted: Vec<_> = naive
                            .entries
                            .iter()
                            .filter(|(_, (tick, _))| *tick <= to)
                            .collect();
                        wanted.sort_unstable_by_key(|(name, _)| **name);
                        assert_eq!(
                            due,
                            wanted.iter().map(|(name, _)| **name).collect::<Vec<_>>(),
                            "round {round}"
                        );
                        for name in due {
                            let (_, place) = naive.entries.remove(&name).unwrap();
                            assert!(wheel.get(place).is_none());
                        }
                        naive.now = to;
                    }
                }
            }
        }
    }
}
