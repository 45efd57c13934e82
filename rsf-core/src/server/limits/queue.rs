//! The calls that wait for a place in the pool, and which of them is next.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::MethodLimits;
use super::groups::Shares;
use super::pool::PoolPlace;
use crate::policy::Priority;

/// Each eighth place goes to the call that has waited longest, whatever its priority, so that a stream of important calls
/// starves nobody.
const FAIRNESS: u32 = 8;

/// The lane of all methods without a share of their own.
const COMMON: usize = usize::MAX;

/// What a waiting call gets in the end.
pub(super) type Grant = Result<PoolPlace, Left>;

/// Why a call left the queue without a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// What time it had left was less than its handler usually takes.
    TooLate,
    /// It had waited as long as policy allows.
    TimedOut,
    /// A call of higher priority took its place in the full queue.
    Displaced,
}

/// A call in the queue.
pub(super) struct Waiter {
    pub(super) grant: oneshot::Sender<Grant>,
    pub(super) deadline: Option<Instant>,
    pub(super) method: Arc<MethodLimits>,
    pub(super) shares: Shares,
}

impl Waiter {
    /// Whether it would run in vain.
    pub(super) fn is_too_late(&self, now: Instant) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= now + self.method.handling.get())
    }
}

/// Finds a waiting call again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    lane: usize,
    class: usize,
    number: u64,
}

/// One class's calls, in order of arrival.
type Class = BTreeMap<u64, Waiter>;

/// All waiting calls: in lanes, because a method whose share of the pool is used up must not stand in others' way; in each
/// lane by priority; in each class by arrival.
#[derive(Default)]
pub(super) struct Queue {
    lanes: BTreeMap<usize, [Class; 3]>,
    arrived: u64,
    turn: u32,
}

fn class(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

impl Queue {
    pub(super) fn push(&mut self, priority: Priority, waiter: Waiter) -> Ticket {
        let lane = match waiter.shares.0 {
            Some(_) => waiter.method.number,
            None => COMMON,
        };
        let (class, number) = (class(priority), self.arrived);
        self.arrived += 1;
        self.lanes.entry(lane).or_default()[class].insert(number, waiter);
        Ticket { lane, class, number }
    }

    /// Takes a call out; `None` where it has left already.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let classes = self.lanes.get_mut(&ticket.lane)?;
        let waiter = classes[ticket.class].remove(&ticket.number);
        if classes.iter().all(BTreeMap::is_empty) {
            self.lanes.remove(&ticket.lane);
        }
        waiter
    }

    /// Takes out the next call that may run in a pool of `pool` places.
    pub(super) fn next(&mut self, pool: usize) -> Option<Waiter> {
        let by_arrival = self.turn % FAIRNESS == FAIRNESS - 1;
        let mut next: Option<Ticket> = None;
        for (&lane, classes) in &self.lanes {
            for (class, calls) in classes.iter().enumerate() {
                let Some((&number, waiter)) = calls.first_key_value() else {
                    continue;
                };
                let rank = |class, number| if by_arrival { (0, number) } else { (class, number) };
                let first = next.is_none_or(|next| rank(class, number) < rank(next.class, next.number));
                if first && waiter.shares.may_run(pool) {
                    next = Some(Ticket { lane, class, number });
                }
            }
        }
        let waiter = self.remove(next?);
        self.turn = self.turn.wrapping_add(1);
        waiter
    }

    /// Takes out the newest call of the lowest priority below `priority`.
    pub(super) fn displace(&mut self, priority: Priority) -> Option<Waiter> {
        for lower in (class(priority) + 1..3).rev() {
            let newest = self.lanes.iter().filter_map(|(&lane, classes)| {
                let (&number, _) = classes[lower].last_key_value()?;
                Some(Ticket {
                    lane,
                    class: lower,
                    number,
                })
            });
            if let Some(ticket) = newest.max_by_key(|ticket| ticket.number) {
                return self.remove(ticket);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::RefusalMetrics;

    struct Line {
        queue: Queue,
        method: Arc<MethodLimits>,
        grants: Vec<oneshot::Receiver<Grant>>,
    }

    impl Line {
        fn of(priorities: &[Priority]) -> Line {
            let mut line = Line {
                queue: Queue::default(),
                method: MethodLimits::new("m", RefusalMetrics::unregistered()),
                grants: Vec::new(),
            };
            for priority in priorities {
                let (grant, granted) = oneshot::channel();
                line.grants.push(granted);
                let waiter = Waiter {
                    grant,
                    deadline: None,
                    method: line.method.clone(),
                    shares: Shares::default(),
                };
                line.queue.push(*priority, waiter);
            }
            line
        }

        /// The place of arrival of the call that `take` takes out.
        fn took(&mut self, waiter: Option<Waiter>) -> Option<usize> {
            drop(waiter?.grant);
            let gone = |granted: &mut oneshot::Receiver<Grant>| {
                matches!(granted.try_recv(), Err(oneshot::error::TryRecvError::Closed))
            };
            let place = self.grants.iter_mut().position(gone)?;
            // An open one in its stead, so that it is found once.
            let (open, granted) = oneshot::channel();
            std::mem::forget(open);
            self.grants[place] = granted;
            Some(place)
        }
    }

    use Priority::{High, Low, Normal};

    #[test]
    fn higher_classes_first_and_within_one_by_arrival() {
        let mut line = Line::of(&[Low, Normal, High, Normal, High, Low]);
        let mut order = Vec::new();
        while let Some(waiter) = line.queue.next(1) {
            order.extend(line.took(Some(waiter)));
        }
        assert_eq!(order, [2, 4, 1, 3, 0, 5]);
        assert!(line.queue.lanes.is_empty());
    }

    #[test]
    fn each_eighth_place_goes_to_the_one_that_waited_longest() {
        let mut priorities = vec![Low, Low];
        priorities.extend([High; 20]);
        let mut line = Line::of(&priorities);
        let mut order = Vec::new();
        for _ in 0..16 {
            let waiter = line.queue.next(1);
            order.extend(line.took(waiter));
        }
        assert_eq!((order[7], order[15]), (0, 1), "{order:?}");
    }

    #[test]
    fn the_newest_of_the_lowest_class_makes_room() {
        let mut line = Line::of(&[Low, Low, Normal, Normal]);
        for expected in [Some(1), Some(0), Some(3), Some(2), None] {
            let waiter = line.queue.displace(High);
            assert_eq!(line.took(waiter), expected);
        }
        let mut line = Line::of(&[Low, Normal]);
        assert!(line.queue.displace(Low).is_none());
        let waiter = line.queue.displace(Normal);
        assert_eq!(line.took(waiter), Some(0));
        assert!(line.queue.displace(Normal).is_none());
    }
}
