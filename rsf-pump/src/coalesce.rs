//! Coalescing: many changes of one list become one write, and a lone change still goes out fast.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::fold::Slots;

/// How long the rest of a round waits at least that was too large for the rate.
const RATE_STEP: Duration = Duration::from_millis(100);

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
    /// Lists a second.
    rate: f64,
    /// How many lists may be taken now; grows to one second's worth.
    allowance: f64,
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
    /// Rounds are `window` apart, a lone change waits for `first_delay`, and no more than `rate` lists are taken a second.
    pub(crate) fn new(window: Duration, first_delay: Duration, rate: u32) -> Self {
        let (pending, deferred) = (BTreeMap::new(), BTreeSet::new());
        Coalesce {
            window,
            first_delay,
            pending,
            due: None,
            last: None,
            deferred,
            rate: rate.into(),
            allowance: rate.into(),
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

    /// Takes what may be written now, what waits longest first; the rest waits until the rate allows it.
    pub(crate) fn take(&mut self, now: Duration) -> Vec<(String, Waiting)> {
        while self.deferred.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.deferred.pop_first() else {
                break;
            };
            self.wait(key, Slots::ALL, now);
            self.due = Some(now);
        }
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let since = self.last.replace(now).unwrap_or_default();
        let earned = now.saturating_sub(since).as_secs_f64() * self.rate;
        self.allowance = (self.allowance + earned).min(self.rate);
        let mut taken: Vec<_> = std::mem::take(&mut self.pending).into_iter().collect();
        taken.sort_by_key(|(_, waiting)| waiting.since);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to the rate"
        )]
        let most = self.allowance as usize;
        if taken.len() > most {
            self.pending = taken.split_off(most).into_iter().collect();
            self.due = Some(now + self.window.max(RATE_STEP));
        }
        self.allowance -= taken.len() as f64;
        taken
    }

    /// Puts back what was taken and found no room in the round; it is due at once.
    pub(crate) fn give_back(&mut self, key: String, waiting: Waiting, now: Duration) {
        self.wait(key, waiting.slots, waiting.since);
        self.allowance += 1.0;
        self.due = Some(now);
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

    fn keys(taken: Vec<(String, Waiting)>) -> Vec<String> {
        taken.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_lone_change_is_fast_and_a_storm_is_gathered() {
        let mut coalesce = Coalesce::new(ms(1_000), ms(100), 1_000);
        coalesce.touch("a".into(), Slots::ALL, ms(5_000));
        assert_eq!(coalesce.due(), Some(ms(5_100)));
        assert!(coalesce.take(ms(5_099)).is_empty());
        assert_eq!(coalesce.take(ms(5_100)).len(), 1);
        for at in 5_101..5_999 {
            coalesce.touch(if at % 2 == 0 { "a" } else { "b" }.into(), Slots::of("i"), ms(at));
        }
        assert_eq!(coalesce.due(), Some(ms(6_100)));
        assert_eq!(coalesce.oldest(), Some(ms(5_101)));
        assert_eq!(keys(coalesce.take(ms(6_100))), ["b", "a"]);
        assert_eq!(coalesce.due(), None);
    }

    #[test]
    fn more_changes_than_the_rate_allows_are_taken_in_turn() {
        let mut coalesce = Coalesce::new(ms(1_000), ms(100), 10);
        for key in 0..35 {
            coalesce.touch(format!("{key:02}"), Slots::ALL, ms(4_000 + key));
        }
        let mut taken = Vec::new();
        let mut rounds = Vec::new();
        while let Some(due) = coalesce.due() {
            // What changes again keeps its place.
            coalesce.touch("34".into(), Slots::ALL, due);
            let round = keys(coalesce.take(due));
            rounds.push((due, round.len()));
            taken.extend(round);
        }
        assert_eq!(
            rounds,
            [(ms(4_100), 10), (ms(5_100), 10), (ms(6_100), 10), (ms(7_100), 5)]
        );
        assert!(taken.is_sorted(), "who waits longest goes first: {taken:?}");
    }

    #[test]
    fn what_finds_no_room_in_a_round_is_due_at_once() {
        let mut coalesce = Coalesce::new(ms(1_000), ms(100), 10);
        for key in ["a", "b", "c"] {
            coalesce.touch(key.into(), Slots::of(key), ms(4_000));
        }
        let mut taken = coalesce.take(ms(4_100));
        let (key, waiting) = taken.pop().expect("c");
        coalesce.give_back(key, waiting, ms(4_100));
        assert_eq!(coalesce.due(), Some(ms(4_100)));
        let again = coalesce.take(ms(4_100));
        assert_eq!(again, [("c".to_owned(), waiting)]);
        assert_eq!(coalesce.due(), None);
    }

    #[test]
    fn who_changes_all_the_time_keeps_nobody_out_of_a_small_round() {
        let mut coalesce = Coalesce::new(ms(1_000), ms(100), 1_000);
        let mut written = Vec::new();
        coalesce.touch("z".into(), Slots::ALL, ms(4_001));
        for round in 0..3 {
            let now = ms(4_101 + round * 1_000);
            for key in ["a", "b"] {
                coalesce.touch(key.into(), Slots::ALL, now - ms(101));
            }
            // Each round has room for one.
            let mut taken = coalesce.take(now).into_iter();
            written.extend(taken.next().map(|(key, _)| key));
            taken.for_each(|(key, waiting)| coalesce.give_back(key, waiting, now));
        }
        assert_eq!(written, ["a", "b", "z"]);
    }

    #[test]
    fn what_failed_waits_and_keeps_its_age() {
        let mut coalesce = Coalesce::new(ms(1_000), ms(100), 1_000);
        coalesce.put_back("a".into(), ms(10), ms(500));
        coalesce.touch("a".into(), Slots::ALL, ms(20));
        assert_eq!((coalesce.due(), coalesce.oldest()), (Some(ms(500)), Some(ms(10))));
        coalesce.defer("b".into(), ms(10_000));
        coalesce.defer("b".into(), ms(20_000));
        assert_eq!(coalesce.take(ms(500)).len(), 1);
        assert_eq!((coalesce.due(), coalesce.len()), (Some(ms(20_000)), 1));
        assert_eq!(keys(coalesce.take(ms(20_000))), ["b"]);
    }
}
