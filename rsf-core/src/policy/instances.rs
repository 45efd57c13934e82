//! Rules for instances: a selector with an expiry, and what holds for the instances that it selects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::PolicyError;
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
    pub drained: Option<bool>,
    pub expires_unix_ms: Option<u64>,
}

impl InstanceRule {
    /// Whether it names nothing that an instance would have to be.
    fn selects_all(&self) -> bool {
        self.instance.is_none() && self.zone.is_none() && self.tags.is_empty()
    }

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

/// Rules after which no instance is left, whichever there are.
pub(super) fn problems(rules: &[InstanceRule]) -> Vec<PolicyError> {
    let mut problems = Vec::new();
    for (place, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.selects_all()) {
        let later = &rules[place + 1..];
        let on = |flag: Option<bool>| flag == Some(true);
        let never = |lifts: fn(&InstanceRule) -> bool| !later.iter().any(lifts);
        let fields = [
            (
                "weight",
                rule.weight == Some(0) && never(|later| later.weight.is_some_and(|weight| weight > 0)),
            ),
            (
                "disabled",
                on(rule.disabled) && never(|later| later.disabled == Some(false)),
            ),
            (
                "drained",
                on(rule.drained) && never(|later| later.drained == Some(false)),
            ),
        ];
        for (field, _) in fields.into_iter().filter(|(_, empties)| *empties) {
            problems.push(PolicyError {
                path: format!("instances[{place}].{field}"),
                problem: "takes every instance out; name `instance`, `zone` or `tags`, or let a later rule take some in \
                          again. (What is to answer in a service's place is `call.degrade`.)"
                    .to_owned(),
            });
        }
    }
    problems
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
        "drained",
        Kind::Flag,
        "false",
        "true: as if the instance said itself that it ends: no new calls, those under way and their streams finish",
    ),
    field(
        "expires_unix_ms",
        Kind::Integer(0, u64::MAX),
        "never",
        "Unix milliseconds after which the rule is void",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_leave_no_instance_are_found() {
        let found = |json: &str| {
            let rules: Vec<InstanceRule> = serde_json::from_str(json).unwrap();
            let problems = problems(&rules).into_iter().map(|problem| problem.path);
            problems.collect::<Vec<_>>()
        };
        for (rules, wrong) in [
            (r#"[{"weight":0}]"#, &["instances[0].weight"][..]),
            (r#"[{"weight":5},{"disabled":true}]"#, &["instances[1].disabled"]),
            (
                r#"[{"drained":true,"weight":0}]"#,
                &["instances[0].weight", "instances[0].drained"],
            ),
            (
                r#"[{"drained":true,"expires_unix_ms":7}]"#,
                &["instances[0].drained"],
            ),
            (
                r#"[{"zone":"east","weight":0},{"instance":"a/1","drained":true}]"#,
                &[],
            ),
            (r#"[{"weight":0},{"zone":"east","weight":100}]"#, &[]),
            (
                r#"[{"zone":"east","weight":100},{"weight":0}]"#,
                &["instances[1].weight"],
            ),
            (
                r#"[{"disabled":true},{"tags":{"rack":"7"},"disabled":false}]"#,
                &[],
            ),
        ] {
            assert_eq!(found(rules), wrong, "{rules}");
        }
    }
}
