//! Edits of a policy document as `path=value`, the same for the command line, the page and the API.

use rsf_core::policy::fields::{DOCUMENT, Field, Kind};
use serde_json::{Map, Value};

use crate::model::Problem;

/// Why some assignments make no sense. Every one that does not is named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(|problem| format!("{}: {}", problem.path, problem.problem)).collect::<Vec<_>>().join("; "))]
pub struct EditError(pub Vec<Problem>);

/// Applies `path=value` assignments in order to a JSON document (empty text counts as `{}`) and returns the edited
/// document, indented. Ranges are the console's to check.
///
/// - `call.timeout_ms=200`, `methods.Get.retry.attempts=2`, `consumers["order.v2"].timeout_ms=50`
/// - `instances[member/1].weight=0`: the rule for that instance alone, added where there is none;
///   `instances[0].weight=0`: the first rule
/// - `call.timeout_ms=` removes the field, and what is empty then
///
/// A value is JSON where it parses as such, else text.
///
/// ```
/// let edited = rsf_console::edit("{}", &["call.timeout_ms=200"])?;
/// assert_eq!(edited, "{\n  \"call\": {\n    \"timeout_ms\": 200\n  }\n}");
/// # Ok::<(), rsf_console::EditError>(())
/// ```
pub fn edit<S: AsRef<str>>(document: &str, assignments: &[S]) -> Result<String, EditError> {
    let text = if document.trim().is_empty() {
        "{}"
    } else {
        document
    };
    let mut value: Value = serde_json::from_str(text)
        .map_err(|error| EditError(vec![problem("document", format!("is no valid JSON: {error}"))]))?;
    if !value.is_object() {
        return Err(EditError(vec![problem(
            "document",
            "is no JSON object".to_owned(),
        )]));
    }
    let problems: Vec<Problem> = assignments
        .iter()
        .filter_map(|assignment| assign(&mut value, assignment.as_ref()).err())
        .collect();
    if problems.is_empty() {
        Ok(format!("{value:#}"))
    } else {
        Err(EditError(problems))
    }
}

/// One part of a path.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
    /// The list item that is for this one instance.
    Instance(String),
}

fn assign(document: &mut Value, assignment: &str) -> Result<(), Problem> {
    let Some(split) = equals_outside_brackets(assignment) else {
        let text = "has no `=`; write `path=value`, as `call.timeout_ms=200`".to_owned();
        return Err(problem(assignment, text));
    };
    let (path, text) = (assignment[..split].trim(), assignment[split + 1..].trim());
    let steps = parse_path(path).map_err(|text| problem(path, text))?;
    known(&steps).map_err(|text| problem(path, text))?;
    if text.is_empty() || text == "null" {
        remove(document, &steps).map_err(|text| problem(path, text))?;
        return Ok(());
    }
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    *place(document, &steps).map_err(|text| problem(path, text))? = value;
    Ok(())
}

/// The first `=` that does not stand in brackets, which hold names of any kind.
fn equals_outside_brackets(assignment: &str) -> Option<usize> {
    let mut depth = 0_u32;
    assignment.char_indices().find_map(|(at, c)| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            '=' if depth == 0 => return Some(at),
            _ => {}
        }
        None
    })
}

fn parse_path(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = inner.find(']').ok_or("a `[` is not closed")?;
            steps.push(bracketed(&inner[..end])?);
            rest = &inner[end + 1..];
            rest = rest.strip_prefix('.').unwrap_or(rest);
            continue;
        }
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        if end == 0 {
            return Err("has an empty part".to_owned());
        }
        steps.push(Step::Key(rest[..end].to_owned()));
        rest = &rest[end..];
        if let Some(next) = rest.strip_prefix('.') {
            if next.is_empty() {
                return Err("ends with a dot".to_owned());
            }
            rest = next;
        }
    }
    if steps.is_empty() {
        return Err("is empty; write `path=value`, as `call.timeout_ms=200`".to_owned());
    }
    if steps.len() > 16 {
        return Err("is deeper than any field".to_owned());
    }
    Ok(steps)
}

