//! HTTP/2 frames: nine-byte heads, typed frames, and the errors that end a stream or a connection.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

mod settings;

pub use settings::Settings;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub const HEAD_BYTES: usize = 9;
/// The greatest window, and the greatest stream id.
pub const MAX_31_BITS: u32 = 0x7fff_ffff;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// The kinds of frames, as numbered on the wire.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Why a stream or a connection ended, in HTTP/2's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

macro_rules! codes {
    ($($name:ident = $number:literal;)*) => {
        #[allow(missing_docs, reason = "the meanings are HTTP/2's own, RFC 9113 section 7")]
        impl ErrorCode {
            $(pub const $name: ErrorCode = ErrorCode($number);)*

            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    NO_ERROR = 0;
    PROTOCOL_ERROR = 1;
    INTERNAL_ERROR = 2;
    FLOW_CONTROL_ERROR = 3;
    SETTINGS_TIMEOUT = 4;
    STREAM_CLOSED = 5;
    FRAME_SIZE_ERROR = 6;
    REFUSED_STREAM = 7;
    CANCEL = 8;
    COMPRESSION_ERROR = 9;
    CONNECT_ERROR = 10;
    ENHANCE_YOUR_CALM = 11;
    INADEQUATE_SECURITY = 12;
    HTTP_1_1_REQUIRED = 13;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The peer broke the protocol, or a limit: the connection ends with this code in its GOAWAY.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct ConnectionError {
    /// What GOAWAY says.
    pub code: ErrorCode,
    /// For people.
    pub reason: &'static str,
}

impl ConnectionError {
    pub(crate) fn new(code: ErrorCode, reason: &'static str) -> Self {
        ConnectionError { code, reason }
    }

    pub(crate) fn protocol(reason: &'static str) -> Self {
        Self::new(ErrorCode::PROTOCOL_ERROR, reason)
    }

    fn size(reason: &'static str) -> Self {
        Self::new(ErrorCode::FRAME_SIZE_ERROR, reason)
    }
}

/// A frame as it came, padding and priority taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// DATA. `flow` counts padding too, as flow control does.
    #[allow(missing_docs, reason = "the fields are the frame's own")]
    Data {
        stream: u32,
        data: Bytes,
        flow: u32,
        end: bool,
    },
    /// HEADERS; `complete` where no CONTINUATION follows.
    #[allow(missing_docs, reason = "the fields are the frame's own")]
    Headers {
        stream: u32,
        block: Bytes,
        end: bool,
        complete: bool,
    },
    /// CONTINUATION.
    #[allow(missing_docs, reason = "the fields are the frame's own")]
    Continuation {
        stream: u32,
        block: Bytes,
        complete: bool,
    },
    /// RST_STREAM.
    #[allow(missing_docs, reason = "the fields are the frame's own")]
    Reset { stream: u32, code: ErrorCode },
    /// SETTINGS, checked.
    Settings(Settings),
    /// The peer has taken our SETTINGS over.
    SettingsAck,
    /// PING, to be answered with the same eight bytes.
    Ping([u8; 8]),
    /// The answer to a PING.
    Pong([u8; 8]),
    /// GOAWAY: streams above `last` were not looked at.
    #[allow(missing_docs, reason = "the fields are the frame's own")]
    GoAway { last: u32, code: ErrorCode },
    /// WINDOW_UPDATE; stream 0 is the connection. An increment of 0 is the reader's to refuse.
    #[allow(missing_docs, reason = "the fields are the frame's own")]
    WindowUpdate { stream: u32, increment: u32 },
    /// PRIORITY, or a kind that HTTP/2 says to ignore.
    Ignored,
}

/// A frame's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    /// The head of the next frame, where all of that frame is there. `max_payload` is what we announced.
    #[inline(always)]
    pub(crate) fn peek(buffer: &[u8], max_payload: u32) -> Result<Option<Head>, ConnectionError> {
        let Some(&[a, b, c, kind, flags, s0, s1, s2, s3]) = buffer.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]);
        if length > max_payload {
            return Err(ConnectionError::size(
                "the frame is larger than SETTINGS_MAX_FRAME_SIZE",
            ));
        }
        let length = length as usize;
        Ok((buffer.len() >= HEAD_BYTES + length).then_some(Head {
            length,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_31_BITS,
        }))
    }

    /// Takes the frame off `buffer`, and the `read` bytes before it.
    #[inline(always)]
    pub(crate) fn take(self, buffer: &mut BytesMut, read: usize) -> Result<Frame, ConnectionError> {
        let begin = read + HEAD_BYTES;
        let payload = if self.length == 0 {
            buffer.advance(begin);
            Bytes::new()
        } else {
            let mut payload = buffer.split_to(begin + self.length).freeze();
            payload.advance(begin);
            payload
        };
        typed(self.kind, self.flags, self.stream, payload)
    }

    /// Whether this is a request's or reply's header block in one piece and with nothing around it.
    #[inline]
    pub(crate) fn is_whole_block(self) -> bool {
        self.kind == kind::HEADERS && self.flags & !END_STREAM == END_HEADERS && self.stream != 0
    }
}

