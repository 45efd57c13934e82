//! Compressed messages, the same on every wire: what comes compressed is read, what goes out is compressed where it is worth it.

use bytes::Bytes;
use rsf_wire::compression::{Encoding, compress};
use rsf_wire::message::MessageError;

use super::Frame;
use crate::error::framework_status;
use crate::outcome::Reason;
use crate::status::Status;

/// Which unary messages a wire compresses. Those that come compressed are read in any case, by gzip and zstd, up to the limit
/// of a message. Streams are their services' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// How. A consumer's requests are compressed without asking, as gRPC has it: its providers must know the encoding, or they
    /// answer UNIMPLEMENTED. RSF's providers know both. A provider's replies are compressed for consumers that accept it.
    pub encoding: Encoding,
    /// Bytes of a message from which on it is compressed. Default 4 096: less costs more than it saves.
    pub least_bytes: usize,
}

impl Compression {
    /// With the default of least bytes.
    pub fn new(encoding: Encoding) -> Self {
        Compression {
            encoding,
            least_bytes: 4096,
        }
    }

    /// The message compressed, where it is worth it.
    pub(super) fn of(&self, frame: &Frame) -> Option<Bytes> {
        let worth = frame.message_len() >= self.least_bytes;
        worth.then(|| compress(frame.bytes(), self.encoding)).flatten()
    }

    /// Whether a consumer with this `grpc-accept-encoding` can read it.
    pub(super) fn is_accepted(&self, accepted: Option<&[u8]>) -> bool {
        accepted.is_some_and(|accepted| self.encoding.is_accepted(accepted))
    }
}

/// A message that cannot be read, as a status with its reason.
pub(super) fn bad_message(error: &MessageError) -> Status {
    match error {
        MessageError::TooLarge { limit } => framework_status(
            Reason::TooLarge,
            format!(
                "the message is too large, at most {limit} bytes are allowed; split it, or raise the limit"
            ),
        ),
        MessageError::UnknownEncoding { .. } => framework_status(Reason::Unimplemented, error.to_string()),
        MessageError::Compressed
        | MessageError::NoEncoding
        | MessageError::Corrupt { .. }
        | MessageError::Length { .. }
        | MessageError::Prefix => framework_status(Reason::Malformed, error.to_string()),
    }
}

/// What servers say they can read, with an UNIMPLEMENTED that may be about an encoding, and consumers that compress.
pub(super) const ACCEPTED: http::HeaderValue =
    http::HeaderValue::from_static(rsf_wire::compression::ACCEPTED);
