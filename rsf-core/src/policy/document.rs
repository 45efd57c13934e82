//! One policy document: its types, and the check that finds all its errors at once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::balance::is_name;
use super::call::CallPolicy;
use super::fields::{DOCUMENT, Field, Kind, Level};
use super::group::join;
use super::instances::InstanceRule;
use super::provider::ProviderPolicy;
use crate::control::Scope;

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
    /// What holds at the provider's side.
    pub provider: ProviderPolicy,
    /// Threads that run callbacks.
    pub callback_threads: Option<u32>,
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
        let mut check = Check {
            scope,
            in_method: false,
            errors: Vec::new(),
        };
        check.object("", &value, DOCUMENT);
        super::routing::check(&value, &mut check.errors);
        if !check.errors.is_empty() {
            return Err(check.errors);
        }
        let document: PolicyDocument = serde_json::from_value(value).map_err(|e| whole(e.to_string()))?;
        let problems = document.problems();
        match problems.is_empty() {
            true => Ok(document),
            false => Err(problems),
        }
    }

    /// What is wrong although each field by itself holds what it may.
    fn problems(&self) -> Vec<PolicyError> {
        let call = std::iter::once(("call".to_owned(), &self.call));
        let methods = self
            .methods
            .iter()
            .map(|(name, call)| (join("methods", name), call));
        let consumers = self
            .consumers
            .iter()
            .map(|(name, call)| (join("consumers", name), call));
        let mut problems = Vec::new();
        self.provider.check(&mut problems);
        problems.extend(super::instances::problems(&self.instances));
        for (path, call) in call.chain(methods).chain(consumers) {
            for (field, problem) in call.degrade.problems() {
                problems.push(PolicyError {
                    path: format!("{path}.degrade.{field}"),
                    problem,
                });
            }
        }
        problems
    }
}

/// The check of one document: what it may hold depends on the scope that it is for.
struct Check<'a> {
    scope: &'a Scope,
    /// Within `methods`, where only what each method can have of its own may stand.
    in_method: bool,
    errors: Vec<PolicyError>,
}

impl Check<'_> {
    fn error(&mut self, path: &str, problem: impl Into<String>) {
        self.errors.push(PolicyError {
            path: path.to_owned(),
            problem: problem.into(),
        });
    }

    fn object(&mut self, path: &str, value: &Value, fields: &[Field]) {
        let Some(map) = value.as_object() else {
            let path = if path.is_empty() { "document" } else { path };
            return self.error(path, expected("an object", value));
        };
        for (key, value) in map {
            let path = join(path, key);
            match fields.iter().find(|field| field.name == key) {
                Some(_) if value.is_null() => {}
                Some(field) => {
                    self.level(&path, field.level);
                    self.value(&path, value, field.kind);
                }
                None => {
                    let known = fields
                        .iter()
                        .filter(|field| !self.in_method || field.level == Level::Method);
                    let known: Vec<_> = known.map(|field| field.name).collect();
                    self.error(&path, format!("unknown field; known here: {}", known.join(", ")));
                }
            }
        }
    }

    /// Refuses what cannot be set here, and says where it can.
    fn level(&mut self, path: &str, level: Level) {
        let problem = match (level, self.scope) {
            (Level::Service, _) if self.in_method => "holds for the service as a whole; put it under `call`",
            (Level::Instance, Scope::Service(_)) => {
                "is the instance's, not a service's; put it into the `application/<name>` document"
            }
            (Level::Fleet, Scope::Application(_) | Scope::Service(_)) => {
                "is one for a whole process; put it into the `fleet` document"
            }
            _ => return,
        };
        self.error(path, problem);
    }

    fn value(&mut self, path: &str, value: &Value, kind: Kind) {
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
            Kind::Choice(words, prefix) => match value.as_str() {
                Some(word) if words.contains(&word) => return,
                Some(word) if word.strip_prefix(prefix).is_some_and(is_name) => return,
                _ => expected(&format!("one of {}, or {prefix}<name>", words.join(", ")), value),
            },
            Kind::Words(words) => {
                return self.list(path, value, words.len(), |check, path, item| {
                    check.value(path, item, Kind::Word(words));
                });
            }
            Kind::Text(most) => match value.as_str() {
                Some(text) if text.len() <= most => return,
                _ => expected(&format!("text of at most {most} bytes"), value),
            },
            Kind::TextList(most, count) => {
                return self.list(path, value, count, |check, path, item| {
                    check.value(path, item, Kind::Text(most));
                });
            }
            Kind::Flag if value.is_boolean() => return,
            Kind::Flag => expected("true or false", value),
            Kind::Json(most) if value.to_string().len() <= most => return,
            Kind::Json(most) => format!("at most {most} bytes of JSON are allowed"),
            Kind::Object(fields) => return self.object(path, value, fields),
            Kind::Named(fields) => {
                return self.entries(path, value, |check, path, item| {
                    check.object(path, item, fields);
                });
            }
            Kind::Methods(fields) => return self.methods(path, value, fields),
            Kind::Texts => {
                return self.entries(path, value, |check, path, item| {
                    check.value(path, item, Kind::Text(200));
                });
            }
            Kind::Numbers(least, most) => {
                return self.entries(path, value, |check, path, item| {
                    check.value(path, item, Kind::Integer(least, most));
                });
            }
            Kind::List(fields, most) => {
                return self.list(path, value, most, |check, path, item| {
                    check.object(path, item, fields);
                });
            }
        };
        self.error(path, problem);
    }

    fn methods(&mut self, path: &str, value: &Value, fields: &[Field]) {
        if !matches!(self.scope, Scope::Service(_)) {
            return self.error(
                path,
                "methods differ only within one service; put it into a `service/<name>` document",
            );
        }
        self.in_method = true;
        self.entries(path, value, |check, path, item| check.object(path, item, fields));
        self.in_method = false;
    }

    fn list(&mut self, path: &str, value: &Value, most: usize, each: impl Fn(&mut Self, &str, &Value)) {
        match value.as_array() {
            Some(items) if items.len() <= most => {
                for (index, item) in items.iter().enumerate() {
                    each(self, &format!("{path}[{index}]"), item);
                }
            }
            _ => self.error(path, expected(&format!("a list of at most {most}"), value)),
        }
    }

    fn entries(&mut self, path: &str, value: &Value, each: impl Fn(&mut Self, &str, &Value)) {
        let Some(map) = value.as_object() else {
            return self.error(path, expected("an object", value));
        };
        for (key, value) in map {
            each(self, &join(path, key), value);
        }
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
                    Kind::List(inner, _) if value[field.name].is_array() => {
                        compare(field.name, &value[field.name][0], inner);
                    }
                    _ => {}
                }
            }
        }
        compare("document", &whole, DOCUMENT);
    }
}
