//! gRPC's message: five bytes of prefix (compression flag, length), then the message; and bodies as they gather.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::hpack::Headers;
use crate::inbound::SMALL_PIECE;

/// Bytes of gRPC's prefix.
pub const PREFIX_BYTES: usize = 5;

/// Why a body is no single gRPC message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The limit is the reader's.
    #[error("the message has more than the {limit} bytes that are allowed; split it, or raise the limit")]
    TooLarge {
        /// Bytes that are allowed.
        limit: usize,
    },
    /// It is compressed, and is to be read by [`crate::compression::read`].
    #[error("the message is compressed")]
    Compressed,
    /// It says that it is compressed, and the headers do not say how.
    #[error("the message's flag says that it is compressed, but there is no grpc-encoding")]
    NoEncoding,
    /// Nobody here can read it; [`crate::compression::ACCEPTED`] names what can be read.
    #[error(
        "the message is compressed by `{name}`, which is not known here; send one of {}",
        crate::compression::ACCEPTED
    )]
    UnknownEncoding {
        /// As its headers say.
        name: String,
    },
    /// It does not unfold.
    #[error("the message is no {encoding}, or broken: {reason}")]
    Corrupt {
        /// What it should be.
        encoding: &'static str,
        /// In the decoder's words.
        reason: String,
    },
    /// The body's length and the prefix do not agree.
    #[error("gRPC's prefix announces {announced} bytes, {came} came")]
    Length {
        /// What the prefix says.
        announced: usize,
        /// What stands behind it.
        came: usize,
    },
    /// The body ends within the prefix, or its flag is neither 0 nor 1.
    #[error("the body does not begin with gRPC's five-byte prefix")]
    Prefix,
}

/// Puts gRPC's prefix before a message. `None` where it is larger than 4 GiB, which the prefix cannot say.
pub fn frame(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    Some(out.freeze())
}

/// Takes the prefix off a body that holds one message; `None` where the body is empty. A compressed message is left to
/// [`crate::compression::read`].
pub fn unframe(body: &Bytes) -> Result<Option<Bytes>, MessageError> {
    if body.is_empty() {
        return Ok(None);
    }
    let Some((&[flag, a, b, c, d], message)) = body.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(MessageError::Prefix);
    };
    let announced = u32::from_be_bytes([a, b, c, d]) as usize;
    match flag {
        0 if announced == message.len() => Ok(Some(body.slice(PREFIX_BYTES..))),
        1 if announced == message.len() => Err(MessageError::Compressed),
        0 | 1 => Err(MessageError::Length {
            announced,
            came: message.len(),
        }),
        _ => Err(MessageError::Prefix),
    }
}

/// A body that comes in pieces. One that comes in a single piece is not copied.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    first: Bytes,
    more: BytesMut,
    /// What content-length says; few gRPC peers send it.
    announced: Option<u64>,
    /// Bytes of it that its connection has counted.
    counted: usize,
    /// For how long nothing came, as far as somebody looked.
    silent: Duration,
}

impl Gathered {
    /// A body behind these headers; `None` where their content-length is no number.
    pub(crate) fn behind(headers: &Headers) -> Option<Gathered> {
        let announced = match headers.get("content-length") {
            Some(digits) if !digits.iter().all(u8::is_ascii_digit) => return None,
            Some(digits) => Some(std::str::from_utf8(digits).ok()?.parse().ok()?),
            None => None,
        };
        Some(Gathered {
            announced,
            ..Gathered::default()
        })
    }

