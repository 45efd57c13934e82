//! The way of calls that bring nothing with them that a rule could ask for: found once for all of them, and again when the
//! health of a zone that decides about it is looked at again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::rules::{CompiledRules, Does};
use super::tree::{Node, Routes};
use crate::moment::Moment;
use crate::policy::routing::MAX_POOLS;

/// Where such calls go.
pub(super) struct Usual {
    /// A lot from here on is within no rule's share.
    shares: u64,
    /// What was found for calls without a key and with such a lot, which all go one way: the pool in the low bits, and above
    /// it the millisecond until which that holds.
    plain: AtomicU64,
}

/// Bits of a pool's place.
const POOL_BITS: u32 = 16;
const _: () = assert!(MAX_POOLS < 1 << POOL_BITS);

impl Usual {
    pub(super) fn new(rules: &CompiledRules) -> Usual {
        let shares = rules.rules.iter().map(|rule| match rule.does {
            Does::Percent { share, .. } => share,
            _ => 0,
        });
        Usual {
            shares: shares.max().unwrap_or(0),
            plain: AtomicU64::new(0),
        }
    }
}

impl Routes {
    /// The pool of a call without a colour that meets nothing out of the ordinary: first tiers are well, and no rule asks
    /// what the call is about. `None` where one does, or where that way leads nowhere.
    #[inline(always)]
    pub(super) fn usual(&self, key: Option<u64>, lot: u64, now: Moment) -> Option<usize> {
        if key.is_some() || lot < self.usual.shares {
            return self.find_usual(key, lot, now).map(|(pool, _)| pool);
        }
        let known = self.usual.plain.load(Ordering::Relaxed);
        if now.millis() < known >> POOL_BITS {
            return Some(known as usize & ((1 << POOL_BITS) - 1));
        }
        self.find_plain(lot, now)
    }

    #[cold]
    fn find_plain(&self, lot: u64, now: Moment) -> Option<usize> {
        let (pool, until) = self.find_usual(None, lot, now)?;
        let until = until.min(u64::MAX >> POOL_BITS);
        self.usual
            .plain
            .store(until << POOL_BITS | pool as u64, Ordering::Relaxed);
        Some(pool)
    }

    /// The pool, and the millisecond until which all that was asked on the way is believed.
    fn find_usual(&self, key: Option<u64>, lot: u64, now: Moment) -> Option<(usize, u64)> {
        let (mut node, mut until) = (self.root, u64::MAX);
        loop {
            node = match &self.nodes[node] {
                Node::Pool(pool) => return Some((*pool, until)),
                Node::Prefer {
                    tiers,
                    spill_below_percent,
                    ..
                } => {
                    let first = tiers.first()?;
                    let (percent, believed) = first.health.known(now);
                    if percent < u64::from(*spill_below_percent) {
                        return None;
                    }
                    until = until.min(believed);
                    first.node
                }
                Node::Percent { rule, with, without } => {
                    let Does::Percent { share, .. } = &self.rules.rules[*rule].does else {
                        return None;
                    };
                    let (_, canary) = self.drawn(*rule, *share, [*with, *without], key, lot);
                    if canary { *with } else { *without }
                }
                Node::Named { rule, other, .. }
                    if matches!(self.rules.rules[*rule].does, Does::Dye { .. }) =>
                {
                    *other
                }
                _ => return None,
            };
        }
    }
}
