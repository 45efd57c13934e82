//! Which instances a call may go to: rules in order, each of which narrows the set.

mod check;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fields::Kind;
use super::group::group;
use crate::routing::shard::ShardMap;

pub(super) use check::check;
pub use table::RULE;

/// Rules that one service can have.
pub const MAX_RULES: usize = 16;
/// Sets of instances that one service's rules can choose among at one consumer.
pub const MAX_POOLS: usize = 256;
/// Ranges of one shard rule.
pub const MAX_RANGES: usize = 1024;

group! {
    /// Which instances a call may go to.
    policy RoutingPolicy;
    /// Which instances a call may go to, resolved.
    resolved RoutingRules;
    fields {
        @service key: String, Kind::Text(200),
            "what calls are keyed by, for consistent hashing and percentages: a request field (`order.customer_id`) or `metadata:<name>`; by default what the caller named, else the method's `routing_key` option";
        @service rules: Arc<[RoutingRule]>, Kind::List(RULE, MAX_RULES),
            "in order, each narrows the instances that the call may go to; each names exactly one of the kinds below";
    }
}

/// One rule. [`RULE`] documents the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "each is documented in the table that docs/policy.md is made from"
)]
pub enum RoutingRule {
    SameZone(SameZone),
    PrimaryZone(PrimaryZone),
    Shard(Shard),
    Tags(RequiredTags),
    Dye(Dye),
    Percent(Percent),
    Expression(ExpressionRule),
}

/// The consumer's own zone first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "see RULE")]
pub struct SameZone {
    pub spill_below_percent: u32,
}

/// One zone for all consumers first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "see RULE")]
pub struct PrimaryZone {
    pub zone: String,
    pub standby: Vec<String>,
    pub spill_below_percent: u32,
}

/// A key → the zone or the tag that owns it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "see RULE")]
pub struct Shard {
    pub key: Option<String>,
    pub no_key: NoKey,
    pub buckets: Option<u32>,
    pub ranges: Vec<ShardRange>,
}

/// What becomes of a call without a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoKey {
    /// It fails with `no_instance`.
    #[default]
    Refuse,
    /// The rule does not narrow.
    Any,
}

/// Keys from `from` up to and without `to`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "see RULE")]
pub struct ShardRange {
    pub from: Option<Bound>,
    pub to: Option<Bound>,
    pub zone: Option<String>,
    pub tag: BTreeMap<String, String>,
}

/// One end of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bound {
    /// Keys are compared as whole numbers.
    Number(i64),
    /// Keys are compared byte by byte.
    Text(String),
}

/// Instances with certain tags alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "see RULE")]
pub struct RequiredTags {
    pub require: BTreeMap<String, String>,
}

/// Coloured calls to the instances of their colour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "see RULE")]
pub struct Dye {
    pub tag: String,
    pub metadata: Option<String>,
    pub fallback: bool,
}

/// A share of the calls to the instances with certain tags.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "see RULE")]
pub struct Percent {
    pub percent: f64,
    pub tags: BTreeMap<String, String>,
}

/// A text that yields a zone or a tag's value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "see RULE")]
pub struct ExpressionRule {
    pub text: String,
    pub tag: Option<String>,
}

/// The share of well instances below which calls leave a zone (Envoy's overprovisioning factor of 1.4 makes it 72).
const SPILL_BELOW: u32 = 70;

impl Default for SameZone {
    fn default() -> Self {
        SameZone {
            spill_below_percent: SPILL_BELOW,
        }
    }
}

impl Default for PrimaryZone {
    fn default() -> Self {
        PrimaryZone {
            zone: String::new(),
            standby: Vec::new(),
            spill_below_percent: SPILL_BELOW,
        }
    }
}

impl Default for Dye {
    fn default() -> Self {
        Dye {
            tag: "dye".to_owned(),
            metadata: None,
            fallback: true,
        }
    }
}

impl RoutingRule {
    /// Its name in documents.
    pub fn kind(&self) -> &'static str {
        match self {
            RoutingRule::SameZone(_) => "same_zone",
            RoutingRule::PrimaryZone(_) => "primary_zone",
            RoutingRule::Shard(_) => "shard",
            RoutingRule::Tags(_) => "tags",
            RoutingRule::Dye(_) => "dye",
            RoutingRule::Percent(_) => "percent",
            RoutingRule::Expression(_) => "expression",
        }
    }

    /// Into how many sets it can part one, as far as its text says.
    fn branches(&self) -> usize {
        match self {
            RoutingRule::Tags(_) | RoutingRule::Expression(_) | RoutingRule::Dye(_) => 1,
            RoutingRule::SameZone(_) | RoutingRule::Percent(_) => 2,
            RoutingRule::PrimaryZone(rule) => 1 + rule.standby.len().max(1),
            RoutingRule::Shard(rule) => ShardMap::new(rule).map_or(1, |map| map.owners().len()),
        }
    }
}
