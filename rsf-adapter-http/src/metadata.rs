//! Which HTTP headers become a call's metadata, and which metadata become headers again.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use rsf_core::metadata::Metadata;

use crate::failure::Failure;

/// Written without padding, read with and without.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Headers between two HTTP peers, and those that say how *this* request or response is written.
const HTTP_OWN: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "host",
    "date",
    "server",
    "user-agent",
    "expect",
    "range",
    "via",
    "origin",
    "referer",
    "dnt",
    "priority",
    "pragma",
    "cache-control",
    "upgrade-insecure-requests",
    "idempotency-key",
    "idempotent-replayed",
    "traceparent",
];
/// Families of such headers. `rsf-` is RSF's own: nobody outside speaks in its name.
const HTTP_OWN_PREFIXES: &[&str] = &[
    "content-",
    "accept",
    "if-",
    "sec-",
    "connect-",
    "grpc-",
    "rsf-",
    "access-control-",
];

/// Says that a reply is that of an earlier request with the same `Idempotency-Key`.
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Says that the answer is policy's (`degrade`), and not the service's.
const RSF_DEGRADED: HeaderName = HeaderName::from_static("rsf-degraded");

/// The application's own headers of a request, as metadata. Several values of one key are joined with commas.
/// What the adapter itself has `consumed` is left out.
pub(crate) fn read_metadata(
    headers: &HeaderMap,
    forward_cookies: bool,
    consumed: Option<HeaderName>,
) -> Result<Metadata, Failure> {
    let mut metadata = Metadata::new();
    for name in headers
        .keys()
        .filter(|name| Some(*name) != consumed.as_ref())
        .map(HeaderName::as_str)
        .filter(|name| is_application(name, forward_cookies))
    {
        let joined = joined(headers, name)?;
        let done = if name.ends_with("-bin") {
            let bytes = BASE64.decode(joined.as_bytes()).map_err(|error| {
                Failure::invalid(format!(
                    "header `{name}`: a key that ends in `-bin` holds base64: {error}"
                ))
            })?;
            metadata.insert_bin(name, &bytes)
        } else {
            metadata.insert(name, &joined)
        };
        done.map_err(|error| Failure::invalid(error.to_string()))?;
    }
    Ok(metadata)
}

/// The caller's trace, as metadata of its own: a call's trace travels in its context.
pub(crate) fn read_trace(headers: &HeaderMap) -> Option<Metadata> {
    let trace = headers.get("traceparent")?.to_str().ok()?;
    let mut metadata = Metadata::new();
    metadata.insert("traceparent", trace).ok()?;
    Some(metadata)
}

/// Adds a reply's metadata to its headers; that it is a replay, under the name that payment APIs use; and that policy
/// answered in the method's place.
pub(crate) fn write_metadata(metadata: &Metadata, forward_cookies: bool, to: &mut HeaderMap) {
    if metadata.get("rsf-replayed").is_some() {
        to.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    if metadata.get(RSF_DEGRADED.as_str()).is_some() {
        to.insert(RSF_DEGRADED, HeaderValue::from_static("policy"));
    }
    for (name, value) in metadata
        .iter()
        .filter(|(name, _)| is_application(name, forward_cookies))
    {
        // A peer may have padded it; Connect's form has no padding.
        let value = if name.ends_with("-bin") {
            value.trim_end_matches('=')
        } else {
            value
        };
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            to.append(name, value);
        }
    }
}

fn is_application(name: &str, forward_cookies: bool) -> bool {
    let cookie = matches!(name, "cookie" | "set-cookie");
    let own = HTTP_OWN.contains(&name) || HTTP_OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if cookie { forward_cookies } else { !own }
}

fn joined(headers: &HeaderMap, name: &str) -> Result<String, Failure> {
    let mut values = headers.get_all(name).iter();
    let text = |value: Option<&HeaderValue>| match value.map(HeaderValue::to_str) {
        Some(Ok(text)) => Ok(Some(text.to_owned())),
        None => Ok(None),
        Some(Err(_)) => Err(Failure::invalid(format!(
            "header `{name}` has other characters than visible ASCII; send them as base64 under a key that ends in `-bin`"
        ))),
    };
    let mut out = text(values.next())?.unwrap_or_default();
    while let Some(more) = text(values.next())? {
        out.push(',');
        out.push_str(&more);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn only_the_applications_own_headers_pass() {
        let sent = headers(&[
            ("tenant", "north"),
            ("tenant", "south"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("token-bin", "AAH/"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("rsf-caller", "forged"),
            ("grpc-timeout", "1S"),
            ("connect-timeout-ms", "5"),
            ("content-length", "7"),
            ("accept-language", "zh"),
            ("user-agent", "curl"),
        ]);
        let metadata = read_metadata(&sent, false, None).unwrap();
        assert_eq!(metadata.get("tenant"), Some("north,south"));
        assert_eq!(metadata.get_bin("token-bin").unwrap(), [0, 1, 255]);
        let mut names: Vec<_> = metadata.iter().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        assert_eq!(names, ["authorization", "tenant", "token-bin"]);
        assert!(
            read_trace(&sent)
                .unwrap()
                .get("traceparent")
                .unwrap()
                .ends_with("-01")
        );
        assert_eq!(
            read_metadata(&sent, true, None).unwrap().get("cookie"),
            Some("a=b")
        );
    }

    #[test]
    fn what_grpc_cannot_carry_is_refused() {
        for pair in [("token-bin", "***"), ("name", "Jörg")] {
            assert!(read_metadata(&headers(&[pair]), false, None).is_err(), "{pair:?}");
        }
    }
}
