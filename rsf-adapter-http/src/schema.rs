//! Where schemas come from, and what the adapter reads out of one.

mod compile;
mod directory;
mod options;
mod reflection;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use directory::DirectorySchemas;

pub(crate) use compile::{MethodSchema, Schema};

/// Bytes of one service's schema at most, imports included.
pub const MAX_SCHEMA_BYTES: usize = 4 * 1024 * 1024;

/// What the adapter asks of the world outside: which services there are, and how their messages look.
#[async_trait]
pub trait SchemaSource: Send + Sync + 'static {
    /// The keys of all services (`service` or `service:implementation`) that are known now.
    async fn services(&self) -> Result<Vec<String>, SchemaError>;

    /// The versions of a service's schema that its instances run, the preferred one first; empty where nothing is
    /// known yet. Answers from memory.
    fn versions(&self, service: &str) -> Vec<SchemaVersion>;

    /// The encoded `FileDescriptorSet` of one version. [`SchemaError::Invalid`] and [`SchemaError::TooLarge`] blame
    /// the instance that was asked, [`SchemaError::Unavailable`] the way to it.
    async fn fetch(&self, service: &str, version: &SchemaVersion) -> Result<Bytes, SchemaError>;

    /// Waits until an answer of [`services`](Self::services) or [`versions`](Self::versions) may have changed.
    async fn changed(&self);
}

/// One version of a service's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaVersion {
    /// Names its content; what is known under a hash is not fetched again.
    pub hash: Arc<str>,
    /// `host:port` of the instances that run it, the one to ask first at the front.
    pub addresses: Vec<Arc<str>>,
}

/// Why there is no schema.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SchemaError {
    /// Nobody answered.
    #[error("{from}: {reason}")]
    Unavailable {
        /// Who was asked.
        from: String,
        /// In their words.
        reason: String,
    },
    /// What was answered is no schema of this service.
    #[error("{from} sent no valid schema: {reason}")]
    Invalid {
        /// Who was asked.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The schema passes [`MAX_SCHEMA_BYTES`].
    #[error(
        "{from} sent a schema of more than {MAX_SCHEMA_BYTES} bytes; split the .proto files that it imports"
    )]
    TooLarge {
        /// Who was asked.
        from: String,
    },
}
