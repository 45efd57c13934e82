//! What goes on over a change of leaders: the window's losses, and holds, which are published with the lists.

use std::time::Duration;

use rsf_registry::record::ListHold;

use super::{Held, Loss, ShrinkRule};

impl ShrinkRule {
    /// Takes over what an earlier leader let go of a service: `ages` says how long ago, the newest last, of a list that
    /// has `listed` now. The window goes on over a change of leaders. What was let go here counts too, for some of it may
    /// be the same: as much was lost in any time as the greater of both says.
    pub fn inherit(&mut self, now: Duration, service: &str, listed: usize, ages: &[Duration]) {
        let guard = self.services.entry(service.to_owned()).or_default();
        guard.forget(now, self.config.window);
        let window = self.config.window;
        let inherited = ages.iter().rev().zip(1..).map(|(age, later)| Loss {
            at: now.saturating_sub(*age),
            count: 1,
            listed_before: listed + later,
        });
        let mut inherited = inherited.take_while(|loss| loss.at + window > now).peekable();
        let own: Vec<Loss> = guard.losses.drain(..).rev().flat_map(Loss::one_by_one).collect();
        let mut own = own.into_iter().peekable();
        while inherited.peek().is_some() || own.peek().is_some() {
            let (theirs, mine) = (inherited.next(), own.next());
            let later = match (theirs, mine) {
                (Some(theirs), Some(mine)) if theirs.at > mine.at => Some(theirs),
                (theirs, mine) => mine.or(theirs),
            };
            later.into_iter().for_each(|loss| guard.losses.push_front(loss));
        }
    }

    /// Takes over the hold that an earlier leader published with a service's list, `age` after it began: the list keeps
    /// half of what it was before that one. Of two holds the greater list and the earlier beginning count.
    pub fn inherit_hold(&mut self, now: Duration, service: &str, before: usize, age: Duration) {
        if !self.config.enforced {
            return;
        }
        let guard = self.services.entry(service.to_owned()).or_default();
        let hold = guard.hold.get_or_insert(Held {
            since: now,
            inherited: age,
            before,
            held: None,
            answering: 0,
        });
        hold.before = hold.before.max(before);
        if hold.age(now) < age {
            (hold.since, hold.inherited) = (now, age);
        }
    }

    /// The hold on a service, as it is published with its list at `unix_ms`, Unix milliseconds.
    pub fn published_hold(&self, now: Duration, unix_ms: u64, service: &str) -> Option<ListHold> {
        let hold = self.services.get(service)?.hold.as_ref()?;
        let age = u64::try_from(hold.age(now).as_millis()).unwrap_or(u64::MAX);
        Some(ListHold {
            before: u32::try_from(hold.before).unwrap_or(u32::MAX),
            since_unix_ms: unix_ms.saturating_sub(age),
        })
    }

    /// Whether the hold on this service is an earlier leader's, and it is not known yet who is missing.
    pub fn is_inherited(&self, service: &str) -> bool {
        let hold = self.services.get(service).and_then(|guard| guard.hold.as_ref());
        hold.is_some_and(|hold| hold.held.is_none())
    }
}

impl Loss {
    /// Each instance as a loss of its own, the last one first.
    fn one_by_one(self) -> impl Iterator<Item = Loss> {
        (0..self.count).rev().map(move |earlier| Loss {
            at: self.at,
            count: 1,
            listed_before: self.listed_before.saturating_sub(earlier),
        })
    }
}
