//! RSF's own headers and what a unary request looks like as headers, for every wire that has some.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};

use http_body_util::BodyExt;

use super::status_header::{GRPC_TIMEOUT, PREVIOUS_ATTEMPTS, write_timeout};
use super::{RequestId, UnaryRequest};
use crate::error::REASON;

/// The calling application.
pub(crate) const CALLER: HeaderName = HeaderName::from_static("rsf-caller");
/// Identifies the logical call.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("rsf-request-id");
/// `namespace/instance` that must be the one to answer.
pub(crate) const TARGET: HeaderName = HeaderName::from_static("rsf-target");
/// The implementation of the service.
pub(crate) const IMPLEMENTATION: HeaderName = HeaderName::from_static("rsf-implementation");
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// The headers of a unary request, pseudo-headers apart.
pub(crate) fn request_headers(request: &UnaryRequest) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    // First, so that what follows replaces a trace context that came along with forwarded metadata.
    request.metadata.write_to(&mut headers);
    headers.insert(TE, TRAILERS);
    headers.insert(CONTENT_TYPE, GRPC);
    let mut set = |name: HeaderName, value: &Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    };
    set(CALLER, &request.caller);
    set(TARGET, &request.target);
    set(IMPLEMENTATION, &request.implementation);
    if let Some(timeout) = request.timeout {
        headers.insert(GRPC_TIMEOUT, write_timeout(timeout));
    }
    let id = match &request.request_id {
        RequestId::Text(text) => Some(text.clone()),
        RequestId::Number(_) => HeaderValue::from_str(&request.request_id.to_string()).ok(),
    };
    if let Some(id) = id {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(trace) = request
        .trace
        .and_then(|trace| HeaderValue::from_str(&trace.to_string()).ok())
    {
        headers.insert(TRACEPARENT, trace);
    }
    if request.previous_attempts > 0 {
        headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(request.previous_attempts));
    }
    headers
}

/// A response without RSF's reason, neither in its headers nor in its trailers.
///
/// What passes through code that is not RSF's must not carry it: a status that a hosted service hands on from a call of
/// its own would tell the caller that this service never ran.
pub(crate) fn without_reason(
    response: http::Response<tonic::body::Body>,
) -> http::Response<tonic::body::Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(REASON);
    let body = body.map_frame(|frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            trailers.remove(REASON);
            http_body::Frame::trailers(trailers)
        }
        Err(frame) => frame,
    });
    http::Response::from_parts(parts, tonic::body::Body::new(body))
}

/// The implementation that a request names; empty for the default.
pub(crate) fn implementation(headers: &HeaderMap) -> &str {
    headers
        .get(IMPLEMENTATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
