//! A request to start from: every field of a message once, with a value of its type.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

/// Messages inside each other at most.
const DEPTH: usize = 4;

/// A sample of `message` that its method can read.
pub(crate) fn of(message: &MessageDescriptor) -> Value {
    message_sample(message, DEPTH)
}

fn message_sample(message: &MessageDescriptor, depth: usize) -> Value {
    if let Some(value) = google(message.full_name()) {
        return value;
    }
    let mut fields = Map::new();
    if depth > 0 {
        for field in message.fields().filter(is_shown) {
            if let Some(value) = field_sample(&field, depth) {
                fields.insert(field.json_name().to_owned(), value);
            }
        }
    }
    Value::Object(fields)
}

/// Of a oneof, only the first field: two at once would be refused.
fn is_shown(field: &FieldDescriptor) -> bool {
    field
        .containing_oneof()
        .is_none_or(|oneof| oneof.fields().next().is_some_and(|first| first == *field))
}

fn field_sample(field: &FieldDescriptor, depth: usize) -> Option<Value> {
    if field.is_map() {
        let entry = field.kind().as_message().cloned()?;
        let key = match kind_sample(&entry.map_entry_key_field().kind(), depth)? {
            Value::String(text) if text.is_empty() => "key".to_owned(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        return Some(json!({ key: kind_sample(&entry.map_entry_value_field().kind(), depth)? }));
    }
    let value = kind_sample(&field.kind(), depth)?;
    Some(if field.is_list() { json!([value]) } else { value })
}

/// `None` where the depth allows no further message.
fn kind_sample(kind: &Kind, depth: usize) -> Option<Value> {
    Some(match kind {
        Kind::Double | Kind::Float => json!(0.5),
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => json!("1"),
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Fixed32 | Kind::Sfixed32 => json!(1),
        Kind::Bool => json!(true),
        Kind::String => json!(""),
        Kind::Bytes => json!(""),
        Kind::Enum(kind) if kind.full_name() == "google.protobuf.NullValue" => Value::Null,
        // The first value usually means "unspecified".
        Kind::Enum(kind) => json!(
            kind.values()
                .nth(1)
                .unwrap_or_else(|| kind.default_value())
                .name()
        ),
        Kind::Message(message) if google(message.full_name()).is_some() => google(message.full_name())?,
        Kind::Message(_) if depth <= 1 => return None,
        Kind::Message(message) => message_sample(message, depth - 1),
    })
}

/// Google's types with a JSON form of their own.
fn google(name: &str) -> Option<Value> {
    Some(match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => json!("2026-01-01T00:00:00Z"),
        "Duration" => json!("1s"),
        "FieldMask" => json!(""),
        "Struct" | "Empty" | "Any" => json!({}),
        "Value" => Value::Null,
        "ListValue" => json!([]),
        "BoolValue" => json!(true),
        "StringValue" | "BytesValue" => json!(""),
        "Int64Value" | "UInt64Value" => json!("1"),
        "DoubleValue" | "FloatValue" => json!(0.5),
        "Int32Value" | "UInt32Value" => json!(1),
        _ => return None,
    })
}
