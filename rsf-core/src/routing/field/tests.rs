//! The field reader beside a whole decoder (prost-reflect), on good bytes and on broken ones.

use std::sync::LazyLock;

use super::*;
use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value as Reflected};
use prost_types::{FileDescriptorProto, MethodDescriptorProto, OneofDescriptorProto, ServiceDescriptorProto};

const SCALARS: &[(&str, Type)] = &[
    ("int32", Type::Int32),
    ("int64", Type::Int64),
    ("uint32", Type::Uint32),
    ("uint64", Type::Uint64),
    ("sint32", Type::Sint32),
    ("sint64", Type::Sint64),
    ("fixed32", Type::Fixed32),
    ("fixed64", Type::Fixed64),
    ("sfixed32", Type::Sfixed32),
    ("sfixed64", Type::Sfixed64),
    ("flag", Type::Bool),
    ("text", Type::String),
    ("data", Type::Bytes),
];

/// `Node`: every scalar, itself as `inner`, an optional number, and a `oneof` of a number and a node.
fn set() -> FileDescriptorSet {
    let field = |name: &str, number, kind: Type| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional as i32),
        r#type: Some(kind as i32),
        type_name: (kind == Type::Message).then(|| ".t.Node".to_owned()),
        ..FieldDescriptorProto::default()
    };
    let of = |oneof, field| FieldDescriptorProto {
        oneof_index: Some(oneof),
        ..field
    };
    let scalars = SCALARS
        .iter()
        .zip(1..)
        .map(|((name, kind), number)| field(name, number, *kind));
    let mut fields: Vec<_> = scalars.collect();
    fields.extend([
        field("inner", 20, Type::Message),
        of(0, field("either", 21, Type::Int64)),
        of(0, field("or", 22, Type::Message)),
        FieldDescriptorProto {
            proto3_optional: Some(true),
            ..of(1, field("maybe", 23, Type::Int32))
        },
        FieldDescriptorProto {
            label: Some(Label::Repeated as i32),
            ..field("many", 24, Type::Int32)
        },
        field("ratio", 25, Type::Double),
    ]);
    let oneof = |name: &str| OneofDescriptorProto {
        name: Some(name.to_owned()),
        ..Default::default()
    };
    let method = MethodDescriptorProto {
        name: Some("M".to_owned()),
        input_type: Some(".t.Node".to_owned()),
        output_type: Some(".t.Node".to_owned()),
        ..Default::default()
    };
    FileDescriptorSet {
        file: vec![FileDescriptorProto {
            name: Some("t.proto".to_owned()),
            package: Some("t".to_owned()),
            syntax: Some("proto3".to_owned()),
            message_type: vec![DescriptorProto {
                name: Some("Node".to_owned()),
                field: fields,
                oneof_decl: vec![oneof("choice"), oneof("_maybe")],
                ..Default::default()
            }],
            service: vec![ServiceDescriptorProto {
                name: Some("S".to_owned()),
                method: vec![method],
                ..Default::default()
            }],
            ..Default::default()
        }],
    }
}

fn path(text: &str) -> Result<FieldPath, String> {
    Schema::read(&set().encode_to_vec())
        .unwrap()
        .field("/t.S/M", text)
}

fn node() -> MessageDescriptor {
    DescriptorPool::from_file_descriptor_set(set())
        .unwrap()
        .get_message_by_name("t.Node")
        .unwrap()
}

/// What a whole decoder says of the field.
fn decoded(message: &DynamicMessage, path: &str) -> Option<Reflected> {
    let mut message = message.clone();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let field = message.descriptor().get_field_by_name(name).unwrap();
        if field.supports_presence() && !message.has_field(&field) {
            return None;
        }
        let value = message.get_field(&field).into_owned();
        match (value, names.peek()) {
            (Reflected::Message(inner), Some(_)) => message = inner,
            (value, _) => return Some(value),
        }
    }
    None
}

fn same(found: Value<'_>, wanted: &Reflected) -> bool {
    match (found, wanted) {
        (Value::Number(n), Reflected::I32(w)) => n == i128::from(*w),
        (Value::Number(n), Reflected::I64(w)) => n == i128::from(*w),
        (Value::Number(n), Reflected::U32(w)) => n == i128::from(*w),
        (Value::Number(n), Reflected::U64(w)) => n == i128::from(*w),
        (Value::Flag(flag), Reflected::Bool(w)) => flag == *w,
        (Value::Text(text), Reflected::String(w)) => text == w,
        (Value::Bytes(bytes), Reflected::Bytes(w)) => bytes == w,
        _ => false,
    }
}

