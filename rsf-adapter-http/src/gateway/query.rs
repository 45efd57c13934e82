//! A call by GET: the message stands in the query, so that caches can hold the reply.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::StatusCode;
use http::header::{ACCEPT, HeaderValue};
use percent_encoding::percent_decode_str;

use super::CallRequest;
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::head::Codec;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads `?connect=v1&base64=1&compression=gzip&encoding=json&message=…`. The order is free, and parameters of other
/// names are ignored.
pub(super) fn read(query: &str) -> Result<CallRequest, Failure> {
    let (mut message, mut base64, mut codec, mut encoding) = (None, false, None, Encoding::Identity);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = decode(value);
        match name {
            "connect" if value != b"v1" => return Err(Failure::invalid("`connect` must be `v1`, or absent")),
            "base64" => base64 = value == b"1",
            "compression" => encoding = Encoding::of_body(&String::from_utf8_lossy(&value))?,
            "encoding" => codec = Some(codec_of(&value)?),
            "message" => message = Some(value),
            _ => {}
        }
    }
    let missing = |what| {
        Failure::invalid(format!(
            "the query lacks `{what}`; write `?encoding=json&message={{}}`"
        ))
    };
    let codec = codec.ok_or_else(|| missing("encoding"))?;
    let message = message.ok_or_else(|| missing("message"))?;
    let message = if base64 {
        let unpacked = BASE64.decode(&message);
        unpacked.map_err(|error| Failure::invalid(format!("`message` is no URL-safe base64: {error}")))?
    } else {
        message
    };
    Ok(CallRequest {
        codec,
        encoding,
        body: message.into(),
    })
}

/// Percent signs, and `+` for space, as browsers write it.
fn decode(value: &str) -> Vec<u8> {
    let spaced = value.replace('+', " ");
    percent_decode_str(&spaced).collect()
}

fn codec_of(name: &[u8]) -> Result<Codec, Failure> {
    match name {
        b"json" => Ok(Codec::Json),
        b"proto" => Ok(Codec::Proto),
        _ => Err(Failure::Http {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            message: "`encoding` must be `json` or `proto`".to_owned(),
            hint: (
                ACCEPT,
                HeaderValue::from_static("application/json, application/proto"),
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_and_both_paddings() {
        for query in [
            "connect=v1&encoding=json&message=%7B%22a%22%3A1%7D",
            "message=%7B%22a%22:1%7D&x=y&encoding=json",
            "base64=1&encoding=json&message=eyJhIjoxfQ",
            "encoding=json&base64=1&message=eyJhIjoxfQ%3D%3D",
            "encoding=json&base64=1&message=eyJhIjoxfQ==",
        ] {
            assert_eq!(read(query).unwrap().body, r#"{"a":1}"#, "{query}");
        }
        assert_eq!(read("encoding=json&message=a+b").unwrap().body, "a b");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for query in [
            "",
            "encoding=json",
            "message={}",
            "encoding=xml&message={}",
            "connect=v2&encoding=json&message={}",
            "encoding=json&base64=1&message=***",
            "encoding=json&compression=br&message={}",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }
}
