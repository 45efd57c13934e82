//! Which instances a call may go to: rules in order, each of which narrows the set.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::document::PolicyError;
use super::fields::{Field, Kind, Level};
use super::group::{group, join};
use crate::routing::expression::Expression;
use crate::routing::key::{KeyPlace, metadata_name};
use crate::routing::shard::ShardMap;

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

const fn field(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Field {
    Field {
        name,
        kind,
        default,
        level: Level::Service,
        doc,
    }
}

const SPILL: Field = field(
    "spill_below_percent",
    Kind::Integer(0, 100),
    "70",
    "percent of the zone's instances that are well below which calls spill to the others, the more the fewer are well; 0: never while it has one",
);

/// The fields of a rule, one of which each rule has.
pub const RULE: &[Field] = &[
    field(
        "same_zone",
        Kind::Object(&[SPILL]),
        "",
        "the consumer's own zone first; spills to the others by health, at once where it has no instance",
    ),
    field(
        "primary_zone",
        Kind::Object(&[
            field(
                "zone",
                Kind::Text(200),
                "required",
                "the zone that all consumers prefer",
            ),
            field(
                "standby",
                Kind::TextList(200, 16),
                "all others",
                "the zones that it spills to, in order, and no others; an empty list: all others",
            ),
            SPILL,
        ]),
        "",
        "one zone for all consumers; spills to the others by health",
    ),
    field(
        "shard",
        Kind::Object(&[
            field(
                "key",
                Kind::Text(200),
                "as `call.routing.key`",
                "the request field (`order.customer_id`) or `metadata:<name>` that names the owner",
            ),
            field(
                "no_key",
                Kind::Word(&["refuse", "any"]),
                "refuse",
                "what becomes of a call without a key: it fails, or the rule does not narrow",
            ),
            field(
                "buckets",
                Kind::Integer(1, 1_000_000),
                "none",
                "the ranges are of the key's hash modulo this number; without it they are of the key itself",
            ),
            field(
                "ranges",
                Kind::List(RANGE, MAX_RANGES),
                "required",
                "which keys belong where; they may not overlap",
            ),
        ]),
        "",
        "the zone or tag that owns the call's key, never another; the provider checks it again (`wrong_shard`); at most one such rule",
    ),
    field(
        "tags",
        Kind::Object(&[field(
            "require",
            Kind::Texts,
            "required",
            "tags that an instance must all have",
        )]),
        "",
        "instances with these tags alone",
    ),
    field(
        "dye",
        Kind::Object(&[
            field(
                "tag",
                Kind::Text(200),
                "dye",
                "the tag that names an instance's colour",
            ),
            field(
                "metadata",
                Kind::Text(200),
                "none",
                "the metadata key that colours a call, beside the colour that it inherited (`rsf-dye`)",
            ),
            field(
                "fallback",
                Kind::Flag,
                "true",
                "whether a coloured call goes to the instances without a colour where none has its colour",
            ),
        ]),
        "",
        "coloured calls to the instances of their colour, the others to those without; the colour travels down the call chain",
    ),
    field(
        "percent",
        Kind::Object(&[
            field(
                "percent",
                Kind::Number(0.0, 100.0),
                "0",
                "share of the calls, by the key's hash or at random",
            ),
            field(
                "tags",
                Kind::Texts,
                "required",
                "the instances that get it; the others get the rest",
            ),
        ]),
        "",
        "a canary by percentage; where either side has no instance the other gets all",
    ),
    field(
        "expression",
        Kind::Object(&[
            field(
                "text",
                Kind::Text(crate::routing::expression::MAX_BYTES),
                "required",
                "yields a zone's name, or \"\" to choose nothing; see routing.md",
            ),
            field(
                "tag",
                Kind::Text(200),
                "none",
                "the tag whose value the expression yields, instead of a zone",
            ),
        ]),
        "",
        "a zone or a tag computed from the request",
    ),
];

const RANGE: &[Field] = &[
    field(
        "from",
        Kind::Json(200),
        "lowest",
        "the first key: a whole number or a text, of one sort in all ranges",
    ),
    field(
        "to",
        Kind::Json(200),
        "highest",
        "the first key that is no longer in the range",
    ),
    field(
        "zone",
        Kind::Text(200),
        "none",
        "the zone that owns the keys; this or `tag`",
    ),
    field(
        "tag",
        Kind::Texts,
        "none",
        "the one tag whose instances own the keys",
    ),
];

/// Finds what the table cannot express, in every place of a document where routing rules stand.
pub(super) fn check(document: &Value, errors: &mut Vec<PolicyError>) {
    check_routing("call.routing", &document["call"]["routing"], errors);
    for (name, call) in document["consumers"].as_object().into_iter().flatten() {
        check_routing(&format!("consumers.{name}.routing"), &call["routing"], errors);
    }
}

fn check_routing(path: &str, routing: &Value, errors: &mut Vec<PolicyError>) {
    let mut found = Found {
        errors,
        path: String::new(),
    };
    if let Some(key) = routing["key"].as_str() {
        found.path = join(path, "key");
        found.note("", KeyPlace::parse(Some(key)).map(drop));
    }
    let mut pools = 1usize;
    let mut shards = 0;
    for (place, value) in routing["rules"].as_array().into_iter().flatten().enumerate() {
        found.path = format!("{path}.rules[{place}]");
        let Some(rule) = found.rule(value) else { continue };
        found.check(&rule);
        pools = pools.saturating_mul(rule.branches());
        shards += usize::from(matches!(rule, RoutingRule::Shard(_)));
    }
    found.path = join(path, "rules");
    if shards > 1 {
        found.error("", "more than one `shard` rule; a key has one owner".to_owned());
    }
    if pools > MAX_POOLS {
        found.error("", format!("these rules together can choose among {pools} sets of instances; at most {MAX_POOLS} are allowed"));
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

struct Found<'a> {
    errors: &'a mut Vec<PolicyError>,
    path: String,
}

impl Found<'_> {
    fn error(&mut self, path: &str, problem: String) {
        let path = match path {
            "" => self.path.clone(),
            _ => join(&self.path, path),
        };
        self.errors.push(PolicyError { path, problem });
    }

    fn note(&mut self, path: &str, result: Result<(), String>) {
        if let Err(problem) = result {
            self.error(path, problem);
        }
    }

    /// The rule that a value holds; `None` where the table or this has found it wrong.
    fn rule(&mut self, value: &Value) -> Option<RoutingRule> {
        let map = value.as_object()?;
        if map.len() != 1 || map.values().any(Value::is_null) {
            let known: Vec<_> = RULE.iter().map(|field| field.name).collect();
            self.error("", format!("a rule names exactly one of {}", known.join(", ")));
            return None;
        }
        let tabled = self.errors.iter().any(|error| error.path.starts_with(&self.path));
        match serde_json::from_value(value.clone()) {
            Ok(rule) => Some(rule),
            Err(_) if tabled => None,
            Err(error) => {
                // `from` and `to` hold any JSON as far as the table knows.
                self.error("", format!("{error}; `from` and `to` are whole numbers or texts"));
                None
            }
        }
    }

    fn check(&mut self, rule: &RoutingRule) {
        match rule {
            RoutingRule::SameZone(_) => {}
            RoutingRule::PrimaryZone(rule) => {
                if rule.zone.is_empty() {
                    self.error("primary_zone.zone", "is required".to_owned());
                }
                if rule.standby.contains(&rule.zone) {
                    self.error(
                        "primary_zone.standby",
                        format!("names the primary zone `{}` itself", rule.zone),
                    );
                }
            }
            RoutingRule::Shard(rule) => {
                self.note("shard.key", KeyPlace::parse(rule.key.as_deref()).map(drop));
                self.note("shard.ranges", ShardMap::new(rule).map(drop));
            }
            RoutingRule::Tags(rule) => self.required("tags.require", &rule.require),
            RoutingRule::Dye(rule) => {
                if rule.tag.is_empty() {
                    self.error(
                        "dye.tag",
                        "is empty; name the tag that holds an instance's colour".to_owned(),
                    );
                }
                if let Some(name) = &rule.metadata {
                    self.note("dye.metadata", metadata_name(name).map(drop));
                }
            }
            RoutingRule::Percent(rule) => self.required("percent.tags", &rule.tags),
            RoutingRule::Expression(rule) => {
                self.note("expression.text", Expression::parse(&rule.text).map(drop));
                if rule.tag.as_deref() == Some("") {
                    self.error(
                        "expression.tag",
                        "is empty; name a tag, or leave it out for a zone".to_owned(),
                    );
                }
            }
        }
    }

    fn required(&mut self, path: &str, tags: &BTreeMap<String, String>) {
        if tags.is_empty() {
            self.error(path, "is required: at least one tag".to_owned());
        }
    }
}
