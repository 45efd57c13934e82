//! The rules of one snapshot as a tree of questions; [`walk`](super::walk) goes through it.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use super::filter::Filter;
use super::health::Health;
use super::rules::CompiledRules;
use super::usual::Usual;
use crate::control::Instance;
use crate::moment::Moment;
use crate::routing::key::Facts;

/// The compiled routes of one snapshot.
pub(crate) struct Routes {
    pub(super) rules: Arc<CompiledRules>,
    /// The instances of the first pool, in its order.
    pub(super) instances: Vec<Instance>,
    pub(super) nodes: Vec<Node>,
    pub(super) root: usize,
    /// Of each pool the ways that lead to it, as one number: places mean nothing in another snapshot. 0: none does.
    pub(super) ways: Vec<u64>,
    /// The way of most calls.
    pub(super) usual: Usual,
}

impl Routes {
    pub(super) fn new(
        rules: Arc<CompiledRules>,
        instances: Vec<Instance>,
        nodes: Vec<Node>,
        root: usize,
        ways: Vec<u64>,
    ) -> Routes {
        Routes {
            usual: Usual::new(&rules),
            rules,
            instances,
            nodes,
            root,
            ways,
        }
    }

    /// Whether the pool at this place is reached by the same ways as the one that `earlier` had there. The rules must be
    /// the same.
    pub(crate) fn keep_pool(&self, pool: usize, earlier: &Routes) -> bool {
        let way = self.ways.get(pool);
        way.is_some() && way == earlier.ways.get(pool)
    }

    /// Whether any call can come to the pool at this place.
    pub(crate) fn lead_to(&self, pool: usize) -> bool {
        self.ways.get(pool).is_some_and(|ways| *ways != 0)
    }
}

/// A call's question: which pool?
pub(crate) struct Question<'a> {
    pub(super) facts: &'a Facts<'a>,
    pub(super) colour: Option<&'a str>,
    pub(super) key: Option<u64>,
    /// Drawn once a call: however often its way is looked for, it is on the same side of a share.
    pub(super) lot: u64,
    pub(super) now: Moment,
}

/// The answer.
#[derive(Default)]
pub(crate) struct Chosen {
    /// The pool's place in the snapshot.
    pub(super) pool: usize,
    /// The owner of the call's key, as the provider is told.
    pub(super) owner: Option<HeaderValue>,
    /// Whether that key is the one that the caller named.
    pub(super) by_name: bool,
}

/// What a rule said of a call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) rule: usize,
    /// What it keeps.
    pub(super) filter: Filter,
    /// Why, where there is something to say.
    pub(super) because: String,
}

/// No instance is left.
pub(super) struct Stopped {
    pub(super) rule: usize,
    /// Why, where it is not that the rule's filter keeps none.
    pub(super) because: Option<String>,
}

pub(super) enum Node {
    Pool(usize),
    /// The rule at this place leaves none.
    Empty(usize),
    /// More than [`MAX_POOLS`](crate::policy::routing::MAX_POOLS) sets.
    Full(usize),
    Prefer {
        rule: usize,
        tiers: Vec<Tier>,
        spill_below_percent: u32,
    },
    Shard {
        rule: usize,
        owners: Vec<usize>,
        any: usize,
    },
    Percent {
        rule: usize,
        with: usize,
        without: usize,
    },
    /// By the value of a tag or a zone's name.
    Named {
        rule: usize,
        values: HashMap<Box<str>, usize>,
        other: usize,
    },
}

pub(super) struct Tier {
    pub(super) filter: Filter,
    pub(super) health: Health,
    pub(super) node: usize,
}