fn bracketed(inner: &str) -> Result<Step, String> {
    let quoted = inner.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match (quoted, inner.parse()) {
        (Some(key), _) if !key.is_empty() => Ok(Step::Key(key.to_owned())),
        (None, Ok(index)) => Ok(Step::Index(index)),
        (None, Err(_)) if !inner.is_empty() => Ok(Step::Instance(inner.to_owned())),
        _ => Err("has empty brackets".to_owned()),
    }
}

/// Refuses a path that no field has, before it can make a document that only then is refused.
fn known(steps: &[Step]) -> Result<(), String> {
    let mut kind = Kind::Object(DOCUMENT);
    for step in steps {
        kind = match (kind, step) {
            (Kind::Object(fields), Step::Key(key)) => find(fields, key)?.kind,
            (Kind::Named(fields) | Kind::Methods(fields), Step::Key(_)) => Kind::Object(fields),
            (Kind::Texts, Step::Key(_)) => Kind::Text(200),
            (Kind::Numbers(least, most), Step::Key(_)) => Kind::Integer(least, most),
            (Kind::List(fields, _), Step::Index(_) | Step::Instance(_)) => Kind::Object(fields),
            (Kind::List(..), Step::Key(_)) => {
                return Err("is a list; write `instances[application/name].weight=0`".to_owned());
            }
            (_, Step::Key(key)) => return Err(format!("has no field `{key}` inside")),
            (_, _) => return Err("is no list".to_owned()),
        };
    }
    Ok(())
}

fn find<'a>(fields: &'a [Field], key: &str) -> Result<&'a Field, String> {
    fields.iter().find(|field| field.name == key).ok_or_else(|| {
        let known: Vec<_> = fields.iter().map(|field| field.name).collect();
        format!("unknown field `{key}`; known here: {}", known.join(", "))
    })
}

/// The value at a path, made where it is missing.
fn place<'a>(document: &'a mut Value, steps: &[Step]) -> Result<&'a mut Value, String> {
    let mut at = document;
    for step in steps {
        at = match step {
            Step::Key(key) => object(at)?.entry(key.clone()).or_insert(Value::Null),
            Step::Index(index) => {
                let list = list(at)?;
                let length = list.len();
                list.get_mut(*index)
                    .ok_or_else(|| format!("there are only {length} in the list"))?
            }
            Step::Instance(id) => {
                let list = list(at)?;
                let found = match list.iter().position(|rule| is_for(rule, id)) {
                    Some(found) => found,
                    None => {
                        list.push(serde_json::json!({ "instance": id }));
                        list.len() - 1
                    }
                };
                &mut list[found]
            }
        };
    }
    Ok(at)
}

/// Removes the value at a path, and the objects, rules and lists that are empty without it.
fn remove(at: &mut Value, steps: &[Step]) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        return Ok(());
    };
    if at.is_null() {
        return Ok(());
    }
    match step {
        Step::Key(key) => {
            let map = object(at)?;
            if let Some(inner) = map.get_mut(key) {
                remove(inner, rest)?;
                if rest.is_empty() || is_empty(inner) {
                    map.remove(key);
                }
            }
        }
        Step::Index(_) | Step::Instance(_) => {
            let list = list(at)?;
            let found = match step {
                Step::Index(index) => Some(*index).filter(|index| *index < list.len()),
                Step::Instance(id) => list.iter().position(|rule| is_for(rule, id)),
                Step::Key(_) => None,
            };
            if let Some(found) = found {
                remove(&mut list[found], rest)?;
                if rest.is_empty() || says_nothing(&list[found]) {
                    list.remove(found);
                }
            }
        }
    }
    Ok(())
}

fn object(value: &mut Value) -> Result<&mut Map<String, Value>, String> {
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value
        .as_object_mut()
        .ok_or_else(|| "runs through a value that is no object".to_owned())
}