/// Takes the next whole frame off `buffer`; `None` where more bytes must come. `max_payload` is what we announced.
pub fn read(buffer: &mut BytesMut, max_payload: u32) -> Result<Option<Frame>, ConnectionError> {
    match Head::peek(buffer, max_payload)? {
        Some(head) => head.take(buffer, 0).map(Some),
        None => Ok(None),
    }
}

// A frame becomes an event at its one caller: in one piece none of the three is moved about.
#[inline(always)]
fn typed(kind: u8, flags: u8, stream: u32, mut payload: Bytes) -> Result<Frame, ConnectionError> {
    let on_stream = matches!(
        kind,
        kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION
    );
    let on_connection = matches!(kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
    if on_stream && stream == 0 {
        return Err(ConnectionError::protocol("this frame needs a stream"));
    }
    if on_connection && stream != 0 {
        return Err(ConnectionError::protocol("this frame belongs to no stream"));
    }
    let end = flags & END_STREAM != 0;
    let complete = flags & END_HEADERS != 0;
    match kind {
        kind::DATA => {
            let flow = payload.len() as u32;
            let data = unpad(payload, flags)?;
            Ok(Frame::Data {
                stream,
                data,
                flow,
                end,
            })
        }
        kind::HEADERS => {
            let mut block = unpad(payload, flags)?;
            if flags & PRIORITY != 0 {
                if block.len() < 5 {
                    return Err(ConnectionError::size("HEADERS ends within its priority"));
                }
                depends_on_another(stream, block.get_u32())?;
                block.advance(1);
            }
            Ok(Frame::Headers {
                stream,
                block,
                end,
                complete,
            })
        }
        kind::CONTINUATION => Ok(Frame::Continuation {
            stream,
            block: payload,
            complete,
        }),
        kind::RST_STREAM => {
            let code = ErrorCode(u32::from_be_bytes(exactly(&payload)?));
            Ok(Frame::Reset { stream, code })
        }
        kind::SETTINGS if flags & ACK != 0 => exactly::<0>(&payload).map(|_| Frame::SettingsAck),
        kind::SETTINGS => Settings::read(&payload).map(Frame::Settings),
        kind::PUSH_PROMISE => Err(ConnectionError::protocol("push is not enabled")),
        kind::PING if flags & ACK != 0 => exactly(&payload).map(Frame::Pong),
        kind::PING => exactly(&payload).map(Frame::Ping),
        kind::GOAWAY => {
            if payload.len() < 8 {
                return Err(ConnectionError::size("GOAWAY has at least eight bytes"));
            }
            let last = payload.get_u32() & MAX_31_BITS;
            Ok(Frame::GoAway {
                last,
                code: ErrorCode(payload.get_u32()),
            })
        }
        kind::WINDOW_UPDATE => {
            let increment = u32::from_be_bytes(exactly(&payload)?) & MAX_31_BITS;
            Ok(Frame::WindowUpdate { stream, increment })
        }
        kind::PRIORITY => {
            let [on @ .., _weight] = exactly::<5>(&payload)?;
            depends_on_another(stream, u32::from_be_bytes(on)).map(|()| Frame::Ignored)
        }
        _ => Ok(Frame::Ignored),
    }
}

fn exactly<const N: usize>(payload: &[u8]) -> Result<[u8; N], ConnectionError> {
    payload
        .try_into()
        .map_err(|_| ConnectionError::size("the frame's length is not the one of its kind"))
}

/// Priorities are ignored, but for the one that RFC 7540 forbids.
fn depends_on_another(stream: u32, on: u32) -> Result<(), ConnectionError> {
    if on & MAX_31_BITS == stream {
        return Err(ConnectionError::protocol("a stream depends on itself"));
    }
    Ok(())
}

#[inline]
fn unpad(mut payload: Bytes, flags: u8) -> Result<Bytes, ConnectionError> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    if payload.is_empty() {
        return Err(ConnectionError::size("a padded frame has no padding length"));
    }
    let padding = usize::from(payload.get_u8());
    if padding > payload.len() {
        return Err(ConnectionError::protocol("the padding is longer than the frame"));
    }
    payload.truncate(payload.len() - padding);
    Ok(payload)
}

/// Writes a frame's head. `length` is below 2²⁴.
pub(crate) fn write_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags, s0, s1, s2, s3]);
}

/// Writes a header block as HEADERS, and CONTINUATION where it is longer than the peer's frames.
pub(crate) fn write_headers(out: &mut Vec<u8>, stream: u32, block: &[u8], end: bool, max_payload: usize) {
    let (mut kind, mut flags) = (kind::HEADERS, if end { END_STREAM } else { 0 });
    let mut rest = block;
    while rest.len() > max_payload {
        let (part, after) = rest.split_at(max_payload);
        write_head(out, part.len(), kind, flags, stream);
        out.extend_from_slice(part);
        (kind, flags, rest) = (kind::CONTINUATION, 0, after);
    }
    write_head(out, rest.len(), kind, flags | END_HEADERS, stream);
    out.extend_from_slice(rest);
}

