//! The JSON Schema of policy documents, made from the table of fields.

use serde_json::{Map, Value, json};

use super::balance::NAME_PATTERN;
use super::fields::{DOCUMENT, Field, Kind, Level};

/// The schema (draft 2020-12) of documents of every scope. What a scope may hold beyond that, RSF checks itself and says
/// in the fields' descriptions.
pub fn json_schema() -> Value {
    let mut schema = object(DOCUMENT, false);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "RSF policy document".into();
    schema
}

fn object(fields: &[Field], in_method: bool) -> Value {
    let named = fields
        .iter()
        .filter(|field| !in_method || field.level == Level::Method);
    let properties: Map<_, _> = named
        .map(|field| (field.name.to_owned(), property(field, in_method)))
        .collect();
    json!({"type": ["object", "null"], "properties": properties, "additionalProperties": false})
}

fn property(field: &Field, in_method: bool) -> Value {
    let mut schema = value(field.kind, in_method);
    let mut description = field.doc.to_owned();
    if !field.default.is_empty() {
        description.push_str(&format!(" (default: {})", field.shown_default()));
    }
    match field.level {
        Level::Instance => description.push_str("; in `fleet` and `application` documents"),
        Level::Fleet => description.push_str("; in the `fleet` document"),
        Level::Method | Level::Service => {}
    }
    schema["description"] = description.into();
    schema
}

fn value(kind: Kind, in_method: bool) -> Value {
    let named = |values: Value| json!({"type": ["object", "null"], "additionalProperties": values});
    match kind {
        Kind::Integer(least, most) => json!({"type": ["integer", "null"], "minimum": least, "maximum": most}),
        Kind::Number(least, most) => json!({"type": ["number", "null"], "minimum": least, "maximum": most}),
        Kind::Word(words) => {
            let words: Vec<_> = words
                .iter()
                .map(|word| Value::from(*word))
                .chain([Value::Null])
                .collect();
            json!({"enum": words})
        }
        Kind::Choice(words, prefix) => {
            let named = format!("^{prefix}{NAME_PATTERN}$");
            json!({"anyOf": [value(Kind::Word(words), in_method), {"type": "string", "pattern": named}]})
        }
        Kind::Words(words) => {
            json!({"type": ["array", "null"], "items": {"enum": words}, "maxItems": words.len()})
        }
        Kind::Text(most) => json!({"type": ["string", "null"], "maxLength": most}),
        Kind::TextList(most, count) => {
            json!({"type": ["array", "null"], "items": {"type": "string", "maxLength": most}, "maxItems": count})
        }
        Kind::Flag => json!({"type": ["boolean", "null"]}),
        Kind::Json(_) => json!({}),
        Kind::Object(fields) => object(fields, in_method),
        Kind::Named(fields) => named(object(fields, in_method)),
        Kind::Methods(fields) => named(object(fields, true)),
        Kind::Texts => named(json!({"type": "string", "maxLength": 200})),
        Kind::Numbers(least, most) => named(json!({"type": "integer", "minimum": least, "maximum": most})),
        Kind::List(fields, most) => {
            json!({"type": ["array", "null"], "items": object(fields, in_method), "maxItems": most})
        }
    }
}
