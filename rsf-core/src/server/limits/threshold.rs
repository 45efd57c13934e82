//! How many calls of a method, or of a group of methods, may be under way; one more is refused at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::MethodLimits;
use super::groups::Group;
use crate::outcome::Reason;
use crate::status::Status;

/// Calls under way, waiting ones included, and how many there may be.
#[derive(Debug)]
pub(super) struct Counter {
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Default for Counter {
    fn default() -> Self {
        Counter {
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Counter {
    pub(super) fn set(&self, most: Option<u32>) {
        self.most
            .store(most.map_or(usize::MAX, |most| most as usize), Ordering::Relaxed);
    }

    /// Takes a place; where all are taken none, not even for a moment, and says how many there are.
    #[inline(always)]
    fn enter(&self) -> Result<(), usize> {
        let most = self.most.load(Ordering::Relaxed);
        let taken = self
            .under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < most).then_some(n + 1)
            });
        taken.map(drop).map_err(|_| most)
    }

    fn leave(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The groups that a call counts in; none for most.
pub(in crate::server) type Groups = Option<Arc<Vec<Arc<Group>>>>;

/// Counts a call in its method's counter and in those of its groups, until [`leave`].
///
/// # Errors
/// The status to refuse the call with.
#[inline(always)]
pub(in crate::server) fn enter(method: &MethodLimits) -> Result<Groups, Status> {
    if let Err(most) = method.threshold.enter() {
        return Err(refusal(method, most));
    }
    let groups = method.groups();
    if let Some(groups) = &groups {
        enter_groups(method, groups)?;
    }
    Ok(groups)
}

/// The call that [`enter`] has counted is over.
#[inline(always)]
pub(in crate::server) fn leave(method: &MethodLimits, groups: &Groups) {
    if let Some(groups) = groups {
        groups.iter().for_each(|group| group.threshold.leave());
    }
    method.threshold.leave();
}

#[cold]
fn refusal(method: &MethodLimits, most: usize) -> Status {
    let problem = format!(
        "{} has {most} calls under way in this instance, its threshold (policy provider.concurrency): raise it, \
         or add instances",
        method.name
    );
    method.refuse(Reason::ProviderLimit, problem)
}

/// A call's place in its method's counter and in those of its groups; free again on drop.
pub(in crate::server) struct ThresholdPlace {
    method: Arc<MethodLimits>,
    groups: Groups,
}

impl ThresholdPlace {
    pub(super) fn take(method: &Arc<MethodLimits>) -> Result<ThresholdPlace, Status> {
        enter(method).map(|groups| ThresholdPlace::of(method.clone(), groups))
    }

    /// The place of a call that [`enter`] has counted.
    pub(in crate::server) fn of(method: Arc<MethodLimits>, groups: Groups) -> ThresholdPlace {
        ThresholdPlace { method, groups }
    }
}

/// Takes a place in each group; where one has none, gives back all that the call has taken.
fn enter_groups(method: &MethodLimits, groups: &[Arc<Group>]) -> Result<(), Status> {
    for (place, group) in groups.iter().enumerate() {
        let Err(most) = group.threshold.enter() else {
            continue;
        };
        for entered in &groups[..place] {
            entered.threshold.leave();
        }
        method.threshold.leave();
        let problem = format!(
            "{}: its group `{}` has {most} calls under way in this instance, its threshold (policy \
             provider.groups.{}.concurrency): raise it, or add instances",
            method.name, group.name, group.name
        );
        return Err(method.refuse(Reason::ProviderLimit, problem));
    }
    Ok(())
}

impl Drop for ThresholdPlace {
    fn drop(&mut self) {
        leave(&self.method, &self.groups);
    }
}
