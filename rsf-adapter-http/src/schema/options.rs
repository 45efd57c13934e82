//! The method options that governance reads: protobuf's `idempotency_level`, and RSF's own where the schema has them.

use prost_reflect::{DynamicMessage, Value};

/// The package that RSF's options are declared in.
const PACKAGE: &str = "rsf.options.v1";

/// What a method's options say. RSF's extension is read by its fields' names, so that a schema built against another
/// version of `rsf/options/v1/options.proto`, or without it, is read all the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RsfOptions {
    pub(super) idempotent: bool,
    pub(super) no_side_effects: bool,
    pub(super) dedup: bool,
    pub(super) timeout_ms: Option<u64>,
    pub(super) attempts: Option<u32>,
    pub(super) routing_key: String,
}

impl RsfOptions {
    /// Reads a method's `google.protobuf.MethodOptions`.
    pub(super) fn read(options: &DynamicMessage) -> RsfOptions {
        let mut read = RsfOptions::default();
        // 1: NO_SIDE_EFFECTS, 2: IDEMPOTENT.
        let level = options
            .get_field_by_name("idempotency_level")
            .and_then(|level| level.as_enum_number());
        read.no_side_effects = level == Some(1);
        read.idempotent = matches!(level, Some(1 | 2));
        for (extension, value) in options.extensions() {
            if extension.parent_file().package_name() != PACKAGE {
                continue;
            }
            match value {
                Value::Message(message) => {
                    message
                        .fields()
                        .for_each(|(field, value)| read.set(field.name(), value));
                }
                value => read.set(extension.name(), value),
            }
        }
        read
    }

    fn set(&mut self, name: &str, value: &Value) {
        match (name, value) {
            // A fact of the code only ever adds to what `idempotency_level` says.
            ("idempotent", Value::Bool(true)) => self.idempotent = true,
            ("dedup", Value::Bool(dedup)) => self.dedup = *dedup,
            ("routing_key", Value::String(path)) => self.routing_key.clone_from(path),
            ("timeout_ms", value) => self.timeout_ms = number(value).or(self.timeout_ms),
            ("attempts", value) => {
                self.attempts = number(value)
                    .and_then(|n| u32::try_from(n).ok())
                    .or(self.attempts);
            }
            _ => {}
        }
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::U32(n) => Some(u64::from(*n)),
        Value::U64(n) => Some(*n),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}
