//! One method by its name, with JSON in and out: for tools that are no HTTP server, such as `rsf call`.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::DynamicMessage;
use rsf_core::method::ServiceDescriptor;

use crate::json;
use crate::schema::{MethodSchema, Schema, SchemaError, SchemaSource};

/// How deep JSON may nest.
const MAX_DEPTH: usize = 32;

/// How often the services are asked for while one is not known.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A method that was found by its name, with its message types.
pub struct JsonMethod {
    schema: Schema,
    method: MethodSchema,
    number: usize,
}

/// Why a method cannot be called by its name.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    /// Nobody provides the service, as far as is known.
    #[error("no instance of `{service}` is registered within {} ms; {known}", .waited.as_millis())]
    UnknownService {
        /// What was asked for.
        service: String,
        /// How long it was waited for.
        waited: Duration,
        /// The services that are known.
        known: String,
    },
    /// The service has no such method.
    #[error("`{service}` has no method `{method}`; it has {known}")]
    UnknownMethod {
        /// The service.
        service: String,
        /// What was asked for.
        method: String,
        /// Its methods.
        known: String,
    },
    /// The method streams.
    #[error("`{service}/{method}` is a streaming method; only unary ones can be called with JSON")]
    Streaming {
        /// The service.
        service: String,
        /// The method.
        method: String,
    },
    /// Its schema cannot be had.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl JsonMethod {
    /// Finds `method` of `service`, waiting at most `limit` for the directory to name an instance of it.
    pub async fn find(
        schemas: &dyn SchemaSource,
        service: &str,
        method: &str,
        limit: Duration,
    ) -> Result<JsonMethod, MethodError> {
        let version = tokio::time::timeout(limit, async {
            loop {
                // Asking for the services begins to watch each; a registry that is away says so in the end.
                let _ = schemas.services().await;
                if let Some(version) = schemas.versions(service).into_iter().next() {
                    return version;
                }
                let _ = tokio::time::timeout(ASK_AGAIN, schemas.changed()).await;
            }
        });
        let Ok(version) = version.await else {
            let known = match schemas.services().await {
                Ok(services) if services.is_empty() => "no service is registered at all".to_owned(),
                Ok(services) => format!("registered are {}", services.join(", ")),
                Err(error) => format!("the registry does not answer: {error}"),
            };
            return Err(MethodError::UnknownService {
                service: service.to_owned(),
                waited: limit,
                known,
            });
        };
        let bytes = schemas.fetch(service, &version).await?;
        let schema = Schema::compile("the provider", service, version.hash.clone(), &bytes)?;
        let named = || (service.to_owned(), method.to_owned());
        let Some(found) = schema.method(method).cloned() else {
            let names: Vec<_> = schema.methods.iter().map(|method| method.name.as_str()).collect();
            let ((service, method), known) = (named(), names.join(", "));
            return Err(MethodError::UnknownMethod {
                service,
                method,
                known,
            });
        };
        let Some(number) = found.number else {
            let (service, method) = named();
            return Err(MethodError::Streaming { service, method });
        };
        Ok(JsonMethod {
            schema,
            method: found,
            number,
        })
    }

    /// The service's method table, for a channel.
    pub fn service(&self) -> &ServiceDescriptor {
        &self.schema.service
    }

    /// The method's place in that table.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The request of that JSON, or where it is wrong.
    pub fn encode(&self, text: &str) -> Result<Bytes, String> {
        let message = json::read(text.as_bytes(), &self.method.input, MAX_DEPTH, false);
        message
            .map(|message| message.encode_to_vec().into())
            .map_err(|failure| failure.message().to_owned())
    }

    /// The reply as JSON, default values left out.
    pub fn decode(&self, reply: Bytes) -> Result<String, String> {
        let message = DynamicMessage::decode(self.method.output.clone(), reply);
        let message = message
            .map_err(|error| format!("the reply is no {}: {error}", self.method.output.full_name()))?;
        let text = json::write(&message, false).map_err(|error| error.to_string())?;
        String::from_utf8(text).map_err(|error| error.to_string())
    }
}
