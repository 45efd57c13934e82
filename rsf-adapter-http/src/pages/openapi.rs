//! OpenAPI 3.1 of everything that can be called.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::sample;
use crate::catalog::{Entry, Table};
use crate::config::AdapterConfig;
use crate::reply;
use crate::schema::MethodSchema;

/// The document. Implementations of one service share their paths; the header `rsf-implementation` tells them apart.
pub(crate) fn openapi(table: &Table, config: &AdapterConfig) -> Response<Full<Bytes>> {
    let mut schemas = Schemas::default();
    schemas.known.insert("connect.Error".to_owned(), error_schema());
    let mut paths = Map::new();
    for (key, entry) in &table.services {
        let (Entry::Ready(ready), service) = (entry, key.split(':').next().unwrap_or(key)) else {
            continue;
        };
        for method in ready
            .schema
            .methods
            .iter()
            .filter(|method| method.number.is_some())
        {
            let path = format!("{}/{service}/{}", config.prefix, method.name);
            let operation = operation(service, method, &mut schemas);
            paths.entry(path).or_insert_with(|| json!({ "post": operation }));
        }
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": { "title": "RSF services", "version": "1" },
        "paths": paths,
        "components": { "schemas": schemas.known },
    });
    reply::page(
        "application/json",
        serde_json::to_vec(&document).unwrap_or_default(),
    )
}

fn operation(service: &str, method: &MethodSchema, schemas: &mut Schemas) -> Value {
    let header = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "header", "required": false, "description": description, "schema": schema });
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let mut request = content(schemas.message(&method.input));
    request["application/json"]["example"] = sample::of(&method.input);
    json!({
        "operationId": format!("{service}.{}", method.name),
        "tags": [service],
        "parameters": [
            header("Connect-Timeout-Ms", "milliseconds for the whole call", json!({ "type": "integer", "minimum": 1 })),
            header("Idempotency-Key", "names the operation; repetitions carry the same", json!({ "type": "string", "maxLength": 128 })),
            header("rsf-implementation", "the implementation of the service", json!({ "type": "string" })),
        ],
        "requestBody": { "required": true, "content": request },
        "responses": {
            "200": { "description": "the reply", "content": content(schemas.message(&method.output)) },
            "default": {
                "description": "the error",
                "content": content(json!({ "$ref": "#/components/schemas/connect.Error" })),
            },
        },
    })
}

/// The named types that were met so far.
#[derive(Default)]
struct Schemas {
    known: BTreeMap<String, Value>,
}

impl Schemas {
    fn message(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.full_name();
        if let Some(schema) = google(name) {
            return schema;
        }
        if !self.known.contains_key(name) {
            // Present before its fields are read, because a message may hold itself.
            self.known.insert(name.to_owned(), Value::Null);
            let mut properties = Map::new();
            for field in message.fields() {
                properties.insert(field.json_name().to_owned(), self.field(&field));
            }
            let schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
            self.known.insert(name.to_owned(), schema);
        }
        reference(name)
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = self.kind(&entry.map_entry_value_field().kind());
                json!({ "type": "object", "additionalProperties": value })
            }
            kind if field.is_list() => json!({ "type": "array", "items": self.kind(&kind) }),
            kind => self.kind(&kind),
        }
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double | Kind::Float => json!({ "type": ["number", "string"] }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "type": "string", "format": "int64" }),
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0 }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Enum(kind) => self.enumeration(kind),
            Kind::Message(message) => self.message(message),
        }
    }

    fn enumeration(&mut self, kind: &EnumDescriptor) -> Value {
        if kind.full_name() == "google.protobuf.NullValue" {
            return json!({ "type": "null" });
        }
        let values: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
        self.known
            .entry(kind.full_name().to_owned())
            .or_insert_with(|| json!({ "type": "string", "enum": values }));
        reference(kind.full_name())
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Google's types with a JSON form of their own.
fn google(name: &str) -> Option<Value> {
    Some(match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "Duration" | "FieldMask" | "StringValue" => json!({ "type": "string" }),
        "Struct" | "Empty" | "Any" => json!({ "type": "object" }),
        "Value" => json!({}),
        "ListValue" => json!({ "type": "array" }),
        "BoolValue" => json!({ "type": "boolean" }),
        "BytesValue" => json!({ "type": "string", "contentEncoding": "base64" }),
        "Int64Value" | "UInt64Value" => json!({ "type": "string" }),
        "DoubleValue" | "FloatValue" => json!({ "type": ["number", "string"] }),
        "Int32Value" | "UInt32Value" => json!({ "type": "integer" }),
        _ => return None,
    })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["code"],
        "properties": {
            "code": { "type": "string" },
            "message": { "type": "string" },
            "details": { "type": "array", "items": {
                "type": "object",
                "properties": {
                    "type": { "type": "string" },
                    "value": { "type": "string", "contentEncoding": "base64" },
                    "debug": {},
                },
            } },
        },
    })
}
