//! Services and methods as the code knows them: names, idempotency, and RSF's own method options.

use std::borrow::Cow;

use crate::policy::CallPolicy;

/// A protobuf service. Generated code holds one as a constant; tools build one from a schema at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDescriptor {
    /// Fully qualified (`shop.v1.MemberService`).
    pub name: Cow<'static, str>,
    /// In the order of the .proto file; a method's number is its place here and stays in the process.
    pub methods: Cow<'static, [MethodDescriptor]>,
    /// The encoded `FileDescriptorSet` the service was generated from; empty where it is not known.
    pub schema: Cow<'static, [u8]>,
}

impl ServiceDescriptor {
    /// The number of the method named `name`.
    pub fn method(&self, name: &str) -> Option<usize> {
        self.methods.iter().position(|method| method.name == name)
    }
}

/// A unary method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodDescriptor {
    /// Within the service (`Get`).
    pub name: Cow<'static, str>,
    /// The gRPC path (`/shop.v1.MemberService/Get`).
    pub path: Cow<'static, str>,
    /// Whether it may be attempted again after its handler may have run: `idempotency_level` is set, or RSF's
    /// `idempotent` option.
    pub idempotent: bool,
    /// Milliseconds for the whole call, from RSF's `timeout_ms` option.
    pub timeout_ms: Option<u64>,
    /// Tries of one call, from RSF's `attempts` option.
    pub attempts: Option<u32>,
    /// Whether the provider stores the outcome under the request id and replays it, from RSF's `dedup` option.
    pub dedup: bool,
    /// The request field that routes and hashes go by, from RSF's `routing_key` option; empty where there is none.
    pub routing_key: Cow<'static, str>,
}

impl MethodDescriptor {
    /// A method without options, for tools that know only its path.
    pub fn plain(service: &str, name: &str) -> Self {
        MethodDescriptor {
            name: name.to_owned().into(),
            path: format!("/{service}/{name}").into(),
            idempotent: false,
            timeout_ms: None,
            attempts: None,
            dedup: false,
            routing_key: "".into(),
        }
    }

    /// The options as a policy layer.
    pub(crate) fn options(&self) -> CallPolicy {
        let mut policy = CallPolicy {
            timeout_ms: self.timeout_ms,
            ..CallPolicy::default()
        };
        policy.retry.attempts = self.attempts;
        policy
    }
}

/// The service key of a service and an implementation: what leases, lists and policies are filed under.
pub fn service_key(service: &str, implementation: &str) -> String {
    if implementation.is_empty() {
        service.to_owned()
    } else {
        format!("{service}:{implementation}")
    }
}
