//! gRPC's codes and status, as handlers return them.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::metadata::Metadata;

/// The result of a call as gRPC numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
#[allow(
    missing_docs,
    reason = "the meanings are gRPC's own, see the gRPC status code reference"
)]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    pub(crate) const ALL: [Code; 17] = [
        Code::Ok,
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// The names of all codes but `OK`.
    pub(crate) const ERROR_NAMES: &[&str] = &{
        let mut names = [""; Code::ALL.len() - 1];
        let mut place = 0;
        while place < names.len() {
            names[place] = Code::ALL[place + 1].name();
            place += 1;
        }
        names
    };

    /// The code of gRPC's spelling (`NOT_FOUND`).
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.name() == name)
    }

    /// The code of a number; numbers that gRPC does not know are `Unknown`.
    pub fn from_number(number: u32) -> Code {
        Code::ALL.get(number as usize).copied().unwrap_or(Code::Unknown)
    }

    /// gRPC's spelling (`NOT_FOUND`).
    pub const fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::AlreadyExists => "ALREADY_EXISTS",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Aborted => "ABORTED",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::DataLoss => "DATA_LOSS",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a handler ended, when not with a reply.
///
/// One pointer wide: it stands in the outcome of every call, of which few fail.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {}", .0.code, .0.message)]
pub struct Status(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: Code,
    message: String,
    details: Bytes,
    metadata: Metadata,
}

macro_rules! constructors {
    ($($name:ident => $code:ident;)*) => {
        $(
            #[doc = concat!("A status of code `", stringify!($code), "`.")]
            pub fn $name(message: impl Into<String>) -> Self {
                Status::new(Code::$code, message)
            }
        )*
    };
}

impl Status {
    /// A status of any code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Status(Box::new(Parts {
            code,
            message: message.into(),
            details: Bytes::new(),
            metadata: Metadata::new(),
        }))
    }

    constructors! {
        cancelled => Cancelled;
        unknown => Unknown;
        invalid_argument => InvalidArgument;
        deadline_exceeded => DeadlineExceeded;
        not_found => NotFound;
        already_exists => AlreadyExists;
        permission_denied => PermissionDenied;
        resource_exhausted => ResourceExhausted;
        failed_precondition => FailedPrecondition;
        aborted => Aborted;
        out_of_range => OutOfRange;
        unimplemented => Unimplemented;
        internal => Internal;
        unavailable => Unavailable;
        data_loss => DataLoss;
        unauthenticated => Unauthenticated;
    }

    /// Adds details: an encoded `google.rpc.Status`, sent as `grpc-status-details-bin`.
    pub fn with_details(mut self, details: impl Into<Bytes>) -> Self {
        self.0.details = details.into();
        self
    }

    /// Adds metadata, sent with the trailers.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.0.metadata = metadata;
        self
    }

    /// Asks the caller to wait this long, in whole milliseconds, before it attempts the call again, instead of its own
    /// backoff (`grpc-retry-pushback-ms`). Whether it may be attempted again is still the caller's to decide: of RSF's
    /// own clients only what ended `UNAVAILABLE`, and only where the method is idempotent.
    pub fn retry_after(mut self, pause: Duration) -> Self {
        let pause = HeaderValue::from(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        self.0.metadata.set_reserved(PUSHBACK, pause);
        self
    }

    /// Asks the caller to attempt the call no further (`grpc-retry-pushback-ms: -1`): another instance would fail the same
    /// way.
    pub fn without_retry(mut self) -> Self {
        self.forbid_retry();
        self
    }

    pub(crate) fn forbid_retry(&mut self) {
        self.0
            .metadata
            .set_reserved(PUSHBACK, HeaderValue::from_static("-1"));
    }

    /// What the provider wants of further attempts, where it says so.
    pub(crate) fn pushback(&self) -> Option<Pushback> {
        let text = std::str::from_utf8(self.0.metadata.value(PUSHBACK)?).unwrap_or_default();
        // gRFC A6: what is negative or no number asks for no further attempt.
        let pause = text.parse().map(Duration::from_millis);
        Some(pause.map_or(Pushback::Never, Pushback::After))
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// An encoded `google.rpc.Status`; empty where there is none.
    pub fn details(&self) -> &[u8] {
        &self.0.details
    }

    /// The metadata that came with it.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    pub(crate) fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.0.metadata
    }
}

/// A provider's word on further attempts (gRFC A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// None, please.
    Never,
    /// After this pause instead of the backoff.
    After(Duration),
}

/// The trailer that holds a [`Pushback`] in milliseconds.
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl From<tonic::Status> for Status {
    fn from(status: tonic::Status) -> Self {
        Status(Box::new(Parts {
            code: Code::from_number(status.code() as u32),
            message: status.message().to_owned(),
            details: Bytes::copy_from_slice(status.details()),
            metadata: Metadata::from_headers(status.metadata().clone().into_headers()),
        }))
    }
}

impl From<Status> for tonic::Status {
    fn from(status: Status) -> Self {
        let status = *status.0;
        let mut headers = http::HeaderMap::new();
        status.metadata.write_to(&mut headers);
        tonic::Status::with_details_and_metadata(
            tonic::Code::from_i32(status.code as i32),
            status.message,
            status.details,
            tonic::metadata::MetadataMap::from_headers(headers),
        )
    }
}
