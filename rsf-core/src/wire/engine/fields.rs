//! Headers between the engine's fields and `http`'s maps.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, TE};
use rsf_wire::bridge::copy_fields;
use rsf_wire::hpack::Field;
use rsf_wire::{Headers, Literals, Name};

use crate::metadata::{Metadata, Unmapped};
use crate::wire::headers::{REPEATED, TRACEPARENT, YES, hex, traceparent};
use crate::wire::status_header::{GRPC_STATUS, PREVIOUS_ATTEMPTS, write_timeout};
use crate::wire::{RequestId, UnaryRequest};

/// Whether a field is HTTP's own: a pseudo-header, the content type, or `te`.
fn is_http(name: &[u8]) -> bool {
    name.starts_with(b":") || name == CONTENT_TYPE.as_str().as_bytes() || name == TE.as_str().as_bytes()
}

impl Unmapped for Headers {
    #[inline]
    fn value(&self, key: &str) -> Option<&[u8]> {
        self.get(key).filter(|_| !is_http(key.as_bytes()))
    }

    fn is_empty(&self) -> bool {
        self.iter().all(|field| is_http(&field.name))
    }

    fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(12);
        copy(self, None, &mut map);
        map
    }
}

/// All fields but HTTP's own, and without `skip`.
pub(super) fn copy(headers: &Headers, skip: Option<&HeaderName>, map: &mut HeaderMap) {
    let skipped = |name: &[u8]| skip.is_some_and(|skip| name == skip.as_str().as_bytes());
    copy_fields(headers, |name| !is_http(name) && !skipped(name), map);
}

/// Headers and trailers of a reply, its status apart.
pub(super) fn metadata(headers: &Headers, trailers: Option<&Headers>) -> Metadata {
    if !has_metadata(headers) && !trailers.is_some_and(has_metadata) {
        return Metadata::new();
    }
    let mut map = HeaderMap::new();
    copy(headers, Some(&GRPC_STATUS), &mut map);
    if let Some(trailers) = trailers {
        copy(trailers, Some(&GRPC_STATUS), &mut map);
    }
    Metadata::from_headers(map)
}

/// Whether there is anything but HTTP's own and the status. What nearly all replies hold is looked through once.
fn has_metadata(headers: &Headers) -> bool {
    let look = || {
        let more = |field: Field| !is_http(&field.name) && field.name != GRPC_STATUS.as_str();
        headers.iter().any(more)
    };
    match headers.beginning() {
        Some(beginning) if headers.is_beginning() => {
            *beginning.note().get_or_init(|| usize::from(look())) == 1
        }
        _ => look(),
    }
}

/// A map's fields, HTTP's own apart.
pub(super) fn literals(map: &HeaderMap) -> Literals {
    let mut literals = Literals::new();
    for (name, value) in map {
        if name != CONTENT_TYPE && name != TE {
            push(&mut literals, name, value.as_bytes());
        }
    }
    literals
}

const TIMEOUT_NAME: Name<14> = Name::new("grpc-timeout");
const REQUEST_ID_NAME: Name<16> = Name::new("rsf-request-id");
const TRACEPARENT_NAME: Name<13> = Name::new("traceparent");

/// What varies from call to call.
pub(super) fn varying(request: &UnaryRequest<'_>) -> Literals {
    // Room for deadline, request id and trace, however long the deadline.
    let mut literals = Literals::with_capacity(160);
    if let Some(timeout) = request.timeout {
        push_named(&mut literals, &TIMEOUT_NAME, write_timeout(timeout).as_bytes());
    }
    match request.request_id {
        RequestId::Number(number) => push_named(&mut literals, &REQUEST_ID_NAME, &hex(*number)),
        RequestId::Text(text) => push_named(&mut literals, &REQUEST_ID_NAME, text.as_bytes()),
    }
    if let Some(trace) = request.trace {
        push_named(&mut literals, &TRACEPARENT_NAME, &traceparent(trace));
    }
    if request.previous_attempts > 0 {
        let attempts = request.previous_attempts.to_string();
        push(&mut literals, &PREVIOUS_ATTEMPTS, attempts.as_bytes());
    }
    for (name, value) in request.own {
        push(&mut literals, name, value.as_bytes());
    }
    if request.repeated {
        push(&mut literals, &REPEATED, YES.as_bytes());
    }
    if !request.metadata.is_empty() {
        let mut map = HeaderMap::new();
        request.metadata.write_to(&mut map);
        if request.trace.is_some() {
            map.remove(&TRACEPARENT);
        }
        for (name, value) in &map {
            push(&mut literals, name, value.as_bytes());
        }
    }
    literals
}

fn push(literals: &mut Literals, name: &HeaderName, value: &[u8]) {
    // `http`'s names and values are all valid in HTTP/2.
    let pushed = literals.push(name.as_str(), value);
    debug_assert!(pushed.is_ok(), "{name}");
}

#[inline]
fn push_named<const N: usize>(literals: &mut Literals, name: &Name<N>, value: &[u8]) {
    let pushed = literals.push_named(name, value);
    debug_assert!(pushed.is_ok(), "{name:?}");
}
