//! One field of a request, found in the encoded bytes: the path is compiled to numbers once, and a call reads no more than
//! the fields' tags.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Groups within groups that are skipped; prost's own limit.
const MAX_GROUPS: u32 = 100;

/// The messages and methods of one service's schema.
pub(crate) struct Schema {
    messages: HashMap<String, Message>,
    /// `/package.Service/Method` → the request's type.
    requests: HashMap<String, String>,
}

struct Message {
    descriptor: DescriptorProto,
    /// Scalars without `optional` are their zero value where they are not on the wire.
    implicit: bool,
}

impl Schema {
    /// Reads an encoded `FileDescriptorSet`.
    pub(crate) fn read(bytes: &[u8]) -> Result<Schema, String> {
        let set =
            FileDescriptorSet::decode(bytes).map_err(|error| format!("the schema is unreadable: {error}"))?;
        let mut schema = Schema {
            messages: HashMap::new(),
            requests: HashMap::new(),
        };
        for file in set.file {
            let implicit = file.syntax() == "proto3";
            let prefix = match file.package() {
                "" => String::new(),
                package => format!(".{package}"),
            };
            for service in &file.service {
                for method in &service.method {
                    let service = format!("{prefix}.{}", service.name());
                    let path = format!("/{}/{}", service.trim_start_matches('.'), method.name());
                    schema.requests.insert(path, method.input_type().to_owned());
                }
            }
            for message in file.message_type {
                schema.add(&prefix, message, implicit);
            }
        }
        Ok(schema)
    }

    fn add(&mut self, prefix: &str, mut descriptor: DescriptorProto, implicit: bool) {
        let name = format!("{prefix}.{}", descriptor.name());
        for inner in std::mem::take(&mut descriptor.nested_type) {
            self.add(&name, inner, implicit);
        }
        let message = Message { descriptor, implicit };
        self.messages.insert(name, message);
    }

    /// Compiles `order.customer_id` for the requests of the method at `method_path`.
    pub(crate) fn field(&self, method_path: &str, path: &str) -> Result<FieldPath, String> {
        let request = self
            .requests
            .get(method_path)
            .ok_or_else(|| format!("the schema has no method {method_path}"))?;
        let mut type_name = request.clone();
        let mut compiled = FieldPath {
            steps: Vec::new(),
            scalar: Scalar::Bool,
            zero: false,
        };
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            let message = self
                .messages
                .get(&type_name)
                .ok_or_else(|| format!("the schema has no message {type_name}"))?;
            let field = message.field(name).ok_or_else(|| {
                let known: Vec<_> = message
                    .descriptor
                    .field
                    .iter()
                    .map(FieldDescriptorProto::name)
                    .collect();
                format!(
                    "{} has no field `{name}`; its fields: {}",
                    type_name.trim_start_matches('.'),
                    known.join(", ")
                )
            })?;
            if field.label() == Label::Repeated {
                return Err(format!("`{name}` holds many values"));
            }
            compiled.steps.push(Step {
                number: field.number().unsigned_abs(),
                rivals: message.rivals(field),
            });
            match (Scalar::of(field.r#type()), names.peek().is_some()) {
                (Some(scalar), false) => {
                    compiled.scalar = scalar;
                    compiled.zero = message.implicit && field.oneof_index.is_none();
                    return Ok(compiled);
                }
                (None, true) if field.r#type() == Type::Message => type_name = field.type_name().to_owned(),
                (Some(_), true) => return Err(format!("`{name}` is no message, nothing is inside it")),
                _ => {
                    return Err(format!(
                        "`{name}` is a {}; name a whole number, a text, a truth value or an enum",
                        field.r#type().as_str_name()
                    ));
                }
            }
        }
        Err("the path is empty".to_owned())
    }
}

impl Message {
    fn field(&self, name: &str) -> Option<&FieldDescriptorProto> {
        self.descriptor.field.iter().find(|field| field.name() == name)
    }

    /// The other members of the field's `oneof`: whichever comes last wins.
    fn rivals(&self, field: &FieldDescriptorProto) -> Vec<u32> {
        let Some(oneof) = field.oneof_index else {
            return Vec::new();
        };
        let members = self.descriptor.field.iter();
        members
            .filter(|other| other.oneof_index == Some(oneof) && other.number() != field.number())
            .map(|other| other.number().unsigned_abs())
            .collect()
    }
}

/// A field's place in a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FieldPath {
    /// From the request inwards; never empty.
    steps: Vec<Step>,
    scalar: Scalar,
    /// A field that is not on the wire is zero, not absent.
    zero: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Step {
    number: u32,
    rivals: Vec<u32>,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    /// A whole number of any width, or an enum's number.
    Number(i128),
    /// A truth value.
    Flag(bool),
    /// A text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scalar {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    Text,
    Bytes,
}

impl Scalar {
    fn of(kind: Type) -> Option<Scalar> {
        Some(match kind {
            Type::Int32 | Type::Enum => Scalar::Int32,
            Type::Int64 => Scalar::Int64,
            Type::Uint32 => Scalar::Uint32,
            Type::Uint64 => Scalar::Uint64,
            Type::Sint32 => Scalar::Sint32,
            Type::Sint64 => Scalar::Sint64,
            Type::Fixed32 => Scalar::Fixed32,
            Type::Fixed64 => Scalar::Fixed64,
            Type::Sfixed32 => Scalar::Sfixed32,
            Type::Sfixed64 => Scalar::Sfixed64,
            Type::Bool => Scalar::Bool,
            Type::String => Scalar::Text,
            Type::Bytes => Scalar::Bytes,
            Type::Float | Type::Double | Type::Message | Type::Group => return None,
        })
    }

