//! What goes on over a change of leaders: the window's losses, and holds, which are published with the lists.

use std::time::Duration;

use rsf_registry::limits::MAX_INSTANCES;
use rsf_registry::record::ListHold;

use super::{Held, Loss, ShrinkRule};

impl ShrinkRule {
    /// Takes over what an earlier leader let go of a service: `ages` says how long ago, the newest last, of a list that
    /// has `listed` now. The window goes on over a change of leaders. What was let go here counts too, for some of it may
    /// be the same: as much was lost in any time as the greater of both says. How large the list was before is not
    /// published. Whoever came since makes the window's share no greater, and the floor of a hold no lower.
    pub fn inherit(&mut self, now: Duration, service: &str, listed: usize, ages: &[Duration]) {
        let guard = self.services.entry(service.to_owned()).or_default();
        guard.forget(now);
        let window = self.config.window;
        let recent = ages.iter().rev().take_while(|age| **age < window);
        let inherited = recent.zip(1..).map(|(age, later)| Loss {
            until: now + (window - *age),
            count: 1,
            listed: (listed, listed + later),
        });
        let mut inherited = inherited.peekable();
        let own: Vec<Loss> = guard.losses.drain(..).rev().flat_map(Loss::one_by_one).collect();
        let mut own = own.into_iter().peekable();
        while inherited.peek().is_some() || own.peek().is_some() {
            let (theirs, mine) = (inherited.next(), own.next());
            let later = match (theirs, mine) {
                (Some(theirs), Some(mine)) => Some(Loss {
                    until: theirs.until.max(mine.until),
                    count: 1,
                    listed: (
                        theirs.listed.0.min(mine.listed.0),
                        theirs.listed.1.max(mine.listed.1),
                    ),
                }),
                (theirs, mine) => mine.or(theirs),
            };
            later.into_iter().for_each(|loss| guard.losses.push_front(loss));
        }
    }

    /// Takes over the hold that an earlier leader published with a service's list, `age` after it began: the list keeps
    /// half of what it was before that one. Where a hold lasts here too, the greater list counts, and the beginning that was
    /// published: an operator may have ended the leader's earlier ones.
    pub fn inherit_hold(&mut self, now: Duration, service: &str, before: usize, age: Duration) {
        if !self.config.enforced {
            return;
        }
        let guard = self.services.entry(service.to_owned()).or_default();
        // Whoever may write to the directory cannot make a list one that never shrinks.
        let before = before.min(MAX_INSTANCES);
        let hold = guard.hold.get_or_insert(Held {
            since: now,
            inherited: age,
            before,
            held: 0,
            answering: 0,
        });
        hold.before = hold.before.max(before);
        (hold.since, hold.inherited) = (now, age);
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
}

impl Loss {
    /// Each instance as a loss of its own, the last one first.
    fn one_by_one(self) -> impl Iterator<Item = Loss> {
        let (least, most) = self.listed;
        (0..self.count).rev().map(move |earlier| Loss {
            until: self.until,
            count: 1,
            listed: (least.saturating_sub(earlier), most.saturating_sub(earlier)),
        })
    }
}