pub(crate) fn write_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    write_head(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(crate) fn write_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    write_head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

pub(crate) fn write_ping(out: &mut Vec<u8>, ack: bool, payload: [u8; 8]) {
    write_head(out, 8, kind::PING, if ack { ACK } else { 0 }, 0);
    out.extend_from_slice(&payload);
}

pub(crate) fn write_go_away(out: &mut Vec<u8>, last: u32, code: ErrorCode, reason: &str) {
    write_head(out, 8 + reason.len(), kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(bytes: &[u8]) -> Result<Option<Frame>, ConnectionError> {
        read(&mut BytesMut::from(bytes), 16_384)
    }

    fn with_head(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_head(&mut out, payload.len(), kind, flags, stream);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn padding_and_priority_come_off_and_padding_counts_for_flow_control() {
        let data = with_head(kind::DATA, PADDED | END_STREAM, 3, b"\x02ab\0\0");
        let frame = Frame::Data {
            stream: 3,
            data: Bytes::from_static(b"ab"),
            flow: 5,
            end: true,
        };
        assert_eq!(one(&data), Ok(Some(frame)));
        let headers = with_head(
            kind::HEADERS,
            PADDED | PRIORITY | END_HEADERS,
            5,
            b"\x01\0\0\0\x03\x10\x82\0",
        );
        let frame = Frame::Headers {
            stream: 5,
            block: Bytes::from_static(b"\x82"),
            end: false,
            complete: true,
        };
        assert_eq!(one(&headers), Ok(Some(frame)));
    }

    #[test]
    fn malformed_frames_are_named_not_swallowed() {
        use ErrorCode as Code;
        for (bytes, code) in [
            (with_head(kind::DATA, 0, 0, b"x"), Code::PROTOCOL_ERROR),
            (with_head(kind::DATA, PADDED, 1, b""), Code::FRAME_SIZE_ERROR),
            (with_head(kind::DATA, PADDED, 1, b"\x05abc"), Code::PROTOCOL_ERROR),
            (
                with_head(kind::HEADERS, PRIORITY, 1, b"abc"),
                Code::FRAME_SIZE_ERROR,
            ),
            (with_head(kind::PRIORITY, 0, 1, b"abc"), Code::FRAME_SIZE_ERROR),
            (with_head(kind::RST_STREAM, 0, 1, b"abc"), Code::FRAME_SIZE_ERROR),
            (with_head(kind::RST_STREAM, 0, 0, b"abcd"), Code::PROTOCOL_ERROR),
            (with_head(kind::SETTINGS, 0, 1, b""), Code::PROTOCOL_ERROR),
            (
                with_head(kind::SETTINGS, ACK, 0, b"abcdef"),
                Code::FRAME_SIZE_ERROR,
            ),
            (with_head(kind::PUSH_PROMISE, 0, 1, b"abcd"), Code::PROTOCOL_ERROR),
            (with_head(kind::PING, 0, 0, b"abc"), Code::FRAME_SIZE_ERROR),
            (with_head(kind::GOAWAY, 0, 0, b"abc"), Code::FRAME_SIZE_ERROR),
            (
                with_head(kind::WINDOW_UPDATE, 0, 0, b"abc"),
                Code::FRAME_SIZE_ERROR,
            ),
            (
                vec![0, 0x40, 1, kind::DATA, 0, 0, 0, 0, 1],
                Code::FRAME_SIZE_ERROR,
            ),
        ] {
            assert_eq!(one(&bytes).map_err(|e| e.code), Err(code), "{bytes:?}");
        }
    }

    #[test]
    fn long_blocks_continue() {
        let mut out = Vec::new();
        write_headers(&mut out, 1, b"abcdefg", true, 3);
        let mut buffer = BytesMut::from(&out[..]);
        let mut parts = Vec::new();
        while let Some(frame) = read(&mut buffer, 16_384).unwrap() {
            parts.push(match frame {
                Frame::Headers {
                    block, end, complete, ..
                } => (block, end, complete),
                Frame::Continuation { block, complete, .. } => (block, false, complete),
                other => panic!("{other:?}"),
            });
        }
        let bytes = Bytes::from_static;
        assert_eq!(
            parts,
            [
                (bytes(b"abc"), true, false),
                (bytes(b"def"), false, false),
                (bytes(b"g"), false, true)
            ]
        );
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..12) {
            let _ = one(&bytes);
            let framed = with_head(kind, bytes.first().copied().unwrap_or(0), 1, &bytes);
            let _ = one(&framed);
            let _ = one(&with_head(kind, bytes.first().copied().unwrap_or(0), 0, &bytes));
        }
    }
}
