//! Coalescing: many changes of one list become one write, and a lone change still goes out fast.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::fold::Slots;

/// Which lists wait to be written, and when they may.
#[derive(Debug)]
pub(crate) struct Coalesce {
    window: Duration,
    first_delay: Duration,
    pending: BTreeMap<String, Waiting>,
    due: Option<Duration>,
    last: Option<Duration>,
    /// Lists that failed by themselves, each with its own time.
    deferred: BTreeSet<(Duration, String)>,
}

/// A list that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Since when.
    pub(crate) since: Duration,
    /// What of it changed meanwhile.
    pub(crate) slots: Slots,
}

impl Coalesce {
    pub(crate) fn new(window: Duration, first_delay: Duration) -> Self {
        let (pending, deferred) = (BTreeMap::new(), BTreeSet::new());
        Coalesce {
            window,
            first_delay,
            pending,
            due: None,
            last: None,
            deferred,
        }
    }

    /// Notes that a list changed in these slots.
    pub(crate) fn touch(&mut self, key: String, slots: Slots, now: Duration) {
        self.wait(key, slots, now);
        let quiet_since = self.last.map_or(Duration::ZERO, |last| last + self.window);
        self.due.get_or_insert((now + self.first_delay).max(quiet_since));
    }

    /// When something may be written.
    pub(crate) fn due(&self) -> Option<Duration> {
        let deferred = self.deferred.first().map(|(at, _)| *at);
        [self.due, deferred].into_iter().flatten().min()
    }

    /// Takes what may be written now.
    pub(crate) fn take(&mut self, now: Duration) -> BTreeMap<String, Waiting> {
        while self.deferred.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.deferred.pop_first() else {
                break;
            };
            self.wait(key, Slots::ALL, now);
            self.due = Some(now);
        }
        if self.due.is_none_or(|due| due > now) {
            return BTreeMap::new();
        }
        self.due = None;
        self.last = Some(now);
        std::mem::take(&mut self.pending)
    }

    /// Puts back what could not be written because the directory is away; nothing is tried before `at`.
    pub(crate) fn put_back(&mut self, key: String, since: Duration, at: Duration) {
        self.wait(key, Slots::ALL, since);
        self.due = Some(self.due.map_or(at, |due| due.max(at)));
    }

    fn wait(&mut self, key: String, slots: Slots, since: Duration) {
        let new = Waiting { since, slots };
        let waiting = self.pending.entry(key).or_insert(new);
        waiting.since = waiting.since.min(since);
        waiting.slots.extend(slots);
    }

    /// Sets one list aside that was refused by itself; a change of it is tried earlier.
    pub(crate) fn defer(&mut self, key: String, at: Duration) {
        self.deferred.retain(|(_, deferred)| *deferred != key);
        self.deferred.insert((at, key));
    }

    /// Forgets everything that waits.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.deferred.clear();
        self.due = None;
    }

    /// How many lists wait.
    pub(crate) fn len(&self) -> usize {
        self.pending.len() + self.deferred.len()
    }

    /// Since when the longest waiting list waits.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.pending.values().map(|waiting| waiting.since).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_lone_change_is_fast_and_a_storm_is_gathered() {
        let mut coalesce = Coalesce::new(ms(1_000), ms(100));
        coalesce.touch("a".into(), Slots::ALL, ms(5_000));
        assert_eq!(coalesce.due(), Some(ms(5_100)));
        assert!(coalesce.take(ms(5_099)).is_empty());
        assert_eq!(coalesce.take(ms(5_100)).len(), 1);
        for at in 5_101..5_999 {
            coalesce.touch(if at % 2 == 0 { "a" } else { "b" }.into(), Slots::of("i"), ms(at));
        }
        assert_eq!(coalesce.due(), Some(ms(6_100)));
        assert_eq!(coalesce.oldest(), Some(ms(5_101)));
        assert_eq!(
            coalesce.take(ms(6_100)).into_keys().collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(coalesce.due(), None);
    }

    #[test]
    fn what_failed_waits_and_keeps_its_age() {
        let mut coalesce = Coalesce::new(ms(1_000), ms(100));
        coalesce.put_back("a".into(), ms(10), ms(500));
        coalesce.touch("a".into(), Slots::ALL, ms(20));
        assert_eq!((coalesce.due(), coalesce.oldest()), (Some(ms(500)), Some(ms(10))));
        coalesce.defer("b".into(), ms(10_000));
        coalesce.defer("b".into(), ms(20_000));
        assert_eq!(coalesce.take(ms(500)).len(), 1);
        assert_eq!((coalesce.due(), coalesce.len()), (Some(ms(20_000)), 1));
        assert_eq!(coalesce.take(ms(20_000)).into_keys().collect::<Vec<_>>(), ["b"]);
    }
}
