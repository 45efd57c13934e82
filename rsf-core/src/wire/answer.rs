//! What becomes of a request that a wire hands over while its body still comes, and how its answer looks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};

use super::body::{BoxError, OutBody, Received, receive};
use super::budget::FREE_BYTES;
use super::compression::{ACCEPTED, Compression};
use super::headers::{GRPC, implementation};
use super::load_report::{LOAD_METRICS, Reporter, with_load};
use super::status_header::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING, GRPC_STATUS, read_timeout, write_status};
use super::{Dispatch, InboundReply, InboundRequest};
use crate::error::framework_status;
use crate::metadata::Metadata;
use crate::outcome::Reason;
use crate::status::Status;

/// What answers have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Time for a unary request to come whole.
    pub(super) body_timeout: Duration,
    pub(super) compression: Option<Compression>,
}

/// Answers a request of any shape: RSF's own methods when their message is whole, all others as their body comes.
pub(super) async fn answer<B>(
    dispatch: Arc<dyn Dispatch>,
    reporter: &Reporter,
    terms: Terms,
    request: Request<B>,
) -> Response<OutBody>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError> + std::fmt::Display,
{
    let (parts, body) = request.into_parts();
    let is_grpc = parts
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(GRPC.as_bytes()));
    if !is_grpc {
        let mut response = Response::new(OutBody::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let Some(method) = dispatch.method(parts.uri.path(), implementation(&parts.headers)) else {
        let request = Request::from_parts(parts, tonic::body::Body::new(body));
        let response = dispatch.http(request).await;
        return with_load(response, reporter.due(&*dispatch)).map(OutBody::Streaming);
    };
    let timeout = match read_timeout(&parts.headers) {
        Ok(timeout) => timeout,
        Err(status) => return refusal(&status),
    };
    let field = |name| parts.headers.get(name).map(http::HeaderValue::as_bytes);
    let accepted = |compression: &Compression| compression.is_accepted(field(GRPC_ACCEPT_ENCODING));
    let compression = terms.compression.filter(accepted);
    let encoding = parts.headers.get(GRPC_ENCODING).cloned();
    let metadata = Metadata::from_headers(parts.headers);
    let arrived = tokio::time::Instant::now();
    if let Err(status) = dispatch.admit(method, &metadata, None) {
        // Its body is not waited for; what of it comes is thrown away with the stream.
        let request = inbound(Err(status), timeout, metadata);
        let answered = dispatch.unary(method, request).await;
        return reply(answered, reporter.due(&*dispatch), compression);
    }
    // Until the answer: the message is held for as long as its handler runs.
    let mut held = None;
    let encoding = encoding.as_ref().map(http::HeaderValue::as_bytes);
    let receiving = receive(body, encoding, dispatch.max_message_bytes(), |bytes| {
        match bytes > FREE_BYTES {
            true => dispatch.hold_body(&mut held, bytes),
            false => Ok(()),
        }
    });
    // A body that trickles in takes from the call's time, and ends with it. Without an end it would hold stream and memory
    // for as long as its sender likes: it has no place in pool or queue yet.
    let limit = timeout.map_or(terms.body_timeout, |timeout| timeout.min(terms.body_timeout));
    let Ok(received) = tokio::time::timeout(limit, receiving).await else {
        return refusal(&too_slow(timeout, limit));
    };
    let timeout = timeout.map(|limit| limit.saturating_sub(arrived.elapsed()));
    let message = match received {
        Received::Message(..) if timeout == Some(Duration::ZERO) => Err(framework_status(
            Reason::Deadline,
            "the deadline passed before the message was there",
        )),
        Received::Message(message, _) => Ok(message),
        Received::Nothing(_) => Err(framework_status(
            Reason::Malformed,
            "a unary call came without a message",
        )),
        Received::Bad(status) => Err(status),
        Received::Broken(error) => Err(Status::cancelled(format!("the request broke off: {error}"))),
    };
    let request = inbound(message, timeout, metadata);
    let answered = dispatch.unary(method, request).await;
    reply(answered, reporter.due(&*dispatch), compression)
}

fn inbound(message: Result<Bytes, Status>, timeout: Option<Duration>, metadata: Metadata) -> InboundRequest {
    InboundRequest {
        message,
        timeout,
        metadata,
        peer: None,
    }
}

/// A request that had not come whole within `limit`.
fn too_slow(timeout: Option<Duration>, limit: Duration) -> Status {
    let problem = match timeout {
        Some(timeout) if timeout <= limit => {
            "the deadline passed before the whole request had come".to_owned()
        }
        _ => format!(
            "the whole request had not come after {} ms, which is all the time that this instance gives a unary request \
             to come in: send it faster, or less of it",
            limit.as_millis()
        ),
    };
    framework_status(Reason::Deadline, problem)
}

fn reply(
    reply: InboundReply,
    load: Option<http::HeaderValue>,
    compression: Option<Compression>,
) -> Response<OutBody> {
    let (frame, metadata) = match reply {
        Ok(reply) => reply.into_parts(),
        Err(status) => {
            let mut response = refusal(&status);
            if let Some(load) = load {
                response.headers_mut().insert(LOAD_METRICS, load);
            }
            return response;
        }
    };
    let mut trailers = HeaderMap::with_capacity(1);
    if let Some(load) = load {
        trailers.insert(LOAD_METRICS, load);
    }
    trailers.insert(GRPC_STATUS, http::HeaderValue::from_static("0"));
    let compressed =
        compression.and_then(|compression| Some((compression.of(&frame)?, compression.encoding)));
    let (data, encoding) = match compressed {
        Some((data, encoding)) => (data, Some(encoding)),
        None => (frame.bytes().clone(), None),
    };
    let body = OutBody::Unary {
        data: Some(data),
        trailers: Some(trailers),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    metadata.write_to(response.headers_mut());
    if let Some(encoding) = encoding {
        let name = http::HeaderValue::from_static(encoding.name());
        response.headers_mut().insert(GRPC_ENCODING, name);
    }
    response
}

/// A trailers-only response.
fn refusal(status: &Status) -> Response<OutBody> {
    let mut response = Response::new(OutBody::empty());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    if status.code() == crate::status::Code::Unimplemented {
        response.headers_mut().insert(GRPC_ACCEPT_ENCODING, ACCEPTED);
    }
    write_status(status, response.headers_mut());
    response
}
