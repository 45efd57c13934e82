//! gRPC's status and timeout as headers: reading and writing them.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use base64::Engine as _;

use crate::error::REASON;
use crate::metadata::{BASE64, Metadata};
use crate::status::{Code, PUSHBACK, Status};

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(crate) const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(crate) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// The status that trailers carry: `None` where there is no `grpc-status`, `Some(None)` where it is OK.
pub(crate) fn read_status(trailers: &HeaderMap) -> Option<Option<Status>> {
    let number = trailers.get(GRPC_STATUS)?;
    if number == "0" {
        return Some(None);
    }
    let number = number
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(Code::Unknown as u32);
    let message = trailers
        .get(GRPC_MESSAGE)
        .map(|value| percent_decode(value.as_bytes()))
        .unwrap_or_default();
    let details = trailers
        .get(GRPC_DETAILS)
        .and_then(|value| BASE64.decode(value.as_bytes()).ok());
    Some(Some(
        Status::new(Code::from_number(number), message)
            .with_details(Bytes::from(details.unwrap_or_default()))
            .with_metadata(Metadata::from_headers(trailers.clone())),
    ))
}

/// Writes a status into trailers.
pub(crate) fn write_status(status: &Status, trailers: &mut HeaderMap) {
    trailers.insert(GRPC_STATUS, HeaderValue::from(status.code() as u16));
    if !status.message().is_empty()
        && let Ok(message) = HeaderValue::from_str(&percent_encode(status.message()))
    {
        trailers.insert(GRPC_MESSAGE, message);
    }
    if !status.details().is_empty()
        && let Ok(details) = HeaderValue::from_str(&BASE64.encode(status.details()))
    {
        trailers.insert(GRPC_DETAILS, details);
    }
    for own in [REASON, PUSHBACK] {
        if let Some(value) = status.metadata().raw().and_then(|headers| headers.get(own)) {
            trailers.insert(own, value.clone());
        }
    }
    status.metadata().write_to(trailers);
}

/// The status that gRPC prescribes for an HTTP response that is none of gRPC's.
pub(crate) fn from_http(status: http::StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// `grpc-timeout` as text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeoutText {
    /// Digits and unit, at the end.
    text: [u8; 9],
    first: usize,
}

impl TimeoutText {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text[self.first..]
    }

    pub(crate) fn to_value(self) -> HeaderValue {
        HeaderValue::from_bytes(self.as_bytes()).unwrap_or_else(|_| HeaderValue::from_static("99999999S"))
    }
}

/// `grpc-timeout`: at most eight digits and a unit. Rounded up, so that the peer never gives up before us.
#[inline]
pub(crate) fn write_timeout(timeout: Duration) -> TimeoutText {
    const LIMIT: u64 = 99_999_999;
    let (seconds, nanos) = (timeout.as_secs(), u64::from(timeout.subsec_nanos()));
    let (amount, unit) = if timeout <= Duration::from_micros(LIMIT) {
        (seconds * 1_000_000 + nanos.div_ceil(1_000), b'u')
    } else if timeout <= Duration::from_millis(LIMIT) {
        (seconds * 1_000 + nanos.div_ceil(1_000_000), b'm')
    } else {
        (seconds.saturating_add(u64::from(nanos > 0)).min(LIMIT), b'S')
    };
    let mut text = [unit; 9];
    let mut rest = amount as u32;
    for digit in text[..8].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let zeros = text[..7].iter().take_while(|digit| **digit == b'0').count();
    TimeoutText { text, first: zeros }
}

/// Reads `grpc-timeout`; `Err` where it is malformed.
pub(crate) fn read_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    headers
        .get(GRPC_TIMEOUT)
        .map(|value| parse_timeout(value.as_bytes()))
        .transpose()
}

/// The value of `grpc-timeout`; `Err` where it is malformed.
pub(crate) fn parse_timeout(value: &[u8]) -> Result<Duration, Status> {
    let parse = || {
        let (unit, digits) = value.split_last()?;
        if digits.is_empty() || digits.len() > 8 {
            return None;
        }
        let mut amount = 0;
        for digit in digits {
            let digit = digit.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            amount = amount * 10 + u64::from(digit);
        }
        Some(match unit {
            b'H' => Duration::from_secs(amount * 3600),
            b'M' => Duration::from_secs(amount * 60),
            b'S' => Duration::from_secs(amount),
            b'm' => Duration::from_millis(amount),
            b'u' => Duration::from_micros(amount),
            b'n' => Duration::from_nanos(amount),
            _ => return None,
        })
    };
    parse().ok_or_else(|| {
        Status::invalid_argument("grpc-timeout must be at most eight digits and one of H, M, S, m, u, n")
    })
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = std::fmt::Write::write_fmt(&mut out, format_args!("%{byte:02X}"));
        }
    }
    out
}

pub(crate) fn percent_decode(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let hex = |b: &u8| char::from(*b).to_digit(16);
        if let (b'%', [high, low, after @ ..]) = (first, tail)
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            out.push((high * 16 + low) as u8);
            rest = after;
            continue;
        }
        out.push(*first);
        rest = tail;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_round_up_and_stay_within_eight_digits() {
        for (timeout, text) in [
            (Duration::from_nanos(1), "1u"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
            (Duration::from_secs(u64::MAX), "99999999S"),
        ] {
            assert_eq!(write_timeout(timeout).to_value(), text);
        }
    }

    #[test]
    fn timeouts_are_read_or_refused() {
        let read = |text: &'static str| {
            read_timeout(&HeaderMap::from_iter([(
                GRPC_TIMEOUT,
                HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(read("5m").unwrap(), Some(Duration::from_millis(5)));
        assert_eq!(read("2H").unwrap(), Some(Duration::from_secs(7200)));
        assert_eq!(read_timeout(&HeaderMap::new()).unwrap(), None);
        for bad in ["", "m", "5", "123456789m", "-1m", "5x", "+5m", "5 m"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_status_survives_its_trailers() {
        let status = Status::not_found("no member 7 % \u{4f1a}\u{5458}\n").with_details(vec![1, 2, 3]);
        let mut trailers = HeaderMap::new();
        write_status(&status, &mut trailers);
        let read = read_status(&trailers).unwrap().unwrap();
        assert_eq!(
            (read.code(), read.message(), read.details()),
            (status.code(), status.message(), status.details())
        );
    }

    #[test]
    fn malformed_percent_signs_stay_as_they_are() {
        assert_eq!(percent_decode(b"100% %zz %4"), "100% %zz %4");
    }
}
