//! Rules for instances: a selector with an expiry, and what holds for the instances that it selects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fields::{Field, Kind, Level};
use crate::control::Instance;

/// A selector of instances, with an expiry, and what holds for them. [`INSTANCE`] documents the fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "each field is documented in the table that docs/policy.md is made from"
)]
pub struct InstanceRule {
    pub instance: Option<String>,
    pub zone: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub weight: Option<u32>,
    pub disabled: Option<bool>,
    pub expires_unix_ms: Option<u64>,
}

impl InstanceRule {
    /// Whether the rule speaks of `instance` at `unix_ms`.
    pub fn selects(&self, instance: &Instance, unix_ms: u64) -> bool {
        self.expires_unix_ms.is_none_or(|end| unix_ms < end)
            && self.instance.as_deref().is_none_or(|id| id == &*instance.id)
            && self.zone.as_deref().is_none_or(|zone| zone == &*instance.zone)
            && self
                .tags
                .iter()
                .all(|(key, value)| instance.tags.get(key) == Some(value))
    }
}

const fn field(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Field {
    Field {
        name,
        kind,
        default,
        level: Level::Method,
        doc,
    }
}

/// The fields of a rule for instances.
pub(super) const INSTANCE: &[Field] = &[
    field(
        "instance",
        Kind::Text(200),
        "any",
        "the instance's id that the rule is for",
    ),
    field("zone", Kind::Text(200), "any", "the zone that the rule is for"),
    field(
        "tags",
        Kind::Texts,
        "any",
        "tags that an instance must all have for the rule",
    ),
    field(
        "weight",
        Kind::Integer(0, 10_000),
        "its own",
        "relative share of the calls; 0 takes none",
    ),
    field("disabled", Kind::Flag, "false", "true: takes no calls at all"),
    field(
        "expires_unix_ms",
        Kind::Integer(0, u64::MAX),
        "never",
        "Unix milliseconds after which the rule is void",
    ),
];
