//! Compressed messages, as gRPC's document has them: gzip and zstd, with a bound on what they unfold to.
//!
//! A message says by its flag that it is compressed, and `grpc-encoding` how. Both ends say by `grpc-accept-encoding` what
//! they can read: what is not named there must not be sent.

use std::io::Read;

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::{MessageError, PREFIX_BYTES, unframe};

/// The value of `grpc-accept-encoding` that names all that [`read`] can read.
pub const ACCEPTED: &str = "identity,gzip,zstd";

/// zstd's window at most, as a power of two: 8 MiB. A sender cannot make us hold more for it. Its levels up to 19 ask for no
/// more, and HTTP's zstd has the same bound.
const MOST_WINDOW_LOG: u32 = 23;
/// Fast and good enough: what is won beyond costs more than it saves in one network.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

/// How a message is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// RFC 1952. Every gRPC implementation has it.
    Gzip,
    /// RFC 8878. Smaller and several times faster.
    Zstd,
}

impl Encoding {
    /// Its name in `grpc-encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::Gzip => "gzip",
            Encoding::Zstd => "zstd",
        }
    }

    /// Whether a peer that says this in `grpc-accept-encoding` can read it.
    pub fn is_accepted(self, accepted: &[u8]) -> bool {
        let mut names = accepted.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == self.name().as_bytes())
    }

    /// What `grpc-encoding` names, for a message that is compressed.
    ///
    /// # Errors
    /// [`MessageError::NoEncoding`] where it names none, [`MessageError::UnknownEncoding`] where nobody here can read it.
    pub fn of(name: Option<&[u8]>) -> Result<Encoding, MessageError> {
        match name {
            None | Some(b"identity" | b"") => Err(MessageError::NoEncoding),
            Some(b"gzip") => Ok(Encoding::Gzip),
            Some(b"zstd") => Ok(Encoding::Zstd),
            Some(name) => Err(MessageError::UnknownEncoding {
                name: String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned(),
            }),
        }
    }
}

/// Reads a body that holds one message, compressed as `encoding` (its `grpc-encoding`) says or not; `None` where the body is
/// empty. The message has `limit` bytes at most, and no more is unfolded.
///
/// # Errors
/// The body is no message, or one that cannot be read.
pub fn read(body: &Bytes, encoding: Option<&[u8]>, limit: usize) -> Result<Option<Bytes>, MessageError> {
    match unframe(body) {
        Err(MessageError::Compressed) => {}
        other => return other,
    }
    let message = &body[PREFIX_BYTES..];
    Encoding::of(encoding).and_then(|encoding| unfolded(message, encoding, limit).map(Some))
}

fn unfolded(message: &[u8], encoding: Encoding, limit: usize) -> Result<Bytes, MessageError> {
    let broken = |error: std::io::Error| MessageError::Corrupt {
        encoding: encoding.name(),
        reason: error.to_string(),
    };
    // What most messages unfold to, with one byte that tells that it was too much.
    let mut out = Vec::with_capacity(message.len().saturating_mul(4).min(limit.saturating_add(1)));
    let (most, mut rest) = (limit as u64 + 1, message);
    // Of one piece: both formats may be strung together, and a sender could make us begin anew every few bytes.
    let read = match encoding {
        Encoding::Gzip => flate2::bufread::GzDecoder::new(&mut rest)
            .take(most)
            .read_to_end(&mut out),
        Encoding::Zstd => zstd::stream::read::Decoder::with_buffer(&mut rest).and_then(|decoder| {
            let mut decoder = decoder.single_frame();
            decoder.window_log_max(MOST_WINDOW_LOG)?;
            decoder.take(most).read_to_end(&mut out)
        }),
    };
    read.map_err(broken)?;
    if out.len() > limit {
        return Err(MessageError::TooLarge { limit });
    }
    if !rest.is_empty() {
        let reason = format!("{} bytes stand behind its end", rest.len());
        return Err(broken(std::io::Error::other(reason)));
    }
    // Who holds the message counts its length.
    if out.capacity() / 2 > out.len() {
        out.shrink_to_fit();
    }
    Ok(out.into())
}

