//! One policy document: its types, and the check that finds all its errors at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::{DOCUMENT, Field, Kind};
use crate::control::{Instance, Scope};

/// Bytes that a document may have at most.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// A validated document. Build it with [`PolicyDocument::parse`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyDocument {
    /// What holds for every call that the scope covers.
    pub call: CallPolicy,
    /// Method name → what differs.
    pub methods: BTreeMap<String, CallPolicy>,
    /// Application name → what differs for its calls.
    pub consumers: BTreeMap<String, CallPolicy>,
    /// Rules for instances, in order.
    pub instances: Vec<InstanceRule>,
    /// The provider's limits.
    pub provider: ProviderPolicy,
    /// Threads that run callbacks.
    pub callback_threads: Option<u32>,
}

/// The part of a policy that a method can have of its own. See [`super::fields`] for units and ranges.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "each field is documented in the table that docs/policy.md is made from"
)]
pub struct CallPolicy {
    pub timeout_ms: Option<u64>,
    pub attempt_timeout_ms: Option<u64>,
    pub retry: RetryPolicy,
    pub balance: Option<Balance>,
    pub node_breaker: NodeBreakerPolicy,
}

/// When a call is attempted again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "each field is documented in the table that docs/policy.md is made from"
)]
pub struct RetryPolicy {
    pub attempts: Option<u32>,
    pub backoff_ms: Option<u64>,
    pub max_backoff_ms: Option<u64>,
    pub budget_percent: Option<u32>,
    pub budget_per_second: Option<u32>,
}

/// When an instance is left alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "each field is documented in the table that docs/policy.md is made from"
)]
pub struct NodeBreakerPolicy {
    pub enabled: Option<bool>,
    pub consecutive_failures: Option<u32>,
    pub ejection_ms: Option<u64>,
    pub max_ejection_ms: Option<u64>,
    pub max_ejected_percent: Option<u32>,
}

/// How an instance is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The lesser pending calls per weight, of candidates drawn by weight.
    LeastPending,
    /// By weight alone.
    Random,
}

/// Limits at the provider's side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "each field is documented in the table that docs/policy.md is made from"
)]
pub struct ProviderPolicy {
    pub pool: Option<u32>,
    pub queue: Option<u32>,
    pub concurrency: BTreeMap<String, u32>,
}

