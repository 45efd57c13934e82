//! The deadlines of all known leases, on the pump's own monotonic clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::fold::Place;

/// When each lease wants to be checked at the source.
///
/// A renewal costs nothing here: an entry that comes due early is looked up and put back with its newer deadline.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    queue: BinaryHeap<Reverse<(Duration, Place)>>,
    /// By place: the entry that counts.
    queued: Vec<Option<Duration>>,
}

impl Deadlines {
    /// Sees to it that the instance at `place` is looked at when `deadline` is reached, or earlier.
    pub(crate) fn schedule(&mut self, place: Place, deadline: Duration) {
        if self.queued.len() <= place.index() {
            self.queued.resize(place.index() + 1, None);
        }
        let queued = &mut self.queued[place.index()];
        if queued.is_none_or(|queued| deadline < queued) {
            *queued = Some(deadline);
            self.queue.push(Reverse((deadline, place)));
        }
    }

    /// When the next entry comes due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Takes out the places whose newest deadline, as `deadline` knows it, has been reached by `now`.
    pub(crate) fn due(&mut self, now: Duration, deadline: impl Fn(Place) -> Option<Duration>) -> Vec<Place> {
        let mut due = Vec::new();
        while self.next().is_some_and(|next| next <= now) {
            let Some(Reverse((at, place))) = self.queue.pop() else {
                break;
            };
            let queued = self.queued.get_mut(place.index());
            if queued.is_none_or(|queued| queued.take_if(|queued| *queued == at).is_none()) {
                continue;
            }
            match deadline(place) {
                Some(newer) if newer > now => self.schedule(place, newer),
                Some(_) => due.push(place),
                None => {}
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_renewed_lease_is_put_back_and_a_forgotten_one_dropped() {
        let mut deadlines = Deadlines::default();
        let [dead, renewed, forgotten] = [0, 1, 2].map(Place::at);
        for place in [dead, renewed, forgotten] {
            deadlines.schedule(place, secs(15));
        }
        deadlines.schedule(dead, secs(20));
        assert_eq!(deadlines.next(), Some(secs(15)));
        let known = |place: Place| match place {
            place if place == dead => Some(secs(15)),
            place if place == renewed => Some(secs(25)),
            _ => None,
        };
        assert_eq!(deadlines.due(secs(15), known), [dead]);
        assert_eq!(deadlines.next(), Some(secs(25)));
    }

    #[test]
    fn an_earlier_deadline_wins() {
        let mut deadlines = Deadlines::default();
        let place = Place::at(7);
        deadlines.schedule(place, secs(30));
        deadlines.schedule(place, secs(10));
        assert_eq!(deadlines.due(secs(10), |_| Some(secs(10))), [place]);
        assert_eq!(
            deadlines.due(secs(30), |_| Some(secs(10))),
            Vec::new(),
            "the later entry is stale"
        );
    }
}
