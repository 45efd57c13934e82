//! The reply types of a service's methods, as its schema tells them.

use std::cell::OnceCell;

use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, prost::Message as _,
};
use serde_json::Value;

use crate::method::{MethodDescriptor, ServiceDescriptor};

/// Reads the schema when it is first asked for something.
pub(super) struct ReplyTypes<'a> {
    service: &'a ServiceDescriptor,
    pool: OnceCell<Result<DescriptorPool, String>>,
}

impl<'a> ReplyTypes<'a> {
    pub(super) fn new(service: &'a ServiceDescriptor) -> Self {
        ReplyTypes {
            service,
            pool: OnceCell::new(),
        }
    }

    /// Whether the process knows the schema. Tools that learn a method's name at run time may not.
    pub(super) fn are_known(&self) -> bool {
        !self.service.schema.is_empty()
    }

    /// A reply of the method's type, from protobuf's JSON form.
    pub(super) fn encode(&self, method: &MethodDescriptor, json: &Value) -> Result<Vec<u8>, String> {
        if !self.are_known() {
            return Err(format!(
                "reply_json: this process does not know the schema of `{}`; use reply_base64",
                self.service.name
            ));
        }
        let reply = self
            .reply(method)
            .map_err(|error| format!("reply_json: {error}"))?;
        let name = reply.full_name().to_owned();
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        let message = DynamicMessage::deserialize_with_options(reply, json, &options)
            .map_err(|error| format!("reply_json: is no {name}: {error}"))?;
        Ok(message.encode_to_vec())
    }

    /// Whether `bytes` are a reply of the method's type. Without a schema nobody can tell.
    pub(super) fn check(&self, method: &MethodDescriptor, bytes: &[u8]) -> Result<(), String> {
        if !self.are_known() {
            return Ok(());
        }
        let reply = self
            .reply(method)
            .map_err(|error| format!("reply_base64: {error}"))?;
        let name = reply.full_name().to_owned();
        DynamicMessage::decode(reply, bytes)
            .map(drop)
            .map_err(|error| format!("reply_base64: is no {name}: {error}"))
    }

    fn reply(&self, method: &MethodDescriptor) -> Result<MessageDescriptor, String> {
        let pool = self
            .pool
            .get_or_init(|| {
                DescriptorPool::decode(&*self.service.schema)
                    .map_err(|error| format!("the schema of `{}` cannot be read: {error}", self.service.name))
            })
            .as_ref()
            .map_err(Clone::clone)?;
        pool.get_service_by_name(&self.service.name)
            .and_then(|service| service.methods().find(|known| known.name() == method.name))
            .map(|method| method.output())
            .ok_or_else(|| {
                format!(
                    "the schema of `{}` has no method `{}`",
                    self.service.name, method.name
                )
            })
    }
}
