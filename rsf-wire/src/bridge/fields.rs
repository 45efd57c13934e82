//! Headers between the engine's fields and `http`'s maps.

use http::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

use crate::hpack::{Headers, Literals};

/// What HTTP/1.1 says of its own connections; HTTP/2 has no place for it.
fn is_of_a_connection(name: &HeaderName) -> bool {
    [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// All fields but the pseudo-headers, as `http` keeps them.
pub fn header_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(12);
    copy_fields(headers, |name| !name.starts_with(b":"), &mut map);
    map
}

/// Appends the fields whose names are `wanted`.
pub fn copy_fields(headers: &Headers, wanted: impl Fn(&[u8]) -> bool, map: &mut HeaderMap) {
    for field in headers.iter().filter(|field| wanted(&field.name)) {
        // The engine refuses what is no header; what `http` refuses beyond that is nobody's.
        if let Ok(name) = HeaderName::from_bytes(&field.name)
            && let Ok(value) = HeaderValue::from_maybe_shared(field.value)
        {
            map.append(name, value);
        }
    }
}

/// A map's fields behind what `literals` has. `grpc` where `te` and `content-type` stand elsewhere.
pub(super) fn append(map: &HeaderMap, grpc: bool, literals: &mut Literals) {
    for (name, value) in map {
        let elsewhere = grpc && (name == CONTENT_TYPE || name == TE);
        if elsewhere || name == HOST || is_of_a_connection(name) || name == TE && value != "trailers" {
            continue;
        }
        // `http`'s names and values are all valid in HTTP/2.
        let pushed = literals.push(name.as_str(), value.as_bytes());
        debug_assert!(pushed.is_ok(), "{name}");
    }
}

/// Whether the headers say what every gRPC message of ours says, to the letter.
pub(super) fn is_grpc(map: &HeaderMap) -> bool {
    map.get(CONTENT_TYPE)
        .is_some_and(|value| value == "application/grpc")
}
