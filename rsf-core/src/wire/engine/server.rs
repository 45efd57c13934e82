//! Each connection's requests handed to a [`Dispatch`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use rsf_wire::compression::read;
use rsf_wire::message::{MessageError, unframe};
use rsf_wire::server::{Handling, Serving};
use rsf_wire::{Call, Handler, Headers, Keepalive, Limits, Literals, Response, Route, StreamingCall, bridge};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fields;
use super::socket::set_up;
use crate::error::framework_status;
use crate::metadata::Metadata;
use crate::outcome::Reason;
use crate::status::{Code, Status};
use crate::wire::accept::accept;
use crate::wire::answer::{Terms, answer};
use crate::wire::budget::FREE_BYTES;
use crate::wire::compression::{ACCEPTED, bad_message};
use crate::wire::headers::{GRPC, IMPLEMENTATION};
use crate::wire::http2::ServerOptions;
use crate::wire::load_report::{LOAD_METRICS, Reporter};
use crate::wire::status_header::{
    GRPC_ACCEPT_ENCODING, GRPC_ENCODING, GRPC_STATUS, GRPC_TIMEOUT, parse_timeout, write_status,
};
use crate::wire::{Compression, Dispatch, InboundReply, InboundRequest, MAX_HEADER_BYTES};

/// Serves as [`crate::wire::http2::serve`] does.
pub async fn serve(
    listener: TcpListener,
    dispatch: Arc<dyn Dispatch>,
    options: ServerOptions,
    drain: CancellationToken,
) {
    let served = options.clone();
    accept(listener, &options, drain, move |stream, drain| {
        serve_connection(stream, dispatch.clone(), served.clone(), drain)
    })
    .await;
}

