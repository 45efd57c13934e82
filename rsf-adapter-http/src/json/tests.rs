use super::*;
use prost_reflect::DescriptorPool;

fn message() -> MessageDescriptor {
    let mut compiler = protox::Compiler::new([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proto")]).unwrap();
    compiler.include_imports(true).open_file("probe.proto").unwrap();
    let pool = DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap();
    pool.get_message_by_name("test.v1.Everything").unwrap()
}

fn fixed(text: &str) -> String {
    String::from_utf8(
        scan::prepare(text.as_bytes(), &message(), 32)
            .unwrap()
            .into_owned(),
    )
    .unwrap()
}

#[test]
fn only_empty_arrays_in_an_objects_place_change() {
    for (text, expected) in [
        ("[]", "{}"),
        (r#"{"child":[]}"#, r#"{"child":{}}"#),
        (
            r#"{"child" : [ ] , "text":"[]"}"#,
            r#"{"child" : { } , "text":"[]"}"#,
        ),
        (r#"{"child":{"labels":[]}}"#, r#"{"child":{"labels":{}}}"#),
        (r#"{"l\u0061bels":[]}"#, r#"{"l\u0061bels":{}}"#),
        (r#"{"list":[[],[]],"words":[]}"#, r#"{"list":[{},{}],"words":[]}"#),
        (r#"{"extra":[],"any_value":[]}"#, r#"{"extra":{},"any_value":[]}"#),
        (r#"{"extra":{"child":[]}}"#, r#"{"extra":{"child":[]}}"#),
        (
            r#"{"text":[],"at":[],"unknown":[]}"#,
            r#"{"text":[],"at":[],"unknown":[]}"#,
        ),
        (r#"{"labels":[1]}"#, r#"{"labels":[1]}"#),
    ] {
        assert_eq!(fixed(text), expected);
    }
}

#[test]
fn depth_counts_objects_and_arrays() {
    let message = message();
    assert!(scan::prepare(br#"{"list":[{}]}"#, &message, 3).is_ok());
    assert_eq!(
        scan::prepare(br#"{"list":[{}]}"#, &message, 2).unwrap_err(),
        scan::TooDeep { at: 9 }
    );
    assert!(scan::prepare(br#""[[[[""#, &message, 1).is_ok());
}

#[test]
fn any_bytes_are_looked_over_without_panic() {
    let message = message();
    let text = br#"{"list":[[],{"child":[ ],"labels":{"a\"":"\\"}}],"extra":{"x":[[]]}}"#;
    for end in 0..text.len() {
        let _ = read(&text[..end], &message, 32, false).unwrap_err();
        for byte in [b'[', b']', b'{', b'}', b'"', b'\\', b',', 0xff] {
            let mut broken = text.to_vec();
            broken[end] = byte;
            let _ = read(&broken, &message, 32, false);
        }
    }
}