    /// More is to come; `bytes` of what is there were counted. Little is copied, for it would keep all alive that was
    /// read with it.
    pub(crate) fn count(&mut self, bytes: usize) {
        self.counted += bytes;
        if self.first.len() < SMALL_PIECE && !self.first.is_empty() {
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
    }

    pub(crate) fn counted(&self) -> usize {
        self.counted
    }

    /// Some time has passed; how long nothing came by now.
    pub(crate) fn wait(&mut self, time: Duration) -> Duration {
        self.silent += time;
        self.silent
    }

    /// Whether what has come, `ended` or not, agrees with content-length.
    pub(crate) fn agrees(&self, ended: bool) -> bool {
        let came = self.len() as u64;
        self.announced
            .is_none_or(|announced| came == announced || (came < announced && !ended))
    }

    /// Adds a piece; `false`, and nothing added, where the body would pass `limit`.
    pub(crate) fn push(&mut self, piece: Bytes, limit: usize) -> bool {
        if self.len() + piece.len() > limit {
            return false;
        }
        self.silent = Duration::ZERO;
        if self.more.is_empty() && self.first.is_empty() {
            self.first = piece;
        } else {
            if self.more.is_empty() {
                self.more.extend_from_slice(&std::mem::take(&mut self.first));
            }
            self.more.extend_from_slice(&piece);
        }
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }

    pub(crate) fn finish(self) -> Bytes {
        if self.more.is_empty() {
            self.first
        } else {
            self.more.freeze()
        }
    }
}

/// What content-length announced of a body that is handed on as it comes.
#[derive(Debug, Default)]
pub(crate) struct Announced(Option<u64>);

impl Announced {
    /// `None` where content-length is no number.
    pub(crate) fn of(headers: &Headers) -> Option<Announced> {
        Gathered::behind(headers).map(|body| Announced::rest(&body))
    }

    /// What of it has not come.
    pub(crate) fn rest(body: &Gathered) -> Announced {
        Announced(
            body.announced
                .map(|announced| announced.saturating_sub(body.len() as u64)),
        )
    }

    /// Whether all has come, as far as was announced.
    pub(crate) fn is_met(&self) -> bool {
        self.0.is_none_or(|missing| missing == 0)
    }

    /// Counts bytes that came; `false` where they are too many, or at the `end` too few.
    pub(crate) fn count(&mut self, bytes: usize, end: bool) -> bool {
        let Announced(Some(missing)) = self else {
            return true;
        };
        match missing.checked_sub(bytes as u64) {
            Some(left) => *missing = left,
            None => return false,
        }
        !end || self.is_met()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_comes_out_and_all_else_is_named() {
        let read = |bytes: &'static [u8]| unframe(&Bytes::from_static(bytes));
        assert_eq!(read(b"\0\0\0\0\x02ab"), Ok(Some(Bytes::from_static(b"ab"))));
        assert_eq!(read(b""), Ok(None));
        assert_eq!(read(b"\0\0\0"), Err(MessageError::Prefix));
        assert_eq!(read(b"\x07\0\0\0\0"), Err(MessageError::Prefix));
        assert_eq!(read(b"\x01\0\0\0\x01a"), Err(MessageError::Compressed));
        assert!(matches!(
            read(b"\x01\0\0\0\x02a"),
            Err(MessageError::Length { .. })
        ));
        assert_eq!(
            read(b"\0\0\0\0\x03ab"),
            Err(MessageError::Length {
                announced: 3,
                came: 2
            })
        );
        assert_eq!(
            read(b"\0\0\0\0\x01ab"),
            Err(MessageError::Length {
                announced: 1,
                came: 2
            })
        );
    }

    #[test]
    fn pieces_gather_up_to_the_limit() {
        let mut body = Gathered::default();
        assert!(body.push(Bytes::from_static(b"ab"), 5));
        assert!(body.push(Bytes::new(), 5));
        assert!(body.push(Bytes::from_static(b"cde"), 5));
        assert!(!body.push(Bytes::from_static(b"f"), 5));
        assert_eq!(body.finish(), "abcde");
    }

    #[test]
    fn what_is_not_whole_keeps_little_alive() {
        for (length, kept) in [(1, false), (10_000, false), (16_384, true)] {
            let (mut body, read) = (Gathered::default(), Bytes::from(vec![0; 48 * 1024]));
            assert!(body.push(read.slice(..length), usize::MAX));
            body.count(length);
            assert_eq!(!read.is_unique(), kept, "{length}");
        }
    }
}