/// Compresses a message, both times with gRPC's prefix. `None` where it gets no smaller by it: it is sent as it is.
pub fn compress(framed: &[u8], encoding: Encoding) -> Option<Bytes> {
    let (_, message) = framed.split_at_checked(PREFIX_BYTES)?;
    let compressed = match encoding {
        Encoding::Gzip => {
            let mut out = Vec::with_capacity(message.len() / 2);
            let level = flate2::Compression::new(GZIP_LEVEL);
            let mut encoder = flate2::bufread::GzEncoder::new(message, level);
            encoder.read_to_end(&mut out).ok().map(|_| out)
        }
        Encoding::Zstd => zstd::bulk::compress(message, ZSTD_LEVEL).ok(),
    };
    let compressed = compressed.filter(|compressed| compressed.len() < message.len())?;
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + compressed.len());
    out.put_u8(1);
    out.put_u32(u32::try_from(compressed.len()).ok()?);
    out.put_slice(&compressed);
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::frame;

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Zstd];

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| b"all work and no play "[i % 21]).collect()
    }

    fn gzip(bytes: &[u8], level: flate2::Compression) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = flate2::bufread::GzEncoder::new(bytes, level);
        encoder.read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn what_was_compressed_is_read_back_up_to_its_limit() {
        for encoding in BOTH {
            let message = text(10_000);
            let compressed = compress(&frame(&message).unwrap(), encoding).unwrap();
            assert!(compressed.len() < 1_000, "{}", compressed.len());
            let named = Some(encoding.name().as_bytes());
            assert_eq!(read(&compressed, named, 10_000).unwrap().unwrap(), message);
            let too_large = MessageError::TooLarge { limit: 9_999 };
            assert_eq!(read(&compressed, named, 9_999), Err(too_large));
        }
    }

    #[test]
    fn what_gets_no_smaller_is_left_as_it_is() {
        for encoding in BOTH {
            assert_eq!(compress(&frame(b"").unwrap(), encoding), None);
            assert_eq!(compress(&frame(b"short").unwrap(), encoding), None);
            assert_eq!(compress(b"", encoding), None);
        }
    }

    #[test]
    fn messages_that_are_not_compressed_are_read_whatever_the_headers_say() {
        let body = frame(b"plain").unwrap();
        for encoding in [None, Some(&b"gzip"[..]), Some(b"nobody-has-this")] {
            assert_eq!(read(&body, encoding, 100).unwrap().unwrap(), "plain");
        }
        assert_eq!(read(&Bytes::new(), Some(b"gzip"), 100), Ok(None));
    }

    #[test]
    fn encodings_that_are_missing_or_unknown_are_told_apart() {
        let body = compress(&frame(&text(1000)).unwrap(), Encoding::Gzip).unwrap();
        for none in [None, Some(&b"identity"[..])] {
            assert_eq!(read(&body, none, 9999), Err(MessageError::NoEncoding));
        }
        let unknown = read(&body, Some(b"snappy"), 9999).unwrap_err();
        assert!(unknown.to_string().contains("snappy") && unknown.to_string().contains("zstd"));
        assert!(Encoding::Zstd.is_accepted(b"identity, zstd"));
        assert!(!Encoding::Gzip.is_accepted(b"identity,gzip2"));
    }

    #[test]
    fn bombs_and_halves_and_noise_are_errors() {
        for encoding in BOTH {
            let name = Some(encoding.name().as_bytes());
            let bomb = compress(&frame(&vec![0; 64 << 20]).unwrap(), encoding).unwrap();
            assert!(bomb.len() < 1 << 20);
            assert_eq!(
                read(&bomb, name, 1 << 20),
                Err(MessageError::TooLarge { limit: 1 << 20 })
            );
            let whole = compress(&frame(&text(1000)).unwrap(), encoding).unwrap();
            for message in [
                whole[PREFIX_BYTES..whole.len() - 9].to_vec(),
                [&whole[PREFIX_BYTES..], b"more"].concat(),
                vec![7; 100],
            ] {
                let mut body = frame(&message).unwrap().to_vec();
                body[0] = 1;
                let error = read(&body.into(), name, 9999).unwrap_err();
                assert!(
                    matches!(error, MessageError::Corrupt { .. }),
                    "{encoding:?} {error}"
                );
            }
        }
    }

    /// The least that a sender can make us begin with, many times.
    #[test]
    fn messages_in_many_pieces_are_errors_whatever_they_come_to() {
        let gzip = gzip(b"", flate2::Compression::fast());
        let zstd = zstd::bulk::compress(b"", 1).unwrap();
        for (encoding, piece) in [(Encoding::Gzip, gzip), (Encoding::Zstd, zstd)] {
            let name = Some(encoding.name().as_bytes());
            let of = |pieces: usize| {
                let mut body = frame(&piece.repeat(pieces)).unwrap().to_vec();
                body[0] = 1;
                read(&body.into(), name, 9999)
            };
            assert_eq!(of(1), Ok(Some(Bytes::new())), "{encoding:?}");
            for pieces in [0, 2, 1000] {
                let error = of(pieces).unwrap_err();
                assert!(
                    matches!(error, MessageError::Corrupt { .. }),
                    "{encoding:?} {pieces} {error}"
                );
            }
        }
    }

    /// Who holds a message counts its length.
    #[test]
    fn a_message_takes_no_more_memory_than_twice_its_length() {
        let noise: Vec<u8> = (0..100_000_u32)
            .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8)
            .collect();
        let stored = gzip(&noise, flate2::Compression::none());
        let mut body = frame(&stored).unwrap().to_vec();
        body[0] = 1;
        let message = read(&body.into(), Some(b"gzip"), 1 << 20).unwrap().unwrap();
        let message = Vec::from(message);
        assert_eq!(message, noise);
        assert!(message.capacity() <= 2 * noise.len(), "{}", message.capacity());
    }

    /// A frame that asks for a window of 128 MiB is refused before it is made.
    #[test]
    fn a_sender_cannot_ask_for_any_window() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        std::io::Write::write_all(&mut encoder, &text(1000)).unwrap();
        let mut body = frame(&encoder.finish().unwrap()).unwrap().to_vec();
        body[0] = 1;
        let error = read(&body.into(), Some(b"zstd"), 9999).unwrap_err();
        assert!(matches!(error, MessageError::Corrupt { .. }), "{error}");
    }
}
