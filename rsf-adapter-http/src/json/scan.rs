//! One look over a JSON text before it is parsed: how deep it goes, and where PHP wrote `[]` for an empty object.

use std::borrow::Cow;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// A text that goes deeper than is allowed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooDeep {
    /// The byte that opens the level.
    pub(super) at: usize,
}

/// Checks the depth, and writes `{}` for an empty `[]` where the schema has a message or a map: PHP's `json_encode`
/// cannot tell the two apart. Lengths stay, so that positions in later errors are right. What is no JSON passes; the
/// parser says what is wrong with it.
pub(super) fn prepare<'a>(
    text: &'a [u8],
    message: &MessageDescriptor,
    max_depth: usize,
) -> Result<Cow<'a, [u8]>, TooDeep> {
    let mut levels: Vec<Level> = Vec::new();
    let mut fixed = Cow::Borrowed(text);
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'{' | b'[' => {
                let shape = levels
                    .last()
                    .map_or_else(|| Shape::of_message(message), Level::value_shape);
                if *byte == b'['
                    && let Some(end) = closes_at_once(text, at)
                    && shape.is_object()
                {
                    fixed.to_mut()[at] = b'{';
                    fixed.to_mut()[end] = b'}';
                    at = end + 1;
                    continue;
                }
                if levels.len() >= max_depth {
                    return Err(TooDeep { at });
                }
                levels.push(Level::new(shape, *byte == b'{'));
            }
            b'}' | b']' => {
                levels.pop();
            }
            b',' => levels
                .last_mut()
                .into_iter()
                .for_each(|level| level.key_next = level.object),
            b'"' => {
                let end = string_end(text, at);
                if let Some(level) = levels.last_mut().filter(|level| level.key_next) {
                    level.key(&text[at..end]);
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(fixed)
}

/// What the schema has at a place.
#[derive(Debug, Clone)]
enum Shape {
    Message(MessageDescriptor),
    Map(FieldDescriptor),
    List(FieldDescriptor),
    /// An object whose fields no schema knows (`google.protobuf.Struct`, `Empty`).
    Object,
    /// A scalar, or unknown.
    Free,
}

impl Shape {
    fn of_message(message: &MessageDescriptor) -> Shape {
        match message.full_name() {
            "google.protobuf.Struct" | "google.protobuf.Empty" => Shape::Object,
            // Google's other types have a JSON form of their own, in which `[]` is no empty object.
            name if name.starts_with("google.protobuf.") => Shape::Free,
            _ => Shape::Message(message.clone()),
        }
    }

    fn of_kind(kind: &Kind) -> Shape {
        kind.as_message().map_or(Shape::Free, Shape::of_message)
    }

    fn of_field(field: FieldDescriptor) -> Shape {
        if field.is_map() {
            Shape::Map(field)
        } else if field.is_list() {
            Shape::List(field)
        } else {
            Shape::of_kind(&field.kind())
        }
    }

    fn is_object(&self) -> bool {
        matches!(self, Shape::Message(_) | Shape::Map(_) | Shape::Object)
    }
}

/// An object or array that is open.
struct Level {
    shape: Shape,
    object: bool,
    /// Whether the next string is a key.
    key_next: bool,
    /// The shape of the value after the last key.
    value: Shape,
}

impl Level {
    fn new(shape: Shape, object: bool) -> Level {
        Level {
            shape,
            object,
            key_next: object,
            value: Shape::Free,
        }
    }

    fn key(&mut self, quoted: &[u8]) {
        self.key_next = false;
        self.value = match &self.shape {
            Shape::Message(message) => serde_json::from_slice::<String>(quoted)
                .ok()
                .and_then(|key| {
                    message
                        .get_field_by_json_name(&key)
                        .or_else(|| message.get_field_by_name(&key))
                })
                .map_or(Shape::Free, Shape::of_field),
            Shape::Map(field) => match field.kind() {
                Kind::Message(entry) => Shape::of_kind(&entry.map_entry_value_field().kind()),
                _ => Shape::Free,
            },
            _ => Shape::Free,
        };
    }

    fn value_shape(&self) -> Shape {
        match (&self.shape, self.object) {
            (_, true) => self.value.clone(),
            (Shape::List(field), false) => Shape::of_kind(&field.kind()),
            _ => Shape::Free,
        }
    }
}

/// Where an array that opens at `at` ends, if nothing but space is in it.
fn closes_at_once(text: &[u8], at: usize) -> Option<usize> {
    let space = text[at + 1..]
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
        .count();
    let end = at + 1 + space;
    (text.get(end) == Some(&b']')).then_some(end)
}

/// The place after the string that opens at `at`.
fn string_end(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}
