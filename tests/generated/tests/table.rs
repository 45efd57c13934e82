//! The generated method tables and schemas.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use prost_reflect::{DescriptorPool, ReflectMessage};
use rsf_generated::PingerClient;
use rsf_generated::awkward::v1::AwkwardClient;
use rsf_generated::rsf::{Client, MethodDescriptor};
use rsf_generated::shop::v1::MemberServiceClient;

fn method(of: &'static rsf_generated::rsf::ServiceDescriptor, name: &str) -> &'static MethodDescriptor {
    &of.methods[of.method(name).unwrap()]
}

#[test]
fn options_become_the_table() {
    let awkward = AwkwardClient::descriptor();
    let plain = |name| MethodDescriptor::plain("awkward.v1.Awkward", name);
    assert_eq!(*method(awkward, "New"), plain("New"));
    assert_eq!(
        *method(awkward, "HTTPGet"),
        MethodDescriptor {
            idempotent: true,
            ..plain("HTTPGet")
        }
    );
    assert_eq!(
        *method(awkward, "Nothing"),
        MethodDescriptor {
            idempotent: true,
            attempts: Some(5),
            ..plain("Nothing")
        }
    );
    assert_eq!(
        *method(awkward, "Pay"),
        MethodDescriptor {
            timeout_ms: Some(3_600_000),
            dedup: true,
            routing_key: "currency".into(),
            ..plain("Pay")
        }
    );
    assert_eq!(method(awkward, "Old").routing_key, "deep.inner.key");
    let get = method(MemberServiceClient::descriptor(), "Get");
    assert_eq!(
        (get.idempotent, get.timeout_ms, get.attempts),
        (true, Some(1000), Some(3))
    );
    assert_eq!(method(PingerClient::descriptor(), "Ping").path, "/Pinger/Ping");
}

#[test]
fn streaming_methods_are_not_in_the_table() {
    let names: Vec<_> = AwkwardClient::descriptor()
        .methods
        .iter()
        .map(|method| &*method.name)
        .collect();
    assert!(!names.contains(&"Watch") && !names.contains(&"Upload"));
    assert_eq!(
        names.last(),
        Some(&"Panics"),
        "numbers go on after a streaming method"
    );
}

#[test]
fn a_schema_stands_alone_and_keeps_the_options() {
    let descriptor = AwkwardClient::descriptor();
    let pool = DescriptorPool::decode(&*descriptor.schema).unwrap();
    let service = pool.get_service_by_name(&descriptor.name).unwrap();
    assert_eq!(
        service.methods().len(),
        descriptor.methods.len() + 2,
        "streaming methods are in the schema"
    );
    let pay = service.methods().find(|method| method.name() == "Pay").unwrap();
    let extension = pool.get_extension_by_name("rsf.options.v1.method").unwrap();
    let options = pay.options();
    let rules = options.get_extension(&extension);
    let rules = rules.as_message().unwrap();
    assert_eq!(
        rules.get_field_by_name("timeout_ms").unwrap().as_u32(),
        Some(3_600_000)
    );
    assert_eq!(rules.descriptor().full_name(), "rsf.options.v1.MethodRules");
    assert!(
        pool.files()
            .all(|file| file.file_descriptor_proto().source_code_info.is_none())
    );
}