fn list(value: &mut Value) -> Result<&mut Vec<Value>, String> {
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value
        .as_array_mut()
        .ok_or_else(|| "runs through a value that is no list".to_owned())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        other => other.is_null(),
    }
}

/// Whether a rule selects exactly this instance, by nothing else, for good.
fn is_for(rule: &Value, id: &str) -> bool {
    rule.get("instance").and_then(Value::as_str) == Some(id)
        && ["zone", "tags", "expires_unix_ms"]
            .iter()
            .all(|selector| rule.get(selector).is_none_or(is_empty))
}

/// Whether a rule selects instances and then changes nothing about them.
fn says_nothing(rule: &Value) -> bool {
    ["weight", "disabled"]
        .iter()
        .all(|field| rule.get(field).is_none_or(Value::is_null))
}

fn problem(path: &str, problem: String) -> Problem {
    Problem {
        path: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn assignments() {
        let cases = [
            (
                json!({}),
                vec!["call.timeout_ms=200"],
                json!({"call": {"timeout_ms": 200}}),
            ),
            (
                json!({}),
                vec!["call.balance=random"],
                json!({"call": {"balance": "random"}}),
            ),
            (
                json!({}),
                vec!["methods.Get.retry.attempts = 2"],
                json!({"methods": {"Get": {"retry": {"attempts": 2}}}}),
            ),
            (
                json!({}),
                vec!["consumers[\"a.b\"].timeout_ms=5"],
                json!({"consumers": {"a.b": {"timeout_ms": 5}}}),
            ),
            (
                json!({}),
                vec!["instances[m/1].weight=0"],
                json!({"instances": [{"instance": "m/1", "weight": 0}]}),
            ),
            (
                json!({"instances": [{"instance": "m/1", "zone": "a", "weight": 3}]}),
                vec!["instances[m/1].disabled=true"],
                json!({"instances": [{"instance": "m/1", "zone": "a", "weight": 3}, {"instance": "m/1", "disabled": true}]}),
            ),
            (
                json!({"instances": [{"weight": 1}]}),
                vec!["instances[0].weight=2"],
                json!({"instances": [{"weight": 2}]}),
            ),
            (
                json!({"instances": [{"instance": "m/1", "weight": 0}]}),
                vec!["instances[m/1].weight="],
                json!({}),
            ),
            (
                json!({"call": {"timeout_ms": 1, "retry": {"attempts": 2}}}),
                vec!["call.retry.attempts=null"],
                json!({"call": {"timeout_ms": 1}}),
            ),
            (json!({}), vec!["call.timeout_ms="], json!({})),
            (
                json!({}),
                vec!["call.timeout_ms=1", "call.timeout_ms=2"],
                json!({"call": {"timeout_ms": 2}}),
            ),
        ];
        for (before, assignments, after) in cases {
            let edited = edit(&before.to_string(), &assignments).unwrap();
            assert_eq!(
                serde_json::from_str::<Value>(&edited).unwrap(),
                after,
                "{assignments:?}"
            );
        }
    }

    #[test]
    fn every_bad_assignment_is_named() {
        let bad = [
            "call.timeout",
            "call",
            "=1",
            "call..x=1",
            "call.timeout_ms.=1",
            "instances[=1",
            "instances[]=1",
            "instances[7].weight=1",
            "instances.weight=1",
            "call[0]=1",
            "call.timeout_ms.x=1",
            "colour=1",
        ];
        let error = edit("{}", &bad).unwrap_err();
        assert_eq!(error.0.len(), bad.len(), "{error}");
        assert!(edit::<&str>("[]", &[]).is_err());
        assert!(edit::<&str>("{", &[]).is_err());
    }

    #[test]
    fn an_empty_document_is_an_object() {
        assert_eq!(edit::<&str>("", &[]).unwrap(), "{}");
    }
}
