//! Content encodings: `identity` and `gzip`, with the limit counted on what comes out.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use http::HeaderValue;
use rsf_core::status::Code;

use crate::failure::Failure;

/// What is supported, for `accept-encoding` and for messages.
pub(crate) const SUPPORTED: &str = "gzip, identity";
/// Smaller replies are sent as they are: compressing would cost more than it saves.
const COMPRESS_FROM: usize = 1_024;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// Of a request body's `content-encoding` or a GET's `compression`.
    pub(crate) fn of_body(name: &str) -> Result<Encoding, Failure> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Encoding::Identity),
            "gzip" => Ok(Encoding::Gzip),
            _ => {
                let message =
                    format!("content encoding `{name}` is not supported; supported are: {SUPPORTED}");
                Err(Failure::new(Code::Unimplemented, message))
            }
        }
    }

    /// The best encoding that the caller accepts. `q=0` refuses; nothing said means identity.
    pub(crate) fn accepted<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Encoding {
        let accepts = values
            .into_iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .any(|item| {
                let mut parts = item.split(';').map(str::trim);
                let gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
                let refused = parts
                    .filter_map(|part| part.strip_prefix("q="))
                    .any(|quality| quality.parse::<f32>().is_ok_and(|quality| quality == 0.0));
                gzip && !refused
            });
        if accepts {
            Encoding::Gzip
        } else {
            Encoding::Identity
        }
    }

    /// About how many bytes come out of a body of `size` bytes, to judge how long it will take.
    pub(crate) fn work(self, size: usize) -> usize {
        match self {
            Encoding::Identity => size,
            Encoding::Gzip => size.saturating_mul(16),
        }
    }

    /// Unpacks a request body. An empty body is empty in every encoding.
    pub(crate) fn unpack(self, body: Bytes, limit: usize) -> Result<Bytes, Failure> {
        if self == Encoding::Identity || body.is_empty() {
            return Ok(body);
        }
        let mut out = Vec::new();
        MultiGzDecoder::new(body.as_ref())
            .take(limit as u64 + 1)
            .read_to_end(&mut out)
            .map_err(|error| Failure::invalid(format!("the body is no valid gzip: {error}")))?;
        if out.len() > limit {
            Err(too_large(limit))
        } else {
            Ok(out.into())
        }
    }

    /// Packs a reply; `None` where it goes out as it is.
    pub(crate) fn pack(self, body: &[u8]) -> Option<Vec<u8>> {
        if self == Encoding::Identity || body.len() < COMPRESS_FROM {
            return None;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).ok()?;
        encoder.finish().ok().filter(|packed| packed.len() < body.len())
    }
}

/// A body over the limit, however it was packed.
pub(crate) fn too_large(limit: usize) -> Failure {
    let message =
        format!("the body has more than {limit} bytes uncompressed; send less, or raise `max_body_bytes`");
    Failure::new(Code::ResourceExhausted, message).reason(rsf_core::outcome::Reason::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_goes_out_and_in_again() {
        let text = b"a long reply ".repeat(200);
        let packed = Encoding::Gzip.pack(&text).unwrap();
        assert!(packed.len() < text.len() / 4);
        assert_eq!(Encoding::Gzip.unpack(packed.into(), text.len()).unwrap(), text);
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let packed = Encoding::Gzip.pack(&vec![0; 1 << 20]).unwrap();
        assert!(packed.len() < 8_192);
        assert!(
            Encoding::Gzip
                .unpack(packed.clone().into(), (1 << 20) - 1)
                .is_err()
        );
        assert_eq!(
            Encoding::Gzip.unpack(packed.into(), 1 << 20).unwrap().len(),
            1 << 20
        );
    }

    #[test]
    fn empty_and_broken_bodies() {
        assert!(Encoding::Gzip.unpack(Bytes::new(), 10).unwrap().is_empty());
        assert!(Encoding::Gzip.unpack(Bytes::from_static(b"plain"), 10).is_err());
    }

    #[test]
    fn what_the_caller_accepts() {
        for (value, expected) in [
            ("gzip", Encoding::Gzip),
            ("br, gzip;q=0.5", Encoding::Gzip),
            ("gzip;q=0", Encoding::Identity),
            ("br, zstd", Encoding::Identity),
            ("", Encoding::Identity),
        ] {
            assert_eq!(
                Encoding::accepted([&HeaderValue::from_static(value)]),
                expected,
                "{value}"
            );
        }
    }
}