static NODE: LazyLock<MessageDescriptor> = LazyLock::new(node);
static PATHS: LazyLock<Vec<(String, FieldPath)>> = LazyLock::new(|| {
    let schema = Schema::read(&set().encode_to_vec()).unwrap();
    let compiled = |text: String| (schema.field("/t.S/M", &text).unwrap(), text);
    let paths = paths().into_iter().map(compiled);
    paths.map(|(path, text)| (text, path)).collect()
});

fn paths() -> Vec<String> {
    let leaves = SCALARS.iter().map(|(name, _)| *name).chain(["either", "maybe"]);
    let leaves: Vec<_> = leaves.collect();
    ["", "inner.", "or.", "inner.inner.", "inner.or.", "or.inner."]
        .iter()
        .flat_map(|before| leaves.iter().map(move |leaf| format!("{before}{leaf}")))
        .collect()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// Fields as a peer might write them: known and unknown ones, in any order, several times.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        (
            prop::sample::select(vec![1u64, 2, 3, 4, 5, 6, 11, 21, 23, 30]),
            any::<u64>()
        )
            .prop_map(|(number, value)| [varint(number << 3), varint(value)].concat()),
        (prop::sample::select(vec![7u64, 9, 31]), any::<u32>()).prop_map(|(number, value)| [
            varint(number << 3 | 5),
            value.to_le_bytes().to_vec()
        ]
        .concat()),
        (prop::sample::select(vec![8u64, 10, 32]), any::<u64>()).prop_map(|(number, value)| [
            varint(number << 3 | 1),
            value.to_le_bytes().to_vec()
        ]
        .concat()),
        (prop::sample::select(vec![12u64, 13, 33]), "[a-zé]{0,6}").prop_map(|(number, text)| [
            varint(number << 3 | 2),
            varint(text.len() as u64),
            text.into_bytes()
        ]
        .concat()),
        any::<u64>().prop_map(|value| [
            varint(40 << 3 | 3),
            varint(1 << 3),
            varint(value),
            varint(40 << 3 | 4)
        ]
        .concat()),
    ];
    leaf.prop_recursive(3, 48, 6, |inner| {
        let several = prop::collection::vec(inner, 0..6).prop_map(|parts| parts.concat());
        (prop::sample::select(vec![20u64, 20, 22]), several)
            .prop_map(|(number, body)| [varint(number << 3 | 2), varint(body.len() as u64), body].concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fields_are_read_as_a_whole_decoder_reads_them(parts in prop::collection::vec(message(), 0..8)) {
        let bytes = parts.concat();
        let whole = DynamicMessage::decode(NODE.clone(), &*bytes).unwrap();
        for (text, path) in &*PATHS {
            let found = path.read(&bytes);
            match (found, decoded(&whole, text)) {
                (None, None) => {}
                (Some(found), Some(wanted)) if same(found, &wanted) => {}
                (found, wanted) => prop_assert!(false, "{text}: {found:?} instead of {wanted:?}"),
            }
        }
    }

    #[test]
    fn broken_bytes_have_no_value_and_do_no_harm(
        parts in prop::collection::vec(message(), 0..4),
        change in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = parts.concat();
        if !bytes.is_empty() {
            let place = change.index(bytes.len());
            bytes[place] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        for bytes in [bytes, noise] {
            let whole = DynamicMessage::decode(NODE.clone(), &*bytes).ok();
            for (text, path) in &*PATHS {
                let found = path.read(&bytes);
                if let (Some(whole), Some(found)) = (&whole, found) {
                    let wanted = decoded(whole, text);
                    prop_assert!(wanted.is_some_and(|wanted| same(found, &wanted)), "{text}");
                }
            }
        }
    }
}

#[test]
fn paths_that_name_no_single_value_are_refused() {
    for (text, problem) in [
        ("", "no field ``"),
        ("none", "its fields: int32"),
        ("inner", "name a whole number"),
        ("inner.none", "no field `none`"),
        ("int32.x", "is no message"),
        ("many", "many values"),
        ("ratio", "TYPE_DOUBLE"),
    ] {
        let error = path(text).unwrap_err();
        assert!(error.contains(problem), "{text}: {error}");
    }
    let schema = Schema::read(&set().encode_to_vec()).unwrap();
    assert!(
        schema
            .field("/t.S/Other", "int32")
            .unwrap_err()
            .contains("no method")
    );
    assert!(Schema::read(&[0xff]).is_err());
}

#[test]
fn groups_within_groups_end() {
    let mut bytes = varint(40 << 3 | 3).repeat(100_000);
    assert_eq!(path("int32").unwrap().read(&bytes), None);
    bytes = varint(40 << 3 | 3).repeat(90);
    bytes.extend(varint(40 << 3 | 4).repeat(90));
    assert_eq!(path("int32").unwrap().read(&bytes), Some(Value::Number(0)));
}
