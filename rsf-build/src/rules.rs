//! Reads a method's options: gRPC's `idempotency_level` and RSF's own.

use std::ops::RangeInclusive;

use prost_reflect::{DynamicMessage, FileDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
use prost_types::method_options::IdempotencyLevel;

use crate::error::Problem;

/// RSF's option file, as .proto files import it.
pub(crate) const OPTIONS_FILE: &str = "rsf/options/v1/options.proto";
/// The package of RSF's option file.
pub(crate) const OPTIONS_PACKAGE: &str = "rsf.options.v1";

const EXTENSION: &str = "rsf.options.v1.method";
const TIMEOUT_MS: RangeInclusive<u32> = 1..=3_600_000;
const ATTEMPTS: RangeInclusive<u32> = 1..=5;

/// The number of `options` in `MethodDescriptorProto`, where its locations are found.
const OPTIONS_FIELD: i32 = 4;

/// What the generated method table says about a method.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) idempotent: bool,
    pub(crate) timeout_ms: Option<u32>,
    pub(crate) attempts: Option<u32>,
    pub(crate) dedup: bool,
    pub(crate) routing_key: String,
}

impl Rules {
    /// Reads and checks the options of `method`.
    pub(crate) fn read(method: &MethodDescriptor) -> Result<Rules, Vec<Problem>> {
        let level = method
            .method_descriptor_proto()
            .options
            .as_ref()
            .map(|options| options.idempotency_level());
        let level = level.unwrap_or(IdempotencyLevel::IdempotencyUnknown);
        let mut rules = Rules {
            idempotent: level != IdempotencyLevel::IdempotencyUnknown,
            ..Rules::default()
        };
        let Some(options) = Options::of(method) else {
            return Ok(rules);
        };

        let mut problems = Vec::new();
        if method.is_client_streaming() || method.is_server_streaming() {
            let message = "RSF's options hold for unary methods; a streaming method is not governed by them: remove them";
            problems.push(options.problem(None, message.to_owned()));
            return Err(problems);
        }
        rules.timeout_ms = options.number("timeout_ms", TIMEOUT_MS, &mut problems);
        rules.attempts = options.number("attempts", ATTEMPTS, &mut problems);
        rules.dedup = options.flag("dedup").unwrap_or(false);
        match options.flag("idempotent") {
            Some(false) if rules.idempotent => {
                let message = format!(
                    "`idempotent: false` contradicts `idempotency_level = {}`: keep one of them",
                    level.as_str_name()
                );
                problems.push(options.problem(Some("idempotent"), message));
            }
            Some(idempotent) => rules.idempotent |= idempotent,
            None => {}
        }
        if let Some(key) = options.text("routing_key") {
            match check_routing_key(&method.input(), &key) {
                Ok(()) => rules.routing_key = key,
                Err(message) => problems.push(options.problem(Some("routing_key"), message)),
            }
        }
        if problems.is_empty() {
            Ok(rules)
        } else {
            Err(problems)
        }
    }
}

/// The value of RSF's extension, and where it stands.
struct Options<'a> {
    method: &'a MethodDescriptor,
    extension_number: i32,
    value: DynamicMessage,
}

impl<'a> Options<'a> {
    fn of(method: &'a MethodDescriptor) -> Option<Self> {
        let extension = method.parent_pool().get_extension_by_name(EXTENSION)?;
        let options = method.options();
        if !options.has_extension(&extension) {
            return None;
        }
        let value = options.get_extension(&extension).as_message()?.clone();
        Some(Options {
            method,
            extension_number: extension.number() as i32,
            value,
        })
    }

    fn get(&self, name: &str) -> Option<Value> {
        self.value
            .has_field_by_name(name)
            .then(|| self.value.get_field_by_name(name))?
            .map(|value| value.into_owned())
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name)?.as_str().map(str::to_owned)
    }

    fn number(&self, name: &str, range: RangeInclusive<u32>, problems: &mut Vec<Problem>) -> Option<u32> {
        let number = self.get(name)?.as_u32()?;
        if range.contains(&number) {
            return Some(number);
        }
        let message = format!(
            "`{name}` is {number}, it must be {} to {}",
            range.start(),
            range.end()
        );
        problems.push(self.problem(Some(name), message));
        None
    }

    fn problem(&self, field: Option<&str>, message: String) -> Problem {
        let mut path = self.method.path().to_vec();
        path.extend([OPTIONS_FIELD, self.extension_number]);
        let number = field.and_then(|name| self.value.descriptor_field(name));
        path.extend(number);
        let file = self.method.parent_file();
        Problem {
            file: file.name().to_owned(),
            position: position(&file, &path),
            message: format!("{}: {message}", self.method.full_name()),
        }
    }
}

trait DescriptorField {
    fn descriptor_field(&self, name: &str) -> Option<i32>;
}

impl DescriptorField for DynamicMessage {
    fn descriptor_field(&self, name: &str) -> Option<i32> {
        use prost_reflect::ReflectMessage;
        Some(self.descriptor().get_field_by_name(name)?.number() as i32)
    }
}

/// Line and column of the innermost known place that encloses `path`.
pub(crate) fn position(file: &FileDescriptor, path: &[i32]) -> Option<(usize, usize)> {
    let info = file.file_descriptor_proto().source_code_info.as_ref()?;
    let enclosing = info
        .location
        .iter()
        .filter(|location| path.starts_with(&location.path));
    let location = enclosing.max_by_key(|location| location.path.len())?;
    match location.span[..] {
        [line, column, ..] => Some((line as usize + 1, column as usize + 1)),
        _ => None,
    }
}

fn check_routing_key(request: &MessageDescriptor, key: &str) -> Result<(), String> {
    let mut message = request.clone();
    let mut steps = key.split('.').peekable();
    while let Some(step) = steps.next() {
        let Some(field) = message.get_field_by_name(step) else {
            let known: Vec<_> = message
                .fields()
                .map(|field| format!("`{}`", field.name()))
                .collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            return Err(format!(
                "`routing_key: \"{key}\"`: {} has no field `{step}`; its fields: {known}",
                message.full_name()
            ));
        };
        if field.is_list() || field.is_map() {
            return Err(format!(
                "`routing_key: \"{key}\"`: `{step}` holds many values; a routing key is a single one"
            ));
        }
        match (field.kind(), steps.peek().is_some()) {
            (Kind::Message(inner), true) => message = inner,
            (Kind::Message(inner), false) => {
                return Err(format!(
                    "`routing_key: \"{key}\"`: `{step}` is a whole {}; name a field in it",
                    inner.full_name()
                ));
            }
            (Kind::Float | Kind::Double, false) => {
                return Err(format!(
                    "`routing_key: \"{key}\"`: `{step}` is a floating point number, which is no key"
                ));
            }
            (_, false) => {}
            (_, true) => {
                return Err(format!(
                    "`routing_key: \"{key}\"`: `{step}` is no message, nothing is inside it"
                ));
            }
        }
    }
    Ok(())
}