/// A selector of instances, with an expiry, and what holds for them.
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

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[error("{path}: {problem}")]
pub struct PolicyError {
    /// Where, as `call.retry.attempts`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl PolicyDocument {
    /// Parses JSON and checks it against the scope, or returns everything that is wrong with it.
    pub fn parse(scope: &Scope, json: &str) -> Result<Self, Vec<PolicyError>> {
        let whole = |problem: String| {
            vec![PolicyError {
                path: "document".to_owned(),
                problem,
            }]
        };
        if json.len() > MAX_DOCUMENT_BYTES {
            return Err(whole(format!(
                "{} bytes; at most {MAX_DOCUMENT_BYTES} are allowed",
                json.len()
            )));
        }
        let value: Value = serde_json::from_str(json).map_err(|e| whole(format!("is no valid JSON: {e}")))?;
        let mut errors = Vec::new();
        object("", &value, DOCUMENT, &mut errors);
        check_scope(scope, &value, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        serde_json::from_value(value).map_err(|e| whole(e.to_string()))
    }
}

fn check_scope(scope: &Scope, value: &Value, errors: &mut Vec<PolicyError>) {
    let misplaced = |field: &str| value.get(field).is_some_and(|v| !v.is_null());
    if misplaced("methods") && !matches!(scope, Scope::Service(_)) {
        let problem =
            "methods differ only within one service; put it into a `service/<name>` document".to_owned();
        errors.push(PolicyError {
            path: "methods".to_owned(),
            problem,
        });
    }
    for field in ["pool", "queue"] {
        let set = value
            .pointer(&format!("/provider/{field}"))
            .is_some_and(|v| !v.is_null());
        if set && matches!(scope, Scope::Service(_)) {
            let problem = "is the instance's, not a service's; put it into the `application/<name>` document";
            errors.push(PolicyError {
                path: format!("provider.{field}"),
                problem: problem.to_owned(),
            });
        }
    }
    if misplaced("callback_threads") && *scope != Scope::Fleet {
        let problem = "belongs to the `fleet` document, it is one pool a process".to_owned();
        errors.push(PolicyError {
            path: "callback_threads".to_owned(),
            problem,
        });
    }
}

fn object(path: &str, value: &Value, fields: &[Field], errors: &mut Vec<PolicyError>) {
    let Some(map) = value.as_object() else {
        let path = if path.is_empty() { "document" } else { path };
        return errors.push(PolicyError {
            path: path.to_owned(),
            problem: expected("an object", value),
        });
    };
    for (key, value) in map {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match fields.iter().find(|field| field.name == key) {
            Some(_) if value.is_null() => {}
            Some(field) => check(&path, value, field.kind, errors),
            None => {
                let known: Vec<_> = fields.iter().map(|field| field.name).collect();
                errors.push(PolicyError {
                    path,
                    problem: format!("unknown field; known here: {}", known.join(", ")),
                });
            }
        }
    }
}

fn check(path: &str, value: &Value, kind: Kind, errors: &mut Vec<PolicyError>) {
    let problem = match kind {
        Kind::Integer(least, most) => match value.as_u64() {
            Some(n) if (least..=most).contains(&n) => return,
            _ => expected(&format!("an integer from {least} to {most}"), value),
        },
        Kind::Number(least, most) => match value.as_f64() {
            Some(n) if (least..=most).contains(&n) => return,
            _ => expected(&format!("a number from {least} to {most}"), value),
        },
        Kind::Word(words) => match value.as_str() {
            Some(word) if words.contains(&word) => return,
            _ => expected(&format!("one of {}", words.join(", ")), value),
        },
        Kind::Text(most) => match value.as_str() {
            Some(text) if text.len() <= most => return,
            _ => expected(&format!("text of at most {most} bytes"), value),
        },
        Kind::Flag if value.is_boolean() => return,
        Kind::Flag => expected("true or false", value),
        Kind::Object(fields) => return object(path, value, fields, errors),
        Kind::Named(fields) => {
            return entries(path, value, errors, |path, v, errors| {
                object(path, v, fields, errors)
            });
        }
        Kind::Texts => {
            return entries(path, value, errors, |path, v, errors| {
                check(path, v, Kind::Text(200), errors)
            });
        }
        Kind::Numbers(least, most) => {
            let inner = Kind::Integer(least, most);
            return entries(path, value, errors, |path, v, errors| {
                check(path, v, inner, errors)
            });
        }
        Kind::List(fields, most) => match value.as_array() {
            Some(items) if items.len() <= most => {
                for (index, item) in items.iter().enumerate() {
                    object(&format!("{path}[{index}]"), item, fields, errors);
                }
                return;
            }
            _ => expected(&format!("a list of at most {most}"), value),
        },
    };
    errors.push(PolicyError {
        path: path.to_owned(),
        problem,
    });
}

fn entries(
    path: &str,
    value: &Value,
    errors: &mut Vec<PolicyError>,
    each: impl Fn(&str, &Value, &mut Vec<PolicyError>),
) {
    let Some(map) = value.as_object() else {
        return errors.push(PolicyError {
            path: path.to_owned(),
            problem: expected("an object", value),
        });
    };
    for (key, value) in map {
        each(&format!("{path}.{key}"), value, errors);
    }
}

fn expected(what: &str, found: &Value) -> String {
    let mut found = found.to_string();
    if found.len() > 60 {
        let end = found.floor_char_boundary(57);
        found.truncate(end);
        found.push_str("...");
    }
    format!("expected {what}, found {found}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Scope {
        Scope::Service("shop.v1.MemberService".to_owned())
    }

    #[test]
    fn a_document_parses() {
        let json = r#"{"call":{"timeout_ms":200,"retry":{"attempts":2}},"methods":{"Get":{"timeout_ms":50}},
            "instances":[{"instance":"member/1","weight":0}],"provider":{"concurrency":{"Get":2}}}"#;
        let document = PolicyDocument::parse(&service(), json).unwrap();
        assert_eq!(document.call.timeout_ms, Some(200));
        assert_eq!(document.call.retry.attempts, Some(2));
        assert_eq!(document.methods["Get"].timeout_ms, Some(50));
        assert_eq!(document.instances[0].weight, Some(0));
        assert_eq!(document.provider.concurrency["Get"], 2);
    }

    #[test]
    fn all_errors_come_at_once() {
        let json = r#"{"call":{"timeout_ms":0,"retry":{"attempts":9},"balance":"best"},"colour":1,
            "instances":[{"weight":-1}],"methods":{"Get":[]},"callback_threads":2,"provider":{"pool":8}}"#;
        let errors = PolicyDocument::parse(&service(), json).unwrap_err();
        let paths: Vec<_> = errors.iter().map(|e| e.path.as_str()).collect();
        for path in [
            "provider.pool",
            "call.timeout_ms",
            "call.retry.attempts",
            "call.balance",
            "colour",
            "instances[0].weight",
            "methods.Get",
            "callback_threads",
        ] {
            assert!(paths.contains(&path), "{path} is missing in {errors:?}");
        }
        assert_eq!(errors.len(), 8);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "[]", "7", "{", "null", &"x".repeat(MAX_DOCUMENT_BYTES + 1)] {
            assert!(PolicyDocument::parse(&Scope::Fleet, json).is_err());
        }
    }

    #[test]
    fn methods_belong_to_services() {
        let json = r#"{"methods":{"Get":{}}}"#;
        assert!(PolicyDocument::parse(&Scope::Fleet, json).is_err());
        assert!(PolicyDocument::parse(&service(), json).is_ok());
    }

    #[test]
    fn the_table_and_the_types_name_the_same_fields() {
        let whole = serde_json::to_value(PolicyDocument {
            instances: vec![InstanceRule::default()],
            ..PolicyDocument::default()
        })
        .unwrap();
        fn compare(path: &str, value: &Value, fields: &[Field]) {
            let mut named: Vec<_> = fields.iter().map(|f| f.name).collect();
            let mut typed: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
            named.sort_unstable();
            typed.sort_unstable();
            assert_eq!(named, typed, "at {path}");
            for field in fields {
                match field.kind {
                    Kind::Object(inner) => compare(field.name, &value[field.name], inner),
                    Kind::List(inner, _) => compare(field.name, &value[field.name][0], inner),
                    _ => {}
                }
            }
        }
        compare("document", &whole, DOCUMENT);
    }
}
