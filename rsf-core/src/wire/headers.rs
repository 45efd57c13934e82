//! RSF's own headers and what a unary request looks like as headers, for every wire that has some.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};

use http_body_util::BodyExt;

use super::status_header::{GRPC_TIMEOUT, PREVIOUS_ATTEMPTS, write_timeout};
use super::{RequestId, TraceParent, UnaryRequest};
use crate::error::REASON;

/// The calling application.
pub(crate) const CALLER: HeaderName = HeaderName::from_static("rsf-caller");
/// Identifies the logical call.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("rsf-request-id");
/// `namespace/instance` that must be the one to answer.
pub(crate) const TARGET: HeaderName = HeaderName::from_static("rsf-target");
/// The implementation of the service.
pub(crate) const IMPLEMENTATION: HeaderName = HeaderName::from_static("rsf-implementation");
/// Marks what policy answered in the service's place, in the metadata of replies and errors. Never sent.
pub(crate) const DEGRADED: &str = "rsf-degraded";
/// Says that an earlier attempt of the call may have run: a provider that knows nothing of it must not run it.
pub(crate) const REPEATED: HeaderName = HeaderName::from_static("rsf-repeated");
/// Says that the reply or status is that of an earlier attempt.
pub(crate) const REPLAYED: &str = "rsf-replayed";
/// The call is made, at whatever depth, by a handler of a further attempt: somebody above has spent retry credit on it.
pub(crate) const RETRIED: HeaderName = HeaderName::from_static("rsf-retried");
/// How much the call matters, where that is not `normal`.
pub(crate) const PRIORITY: HeaderName = HeaderName::from_static("rsf-priority");
/// The owner of the call's shard, as its consumer sees it: `zone:west`, `tag:shard=3`.
pub(crate) const SHARD: HeaderName = HeaderName::from_static("rsf-shard");
/// The routing key that the caller named, where a shard went by it.
pub(crate) const ROUTING_KEY: HeaderName = HeaderName::from_static("rsf-routing-key");
/// The colour of the call, which the calls that its handler makes inherit.
pub(crate) const DYE: HeaderName = HeaderName::from_static("rsf-dye");
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// W3C baggage: what the chain of calls carries along.
pub(crate) const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// The calling application's signed token.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("rsf-token");

pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// The value of headers that only say yes.
pub(crate) const YES: HeaderValue = HeaderValue::from_static("1");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// How a wire is to compress values that differ from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Varying {
    /// Like all others: their names enter the table.
    Indexed,
    /// As literals that enter no table: there they would meet no equal and only push out what does.
    Literal,
}

/// The headers of a unary request, pseudo-headers apart.
pub(crate) fn request_headers(request: &UnaryRequest<'_>, varying: Varying) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    // First, so that what follows replaces a trace context that came along with forwarded metadata.
    request.metadata.write_to(&mut headers);
    headers.insert(TE, TRAILERS);
    headers.insert(CONTENT_TYPE, GRPC);
    let mut set = |name: HeaderName, value: Option<&HeaderValue>| {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    };
    set(CALLER, request.caller);
    set(TARGET, request.target);
    set(IMPLEMENTATION, request.implementation);
    for (name, value) in request.own {
        headers.insert(name.clone(), value.clone());
    }
    if request.repeated {
        headers.insert(REPEATED, YES);
    }
    let mut set = |name: HeaderName, mut value: HeaderValue| {
        value.set_sensitive(varying == Varying::Literal);
        headers.insert(name, value);
    };
    if let Some(timeout) = request.timeout {
        set(GRPC_TIMEOUT, write_timeout(timeout).to_value());
    }
    let id = match request.request_id {
        RequestId::Text(text) => Some(text.clone()),
        RequestId::Number(number) => HeaderValue::from_bytes(&hex(*number)).ok(),
    };
    if let Some(id) = id {
        set(REQUEST_ID, id);
    }
    if let Some(trace) = request
        .trace
        .and_then(|trace| HeaderValue::from_bytes(&traceparent(trace)).ok())
    {
        set(TRACEPARENT, trace);
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

/// Version 00 of W3C's header, without the detour over `fmt`, which is dear for one value a call.
pub(crate) fn traceparent(trace: TraceParent) -> [u8; 55] {
    let mut text = *b"00-                                -                -0 ";
    text[3..19].copy_from_slice(&hex((trace.trace_id >> 64) as u64));
    text[19..35].copy_from_slice(&hex(trace.trace_id as u64));
    text[36..52].copy_from_slice(&hex(trace.span_id));
    text[54] = b'0' + u8::from(trace.sampled);
    text
}

/// The sixteen hexadecimal digits of a number, eight at a time.
pub(crate) fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    digits[..8].copy_from_slice(&hex_half((number >> 32) as u32));
    digits[8..].copy_from_slice(&hex_half(number as u32));
    digits
}

fn hex_half(number: u32) -> [u8; 8] {
    // Each half of what is left moves apart, until a digit stands in each byte.
    let mut digits = u64::from(number);
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // 6 more takes what is above 9 into the next bit; letters begin 39 behind the digits' end.
    let letters = (digits + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (digits + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_and_request_id_are_written_as_they_are_displayed() {
        for (trace_id, span_id, sampled) in [
            (1, 2, true),
            (u128::MAX - 7, u64::MAX, false),
            (0xabc << 60, 0xdef0, true),
        ] {
            let trace = TraceParent {
                trace_id,
                span_id,
                sampled,
            };
            assert_eq!(traceparent(trace), *trace.to_string().as_bytes());
            let id = RequestId::Number(span_id);
            assert_eq!(hex(span_id), *id.to_string().as_bytes());
        }
    }

    #[test]
    fn only_what_varies_is_kept_out_of_the_tables() {
        let request = UnaryRequest {
            path: &http::uri::PathAndQuery::from_static("/a.B/C"),
            frame: &crate::wire::Frame::from_message(b"").unwrap(),
            timeout: Some(std::time::Duration::from_secs(1)),
            previous_attempts: 1,
            repeated: false,
            request_id: &RequestId::Number(1),
            trace: TraceParent::parse("00-0000000000000000000000000000000a-000000000000000b-01"),
            caller: Some(&HeaderValue::from_static("order")),
            target: None,
            implementation: None,
            own: &[],
            metadata: &crate::metadata::Metadata::new(),
        };
        let kept_out = |varying| {
            let headers = request_headers(&request, varying);
            let mut names: Vec<_> = headers.iter().filter(|(_, value)| value.is_sensitive()).collect();
            names.sort_by_key(|(name, _)| name.as_str());
            names.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        assert!(kept_out(Varying::Indexed).is_empty());
        assert_eq!(
            kept_out(Varying::Literal),
            ["grpc-timeout", "rsf-request-id", "traceparent"]
        );
    }
}