    fn zero(self) -> Value<'static> {
        match self {
            Scalar::Bool => Value::Flag(false),
            Scalar::Text => Value::Text(""),
            Scalar::Bytes => Value::Bytes(b""),
            _ => Value::Number(0),
        }
    }

    /// The value of a field as the wire has it; `None` where the wire has another type.
    fn value(self, raw: Raw<'_>) -> Option<Value<'_>> {
        let number = |n: i128| Some(Value::Number(n));
        // Truncation is what every protobuf library does with numbers too wide for their field.
        match (self, raw) {
            (Scalar::Int32, Raw::Varint(n)) => number(i128::from(n as i32)),
            (Scalar::Int64, Raw::Varint(n)) => number(i128::from(n as i64)),
            (Scalar::Uint32, Raw::Varint(n)) => number(i128::from(n as u32)),
            (Scalar::Uint64, Raw::Varint(n)) => number(i128::from(n)),
            (Scalar::Sint32, Raw::Varint(n)) => {
                let n = n as u32;
                number(i128::from((n >> 1) as i32 ^ -((n & 1) as i32)))
            }
            (Scalar::Sint64, Raw::Varint(n)) => number(i128::from((n >> 1) as i64 ^ -((n & 1) as i64))),
            (Scalar::Fixed32, Raw::Four(n)) => number(i128::from(n)),
            (Scalar::Sfixed32, Raw::Four(n)) => number(i128::from(n as i32)),
            (Scalar::Fixed64, Raw::Eight(n)) => number(i128::from(n)),
            (Scalar::Sfixed64, Raw::Eight(n)) => number(i128::from(n as i64)),
            (Scalar::Bool, Raw::Varint(n)) => Some(Value::Flag(n != 0)),
            (Scalar::Text, Raw::Bytes(bytes)) => std::str::from_utf8(bytes).ok().map(Value::Text),
            (Scalar::Bytes, Raw::Bytes(bytes)) => Some(Value::Bytes(bytes)),
            _ => None,
        }
    }
}

impl FieldPath {
    /// The field's value in an encoded request. `None` where the message that holds it is absent, where an `optional`
    /// field is not set, and where the bytes are malformed.
    pub(crate) fn read<'a>(&self, message: &'a [u8]) -> Option<Value<'a>> {
        let mut found = Found {
            holder: self.steps.len() == 1,
            value: None,
        };
        self.scan(message, 0, &mut found)?;
        let zero = (self.zero && found.holder).then(|| self.scalar.zero());
        found.value.or(zero)
    }

    /// Looks at one message. Occurrences of a message merge, and of a scalar the last one wins, as in every decoder.
    fn scan<'a>(&self, message: &'a [u8], depth: usize, found: &mut Found<'a>) -> Option<()> {
        let step = &self.steps[depth];
        let last = depth + 1 == self.steps.len();
        let mut reader = Reader(message);
        while !reader.0.is_empty() {
            let (number, raw) = reader.field()?;
            if number == step.number {
                match (last, raw) {
                    (true, raw) => found.value = Some(self.scalar.value(raw)?),
                    (false, Raw::Bytes(inner)) => {
                        found.holder |= depth + 2 == self.steps.len();
                        self.scan(inner, depth + 1, found)?;
                    }
                    (false, _) => return None,
                }
            } else if step.rivals.contains(&number) {
                found.value = None;
                found.holder &= last;
            }
        }
        Some(())
    }
}

struct Found<'a> {
    /// Whether the message that holds the field is there.
    holder: bool,
    value: Option<Value<'a>>,
}

/// A field's bytes by their wire type.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Varint(u64),
    Four(u32),
    Eight(u64),
    Bytes(&'a [u8]),
    Group,
}

/// Reads fields off the front of a message; `None` where it is malformed.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn field(&mut self) -> Option<(u32, Raw<'a>)> {
        let (number, wire_type) = self.tag()?;
        Some((number, self.raw(number, wire_type, MAX_GROUPS)?))
    }

    fn tag(&mut self) -> Option<(u32, u32)> {
        let tag = u32::try_from(self.varint()?).ok()?;
        (tag >> 3 != 0).then_some((tag >> 3, tag & 7))
    }

    fn raw(&mut self, number: u32, wire_type: u32, groups: u32) -> Option<Raw<'a>> {
        Some(match wire_type {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Eight(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Raw::Bytes(self.take(length)?)
            }
            3 => {
                let groups = groups.checked_sub(1)?;
                loop {
                    match self.tag()? {
                        (end, 4) => break (end == number).then_some(Raw::Group)?,
                        (inner, wire_type) => self.raw(inner, wire_type, groups)?,
                    };
                }
            }
            5 => Raw::Four(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (place, byte) in self.0.iter().take(10).enumerate() {
            // The tenth byte has room for one bit.
            if place == 9 && *byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                self.0 = &self.0[place + 1..];
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests;