async fn serve_connection(
    stream: TcpStream,
    dispatch: Arc<dyn Dispatch>,
    options: ServerOptions,
    drain: CancellationToken,
) {
    if let Err(error) = set_up(&stream) {
        return tracing::debug!(%error, "connection is gone already");
    }
    let limits = Limits {
        concurrent_streams: options.max_concurrent_streams,
        header_list_bytes: MAX_HEADER_BYTES,
        // With one more frame it is still free.
        gathered_bytes: FREE_BYTES - 16 * 1024,
        in_place_time: options.in_place_time,
        keepalive: Some(Keepalive {
            interval: options.keepalive_interval,
            timeout: options.keepalive_timeout,
        }),
        ..Limits::default()
    };
    let handler = Arc::new(Dispatching {
        dispatch,
        reporter: Arc::new(Reporter::new()),
        terms: options.terms(),
    });
    let served = rsf_wire::serve(stream, handler, limits, drain.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

/// The engine's handler in front of a [`Dispatch`], one a connection.
struct Dispatching {
    dispatch: Arc<dyn Dispatch>,
    reporter: Arc<Reporter>,
    terms: Terms,
}

impl Handler for Dispatching {
    fn route(&self, headers: &Headers) -> Route {
        // What is no gRPC is told so by the engine, as long as it is no stream.
        match self.method(headers) {
            Some(method) => Route::Unary(method),
            None if is_grpc(headers) => Route::Streaming,
            None => Route::Unary(usize::MAX),
        }
    }

    fn stream(&self, call: StreamingCall) -> Serving {
        let (dispatch, reporter) = (self.dispatch.clone(), self.reporter.clone());
        let terms = self.terms;
        Box::pin(async move {
            if let Some((request, to)) = bridge::request(call) {
                let response = answer(dispatch, &reporter, terms, request).await;
                bridge::respond(to, response, false).await;
            }
        })
    }

    fn takes_slow(&self) -> bool {
        true
    }

    fn call(&self, call: Call) -> Option<Handling> {
        let method = call.route;
        let timeout = match call
            .headers
            .get(GRPC_TIMEOUT.as_str())
            .map(parse_timeout)
            .transpose()
        {
            Ok(timeout) => timeout,
            Err(status) => return Some(Box::pin(std::future::ready(refusal(&status)))),
        };
        let accepted = |compression: &Compression| {
            compression.is_accepted(call.headers.get(GRPC_ACCEPT_ENCODING.as_str()))
        };
        let compression = self.terms.compression.filter(accepted);
        let (dispatch, reporter) = (self.dispatch.clone(), self.reporter.clone());
        if call.body.as_ref().is_ok_and(|body| body.first() == Some(&1)) {
            let arrived = Instant::now();
            return Some(Box::pin(async move {
                let reply = compressed(call, timeout, arrived, &*dispatch).await;
                response(reply, reporter.due(&*dispatch), compression)
            }));
        }
        let request = InboundRequest {
            message: message(call.body, &*self.dispatch),
            timeout,
            metadata: Metadata::from_fields(call.headers),
            peer: None,
        };
        let handled = self.dispatch.unary(method, request);
        Some(Box::pin(async move {
            let reply = handled.await;
            response(reply, reporter.due(&*dispatch), compression)
        }))
    }

    fn max_message_bytes(&self) -> usize {
        self.dispatch.max_message_bytes()
    }
}

impl Dispatching {
    /// The method that the call is for. Calls of one method begin alike on a connection, and what that beginning means is
    /// looked up once: path and implementation stand in it, as RSF's clients send them.
    fn method(&self, headers: &Headers) -> Option<usize> {
        let find = || self.dispatch.method(path(headers), implementation(headers));
        let Some(beginning) = headers.beginning() else {
            return find();
        };
        if headers.get_behind(IMPLEMENTATION.as_str()).is_some() {
            return find();
        }
        if let Some(method) = beginning.note().get() {
            return Some(*method);
        }
        let method = find()?;
        if beginning.get(":path").is_some() {
            beginning.note().get_or_init(|| method);
        }
        Some(method)
    }
}

fn path(headers: &Headers) -> &str {
    std::str::from_utf8(headers.get(":path").unwrap_or_default()).unwrap_or_default()
}

fn is_grpc(headers: &Headers) -> bool {
    let content_type = headers.get(CONTENT_TYPE.as_str()).unwrap_or_default();
    content_type.starts_with(GRPC.as_bytes())
}

/// The implementation that the call asks for; empty for the default.
fn implementation(headers: &Headers) -> &str {
    let name = headers.get(IMPLEMENTATION.as_str()).unwrap_or_default();
    std::str::from_utf8(name).unwrap_or_default()
}

/// Handles a request whose message is compressed. It is admitted first: what it unfolds to costs time, the call's own, and
/// memory.
async fn compressed(
    call: Call,
    timeout: Option<Duration>,
    arrived: Instant,
    dispatch: &dyn Dispatch,
) -> InboundReply {
    let left = || timeout.map(|timeout| timeout.saturating_sub(arrived.elapsed()));
    let in_time = || match left() {
        Some(Duration::ZERO) => Err(framework_status(
            Reason::Deadline,
            "the deadline passed before the message was unfolded",
        )),
        _ => Ok(()),
    };
    let (method, limit) = (call.route, dispatch.max_message_bytes());
    let encoding = call.headers.get(GRPC_ENCODING.as_str()).map(<[u8]>::to_vec);
    let metadata = Metadata::from_fields(call.headers);
    let mut held = None;
    let message = dispatch.admit(method, &metadata, None).and_then(|()| {
        in_time()?;
        let body = call.body.map_err(|error| bad_message(&error))?;
        let message = read(&body, encoding.as_deref(), limit).map_err(|error| bad_message(&error))?;
        let message = message.unwrap_or_default();
        let bytes = body.len() + message.len();
        if bytes > FREE_BYTES {
            dispatch.hold_body(&mut held, bytes)?;
        }
        in_time().map(|()| message)
    });
    let request = InboundRequest {
        message,
        timeout: left(),
        metadata,
        peer: None,
    };
    dispatch.unary(method, request).await
}

fn message(body: Result<Bytes, MessageError>, dispatch: &dyn Dispatch) -> Result<Bytes, Status> {
    match body.and_then(|body| unframe(&body)) {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(framework_status(
            Reason::Malformed,
            "a unary call came without a message",
        )),
        Err(MessageError::Length { announced, .. }) if announced > dispatch.max_message_bytes() => {
            Err(crate::wire::too_large(announced, dispatch.max_message_bytes()))
        }
        Err(error) => Err(bad_message(&error)),
    }
}

fn response(reply: InboundReply, load: Option<HeaderValue>, compression: Option<Compression>) -> Response {
    let (frame, metadata) = match reply {
        Ok(reply) => reply.into_parts(),
        Err(status) => return refusal_with(&status, load),
    };
    let mut headers = Literals::new();
    if !metadata.is_empty() {
        let mut map = HeaderMap::new();
        metadata.write_to(&mut map);
        headers = fields::literals(&map);
    }
    let compressed =
        compression.and_then(|compression| Some((compression.of(&frame)?, compression.encoding)));
    let body = match compressed {
        Some((body, encoding)) => {
            let pushed = headers.push(GRPC_ENCODING.as_str(), encoding.name().as_bytes());
            debug_assert!(pushed.is_ok(), "{encoding:?}");
            body
        }
        None => frame.bytes().clone(),
    };
    Response::Message {
        headers,
        body,
        trailers: load.map(|load| {
            let mut trailers = HeaderMap::with_capacity(2);
            trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
            trailers.insert(LOAD_METRICS, load);
            fields::literals(&trailers)
        }),
    }
}

fn refusal(status: &Status) -> Response {
    refusal_with(status, None)
}

fn refusal_with(status: &Status, load: Option<HeaderValue>) -> Response {
    let mut trailers = HeaderMap::new();
    if let Some(load) = load {
        trailers.insert(LOAD_METRICS, load);
    }
    if status.code() == Code::Unimplemented {
        trailers.insert(GRPC_ACCEPT_ENCODING, ACCEPTED);
    }
    write_status(status, &mut trailers);
    Response::Status(fields::literals(&trailers))
}
