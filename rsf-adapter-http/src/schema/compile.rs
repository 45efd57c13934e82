//! A schema made ready for calls: message types by method, and the method table that governance reads.

use std::sync::Arc;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use rsf_core::method::{MethodDescriptor, ServiceDescriptor};

use super::options::RsfOptions;
use super::{MAX_SCHEMA_BYTES, SchemaError};

/// One version of one service.
#[derive(Debug)]
pub(crate) struct Schema {
    /// Names its content.
    pub(crate) hash: Arc<str>,
    /// For governance; holds the unary methods only.
    pub(crate) service: ServiceDescriptor,
    /// All methods, in the order of the .proto file.
    pub(crate) methods: Vec<MethodSchema>,
    /// Every type that the schema knows.
    pub(crate) pool: DescriptorPool,
}

/// One method.
#[derive(Debug, Clone)]
pub(crate) struct MethodSchema {
    pub(crate) name: String,
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
    /// Its place among the unary methods of the service; `None` for a streaming one.
    pub(crate) number: Option<usize>,
    /// `idempotency_level = NO_SIDE_EFFECTS`: may be called by GET.
    pub(crate) no_side_effects: bool,
    /// Whether the provider replays the outcome of a request id.
    pub(crate) dedup: bool,
}

impl Schema {
    /// Reads an encoded `FileDescriptorSet`. Any bytes may come.
    pub(crate) fn compile(
        from: &str,
        service: &str,
        hash: Arc<str>,
        bytes: &Bytes,
    ) -> Result<Schema, SchemaError> {
        let invalid = |reason: String| SchemaError::Invalid {
            from: from.to_owned(),
            reason,
        };
        if bytes.len() > MAX_SCHEMA_BYTES {
            return Err(SchemaError::TooLarge {
                from: from.to_owned(),
            });
        }
        let pool = DescriptorPool::decode(bytes.as_ref()).map_err(|error| invalid(error.to_string()))?;
        let descriptor = pool
            .get_service_by_name(service)
            .ok_or_else(|| invalid(format!("it has no service `{service}`")))?;
        let mut methods = Vec::new();
        let mut unary = Vec::new();
        for method in descriptor.methods() {
            let options = RsfOptions::read(&method.options());
            let streaming = method.is_client_streaming() || method.is_server_streaming();
            methods.push(MethodSchema {
                name: method.name().to_owned(),
                input: method.input(),
                output: method.output(),
                number: (!streaming).then_some(unary.len()),
                no_side_effects: options.no_side_effects,
                dedup: options.dedup,
            });
            if !streaming {
                unary.push(options.into_method(service, method.name()));
            }
        }
        let service = ServiceDescriptor {
            name: service.to_owned().into(),
            methods: unary.into(),
            schema: bytes.to_vec().into(),
        };
        Ok(Schema {
            hash,
            service,
            methods,
            pool,
        })
    }

    /// The method of that exact name.
    pub(crate) fn method(&self, name: &str) -> Option<&MethodSchema> {
        self.methods.iter().find(|method| method.name == name)
    }
}

impl RsfOptions {
    fn into_method(self, service: &str, name: &str) -> MethodDescriptor {
        MethodDescriptor {
            idempotent: self.idempotent,
            timeout_ms: self.timeout_ms,
            attempts: self.attempts,
            dedup: self.dedup,
            routing_key: self.routing_key.into(),
            ..MethodDescriptor::plain(service, name)
        }
    }
}
