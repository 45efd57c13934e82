//! What the table of fields cannot express: one kind a rule, one owner a key, finitely many pools.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{MAX_POOLS, RULE, RoutingRule};
use crate::policy::document::PolicyError;
use crate::policy::group::join;
use crate::routing::expression::Expression;
use crate::routing::key::{KeyPlace, metadata_name};
use crate::routing::shard::ShardMap;

/// Finds what the table cannot express, in every place of a document where routing rules stand.
pub(in crate::policy) fn check(document: &Value, errors: &mut Vec<PolicyError>) {
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
