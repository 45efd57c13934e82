//! The deadlines of all known leases, on the pump's own monotonic clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

/// When each lease wants to be checked at the source.
///
/// A renewal costs nothing here: an entry that comes due early is looked up and put back with its newer deadline.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    queue: BinaryHeap<Reverse<(Duration, String)>>,
    queued: HashMap<String, Duration>,
}

impl Deadlines {
    /// Sees to it that `instance` is looked at when `deadline` is reached, or earlier.
    pub(crate) fn schedule(&mut self, instance: &str, deadline: Duration) {
        if self.queued.get(instance).is_none_or(|queued| deadline < *queued) {
            self.queued.insert(instance.to_owned(), deadline);
            self.queue.push(Reverse((deadline, instance.to_owned())));
        }
    }

    /// When the next entry comes due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Takes out the instances whose newest deadline, as `deadline` knows it, has been reached by `now`.
    pub(crate) fn due(&mut self, now: Duration, deadline: impl Fn(&str) -> Option<Duration>) -> Vec<String> {
        let mut due = Vec::new();
        while self.next().is_some_and(|next| next <= now) {
            let Some(Reverse((at, instance))) = self.queue.pop() else {
                break;
            };
            if self.queued.get(&instance) != Some(&at) {
                continue;
            }
            self.queued.remove(&instance);
            match deadline(&instance) {
                Some(newer) if newer > now => self.schedule(&instance, newer),
                Some(_) => due.push(instance),
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
        for instance in ["dead", "renewed", "forgotten"] {
            deadlines.schedule(instance, secs(15));
        }
        deadlines.schedule("dead", secs(20));
        assert_eq!(deadlines.next(), Some(secs(15)));
        let known = |instance: &str| match instance {
            "dead" => Some(secs(15)),
            "renewed" => Some(secs(25)),
            _ => None,
        };
        assert_eq!(deadlines.due(secs(15), known), ["dead"]);
        assert_eq!(deadlines.next(), Some(secs(25)));
    }

    #[test]
    fn an_earlier_deadline_wins() {
        let mut deadlines = Deadlines::default();
        deadlines.schedule("a", secs(30));
        deadlines.schedule("a", secs(10));
        assert_eq!(deadlines.due(secs(10), |_| Some(secs(10))), ["a"]);
        assert_eq!(
            deadlines.due(secs(30), |_| Some(secs(10))),
            Vec::<String>::new(),
            "the later entry is stale"
        );
    }
}
