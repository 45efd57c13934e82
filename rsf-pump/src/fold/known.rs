//! One instance as it was last seen, on each source that had its lease.

use std::sync::Arc;
use std::time::Duration;

use super::held::{Held, ServiceId};
use crate::evidence::{Finding, Suspect};
use crate::shrink::ShrinkRule;

/// One instance: its newest lease, who has it, and where it is listed.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: Arc<str>,
    /// The lease with the greatest `(incarnation, sequence)` that any source told.
    pub(super) held: Held,
    /// One for each source that had a lease of this instance and has not been believed to have lost it.
    pub(super) copies: Vec<Copy>,
    /// Until when it is believed although only a published list names it.
    pub(super) restored: Option<Restored>,
    /// Whether it is among the suspects: a copy is missing, or only a published list names it.
    pub(super) suspect: bool,
    /// It left all lists, and is remembered until then because a source may still have an older lease of it.
    pub(super) left: Option<Duration>,
    /// What evidence said since it went missing, and when.
    pub(super) found: Option<(Finding, Duration)>,
    /// The services in whose lists it stands, sorted.
    pub(super) listed: Arc<[ServiceId]>,
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
    /// An instance that nobody has told of yet.
    pub(super) fn new(id: Arc<str>, held: Held) -> Self {
        Known {
            id,
            held,
            copies: Vec::new(),
            restored: None,
            suspect: false,
            left: None,
            found: None,
            listed: Arc::default(),
        }
    }

    pub(super) fn order(&self) -> (u64, u64) {
        self.held.order()
    }

    pub(super) fn copy(&mut self, source: usize) -> Option<&mut Copy> {
        self.copies.iter_mut().find(|copy| copy.source == source)
    }

    pub(super) fn add(&mut self, copy: Copy) {
        // Nearly all instances are on one source, and there are hundreds of thousands of them.
        self.copies.reserve_exact(1);
        self.copies.push(copy);
    }

    pub(super) fn is_listed(&self) -> bool {
        !self.listed.is_empty()
    }

    pub(super) fn is_listed_in(&self, service: ServiceId) -> bool {
        self.listed.binary_search(&service).is_ok()
    }

    /// The copies that speak for the newest incarnation; an older one only shows that an older start is not forgotten.
    pub(super) fn current(&self) -> impl Iterator<Item = &Copy> {
        let incarnation = self.held.incarnation;
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
        has && !self.held.is_tombstone()
    }

    /// Drops what is known to be gone while the instance is elsewhere.
    pub(super) fn prune(&mut self, now: Duration) {
        let incarnation = self.held.incarnation;
        self.copies
            .retain(|copy| !copy.missing || (copy.order.0 == incarnation && copy.deadline > now));
        self.suspect = self.copies.iter().any(|copy| copy.missing);
    }

    /// What is known of it now, if that is not older than `life`.
    pub(super) fn finding(&self, now: Duration, life: Duration) -> Option<Finding> {
        let (finding, at) = self.found?;
        (now < at + life).then_some(finding)
    }

    /// About when its lease was last renewed, as far as a source has told.
    pub(super) fn renewed(&self) -> Option<Duration> {
        let there = self.current().filter(|copy| !copy.missing);
        there.map(|copy| copy.deadline.saturating_sub(copy.ttl)).max()
    }

    /// As evidence is asked for it.
    pub(super) fn suspect(&self) -> Suspect {
        Suspect {
            instance: self.id.to_string(),
            incarnation: self.held.incarnation,
            address: self.held.address.to_string(),
        }
    }

    /// Whether a source may still have a lease of this instance.
    pub(super) fn lingers(&self) -> bool {
        self.copies.iter().any(|copy| !copy.missing)
    }
}
