//! One instance as it was last seen, on each source that had its lease.

use std::collections::BTreeSet;
use std::time::Duration;

use rsf_registry::record::Lease;

use crate::evidence::Finding;
use crate::listed::is_tombstone;
use crate::shrink::ShrinkRule;

/// One instance: its newest lease, who has it, and where it is listed.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The lease with the greatest `(incarnation, sequence)` that any source told.
    pub(super) lease: Lease,
    /// One for each source that had a lease of this instance and has not been believed to have lost it.
    pub(super) copies: Vec<Copy>,
    /// Until when it is believed although only a published list names it.
    pub(super) restored: Option<Restored>,
    /// Whether it is among the suspects: a copy is missing, or only a published list names it.
    pub(super) suspect: bool,
    /// It left all lists, and is remembered until then because a source may still have an older lease of it.
    pub(super) left: Option<Duration>,
    /// What a probe found since it went missing, and when.
    pub(super) found: Option<(Finding, Duration)>,
    pub(super) listed: BTreeSet<String>,
}

/// The lease as one source had it last.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) source: usize,
    pub(super) order: (u64, u64),
    /// When it runs out unless it is renewed.
    pub(super) deadline: Duration,
    /// The longest rest of life it was seen with.
    pub(super) ttl: Duration,
    /// When the question was sent whose answer this is.
    pub(super) asked: Duration,
    /// When the source last confirmed it.
    pub(super) confirmed: Duration,
    /// The sweep that saw it last.
    pub(super) sweep: u64,
    pub(super) missing: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Restored {
    pub(super) deadline: Duration,
    pub(super) ttl: Duration,
}

/// Whether an instance may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// A source has its lease.
    Here,
    /// The source that had its lease last does not answer: it stays, unless evidence says that it is gone.
    Unheard { deadline: Duration },
    /// Whoever had its lease last has it no more; `trusted` says whether that is to be believed.
    Gone { deadline: Duration, trusted: bool },
}

impl Known {
    pub(super) fn order(&self) -> (u64, u64) {
        (self.lease.incarnation, self.lease.sequence)
    }

    pub(super) fn copy(&mut self, source: usize) -> Option<&mut Copy> {
        self.copies.iter_mut().find(|copy| copy.source == source)
    }

    /// The copies that speak for the newest incarnation; an older one only shows that an older start is not forgotten.
    pub(super) fn current(&self) -> impl Iterator<Item = &Copy> {
        let incarnation = self.lease.incarnation;
        self.copies.iter().filter(move |copy| copy.order.0 == incarnation)
    }

    /// A source that answers and has the lease keeps the instance; otherwise the source that confirmed it last decides,
    /// for to it the instance moved last.
    pub(super) fn standing(&self, now: Duration, rule: &ShrinkRule) -> Standing {
        if self
            .current()
            .any(|copy| !copy.missing && !rule.is_silent(copy.source))
        {
            return Standing::Here;
        }
        match self.current().max_by_key(|copy| (copy.confirmed, !copy.missing)) {
            Some(last) if !last.missing => Standing::Unheard {
                deadline: last.deadline,
            },
            Some(last) => Standing::Gone {
                deadline: last.deadline,
                trusted: rule.trusts(last.source, now, last.ttl),
            },
            None => {
                let restored = self.restored.unwrap_or(Restored {
                    deadline: Duration::ZERO,
                    ttl: Duration::ZERO,
                });
                Standing::Gone {
                    deadline: restored.deadline,
                    trusted: rule.trusts_all(now, restored.ttl),
                }
            }
        }
    }

    /// Whether nothing but rule R's rate keeps it: no source that answers has it, and its time is over.
    pub(super) fn may_leave(&self, now: Duration, rule: &ShrinkRule) -> bool {
        match self.standing(now, rule) {
            Standing::Here => false,
            Standing::Unheard { deadline } => deadline <= now,
            Standing::Gone { deadline, trusted } => trusted && deadline <= now,
        }
    }

    /// When `source` wants to be asked for this instance; `None` where it has said that it has nothing.
    pub(super) fn deadline(&self, source: usize) -> Option<Duration> {
        let copy = self.copies.iter().find(|copy| copy.source == source);
        match (copy, self.restored) {
            (Some(copy), _) => (!copy.missing).then_some(copy.deadline),
            (None, Some(restored)) => Some(restored.deadline),
            (None, None) => None,
        }
    }

    /// Whether a source has been seen to have it and is not known to have lost it, by the source's own word.
    pub(super) fn is_alive_on(&self, source: usize) -> bool {
        let has = self
            .copies
            .iter()
            .any(|copy| copy.source == source && !copy.missing);
        has && !is_tombstone(&self.lease)
    }

    /// Drops what is known to be gone while the instance is elsewhere.
    pub(super) fn prune(&mut self, now: Duration) {
        let incarnation = self.lease.incarnation;
        self.copies
            .retain(|copy| !copy.missing || (copy.order.0 == incarnation && copy.deadline > now));
        self.suspect = self.copies.iter().any(|copy| copy.missing);
    }

    /// What is known of it now, if that is not older than `life`.
    pub(super) fn finding(&self, now: Duration, life: Duration) -> Option<Finding> {
        let (finding, at) = self.found?;
        (now < at + life).then_some(finding)
    }

    /// Whether a source may still have a lease of this instance.
    pub(super) fn lingers(&self) -> bool {
        self.copies.iter().any(|copy| !copy.missing)
    }
}
