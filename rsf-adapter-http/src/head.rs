//! What a request's headers ask for: codec, encodings, time, idempotency. Everything is checked before the body is read.

use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use rsf_core::status::Code;

use crate::encoding::Encoding;
use crate::failure::Failure;

const TIMEOUT: &str = "connect-timeout-ms";
const VERSION: &str = "connect-protocol-version";
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// `application/json`, protobuf's JSON mapping.
    Json,
    /// `application/proto`, protobuf's binary form.
    Proto,
}

impl Codec {
    /// As it stands in `content-type`.
    pub(crate) fn content_type(self) -> HeaderValue {
        match self {
            Codec::Json => HeaderValue::from_static("application/json"),
            Codec::Proto => HeaderValue::from_static("application/proto"),
        }
    }

    /// Of a POST's `content-type`.
    pub(crate) fn of_post(headers: &HeaderMap) -> Result<Codec, Failure> {
        let sent = headers
            .get(CONTENT_TYPE)
            .map_or("", |value| value.to_str().unwrap_or("?"));
        let mut parts = sent.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let charset = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("charset")
                .then(|| value.trim().trim_matches('"').to_ascii_lowercase())
        });
        match (kind.as_str(), charset.as_deref()) {
            ("application/json", None | Some("utf-8" | "utf8")) => Ok(Codec::Json),
            ("application/proto", None) => Ok(Codec::Proto),
            _ => Err(Failure::Http {
                status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
                message: format!(
                    "content type `{sent}` is not served here; send `content-type: application/json` (UTF-8) or `application/proto`"
                ),
                hint: (
                    HeaderName::from_static("accept-post"),
                    HeaderValue::from_static("application/json, application/proto"),
                ),
            }),
        }
    }
}

/// What the headers of a call ask for, whatever its verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The caller's time for the whole call.
    pub(crate) timeout: Option<Duration>,
    /// How the body came.
    pub(crate) encoding: Encoding,
    /// How the reply may go out.
    pub(crate) accepted: Encoding,
    /// The caller's name for this call.
    pub(crate) idempotency_key: Option<String>,
}

impl Head {
    pub(crate) fn read(headers: &HeaderMap) -> Result<Head, Failure> {
        if let Some(version) = headers.get(VERSION)
            && version != "1"
        {
            return Err(Failure::invalid(
                "`Connect-Protocol-Version` must be `1`, or absent",
            ));
        }
        Ok(Head {
            timeout: timeout(headers)?,
            encoding: match headers.get(CONTENT_ENCODING) {
                Some(value) => Encoding::of_body(value.to_str().unwrap_or("?"))?,
                None => Encoding::Identity,
            },
            accepted: Encoding::accepted(headers.get_all(ACCEPT_ENCODING)),
            idempotency_key: idempotency_key(headers)?,
        })
    }
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or("?");
    let digits = (1..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(ms) if digits && ms > 0 => Ok(Some(Duration::from_millis(ms))),
        _ => Err(Failure::invalid(format!(
            "`Connect-Timeout-Ms: {text}` is no timeout; write a positive number of milliseconds with at most 10 digits"
        ))),
    }
}

/// The IETF draft writes the key as a quoted string; most callers write it bare. Both name the same call.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    let key = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(text);
    if values.next().is_none() && (1..=128).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
    {
        return Ok(Some(key.to_owned()));
    }
    let problem =
        "`Idempotency-Key` must be given once, with 1 to 128 visible ASCII characters, for example a UUID";
    Err(Failure::with_status(
        StatusCode::BAD_REQUEST,
        Code::InvalidArgument,
        problem,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &'static str, value: &str) -> Result<Head, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        Head::read(&headers)
    }

    #[test]
    fn timeouts_are_positive_and_short() {
        assert_eq!(
            head(TIMEOUT, "1").unwrap().timeout,
            Some(Duration::from_millis(1))
        );
        assert_eq!(
            head(TIMEOUT, "9999999999").unwrap().timeout,
            Some(Duration::from_millis(9_999_999_999))
        );
        for wrong in [
            "",
            "0",
            "-1",
            "+1",
            "1.5",
            "1s",
            "10000000000",
            " 1",
            "99999999999999999999",
        ] {
            assert!(head(TIMEOUT, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_the_same_quoted_and_bare() {
        for written in ["abc", "\"abc\""] {
            assert_eq!(
                head(IDEMPOTENCY_KEY, written).unwrap().idempotency_key.as_deref(),
                Some("abc")
            );
        }
        for wrong in ["", "\"\"", "a b", &"x".repeat(129)] {
            assert!(head(IDEMPOTENCY_KEY, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn content_types_are_read_as_http_writes_them() {
        let codec = |value: &'static str| {
            Codec::of_post(&HeaderMap::from_iter([(
                CONTENT_TYPE,
                HeaderValue::from_static(value),
            )]))
        };
        for json in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert_eq!(codec(json).unwrap(), Codec::Json, "{json}");
        }
        assert_eq!(codec("application/proto").unwrap(), Codec::Proto);
        for wrong in [
            "text/plain",
            "application/json; charset=latin1",
            "application/grpc",
            "",
        ] {
            assert!(codec(wrong).is_err(), "{wrong}");
        }
    }
}
