//! What a backend can answer instead of doing it.

use std::time::Duration;

/// Why a backend did not do what it was asked.
///
/// Only [`StoreError::Unavailable`] is worth trying again as it is; the others say what to change first.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The backend cannot be reached, or did not answer in time. Whether a write took effect is unknown.
    #[error("{backend} at {address} is unavailable: {reason}")]
    Unavailable {
        /// `redis`, `zookeeper`, `registry`.
        backend: &'static str,
        /// Where it should be, without credentials.
        address: String,
        /// In the backend's words.
        reason: String,
    },
    /// The namespace is not served by this backend.
    #[error(
        "namespace `{namespace}` does not exist at {address}; it has {known}. Set RSF_NAMESPACE, or create it by starting its pump (`rsf pump --namespace {namespace}`)"
    )]
    UnknownNamespace {
        /// What was asked for.
        namespace: String,
        /// Where.
        address: String,
        /// The namespaces that do exist, for the message.
        known: String,
    },
    /// A newer incarnation, sequence, revision or epoch is already stored; this write is stale and was refused.
    #[error("stale write to {key}: {reason}")]
    Stale {
        /// What was to be written.
        key: String,
        /// The stored and the offered version.
        reason: String,
    },
    /// Another start of this instance, or a later write of this one, holds its lease; this write was refused.
    ///
    /// The clock of a machine may have stepped back between two starts, so that the later one has the smaller
    /// incarnation. It may take a greater one than is stored once the stored lease is no longer renewed.
    #[error(
        "the lease of `{instance}` is held by incarnation {incarnation} (sequence {sequence}){}",
        if *.left { ", which left" } else { "; either it runs twice under one name, so set another RSF_INSTANCE, or its clock stepped back, and it registers as soon as that lease has run out" }
    )]
    Superseded {
        /// Whose lease.
        instance: String,
        /// The stored incarnation.
        incarnation: u64,
        /// The stored sequence.
        sequence: u64,
        /// The stored lease says that its owner left on purpose.
        left: bool,
    },
    /// The writer's term has ended: another pump leads.
    #[error("epoch {epoch} is fenced: another pump leads")]
    Fenced {
        /// The epoch that was refused.
        epoch: u64,
    },
    /// The stored bytes are not what they should be; they were left alone.
    #[error("invalid record {key}: {reason}")]
    Invalid {
        /// Where.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The backend understood and refused: credentials, permissions, a full disk.
    #[error("{backend} refused: {reason}")]
    Refused {
        /// `redis`, `zookeeper`, `registry`.
        backend: &'static str,
        /// In the backend's words, with what to do.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }
}

/// How long a backend may take for one request before it counts as unavailable.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
