//! The accept loop, and each connection's requests handed to a [`Dispatch`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body_util::BodyExt as _;
use rsf_wire::message::{MessageError, unframe};
use rsf_wire::server::Handling;
use rsf_wire::{Call, Handler, Headers, Limits, Literals, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::bad_message;
use super::fields;
use crate::error::framework_status;
use crate::metadata::{Metadata, Unmapped as _};
use crate::outcome::Reason;
use crate::status::{Code, Status};
use crate::wire::headers::{GRPC, IMPLEMENTATION};
use crate::wire::http2::ServerOptions;
use crate::wire::load_report::{LOAD_METRICS, Reporter};
use crate::wire::status_header::{GRPC_ENCODING, GRPC_STATUS, GRPC_TIMEOUT, parse_timeout, write_status};
use crate::wire::{Dispatch, InboundReply, InboundRequest, MAX_HEADER_BYTES};

/// Serves as [`crate::wire::http2::serve`] does; keepalive is not there yet.
pub async fn serve(
    listener: TcpListener,
    dispatch: Arc<dyn Dispatch>,
    options: ServerOptions,
    drain: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(options.max_connections));
    let connections = TaskTracker::new();
    while let Some(Ok(place)) = drain.run_until_cancelled(places.clone().acquire_owned()).await {
        let stream = match drain.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                // Out of file descriptors, or a connection that died in the backlog: the loop must live on.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let handler = Arc::new(Dispatching {
            dispatch: dispatch.clone(),
            reporter: Arc::new(Reporter::new()),
        });
        let serving = serve_connection(stream, handler, &options, drain.clone());
        connections.spawn(async move {
            serving.await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn serve_connection(
    stream: TcpStream,
    handler: Arc<Dispatching>,
    options: &ServerOptions,
    drain: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let limits = Limits {
        concurrent_streams: options.max_concurrent_streams,
        header_list_bytes: MAX_HEADER_BYTES,
        ..Limits::default()
    };
    async move {
        if let Err(error) = stream.set_nodelay(true) {
            return tracing::debug!(%error, "connection is gone already");
        }
        let served = rsf_wire::serve(stream, handler, limits, drain.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// The engine's handler in front of a [`Dispatch`], one a connection.
struct Dispatching {
    dispatch: Arc<dyn Dispatch>,
    reporter: Arc<Reporter>,
}

impl Handler for Dispatching {
    fn call(&self, call: Call) -> Option<Handling> {
        let Some(method) = self.method(&call) else {
            return Some(Box::pin(foreign(self.dispatch.clone(), call)));
        };
        let timeout = match call
            .headers
            .get(GRPC_TIMEOUT.as_str())
            .map(parse_timeout)
            .transpose()
        {
            Ok(timeout) => timeout,
            Err(status) => return Some(Box::pin(std::future::ready(refusal(&status)))),
        };
        let request = InboundRequest {
            message: message(call.body),
            timeout,
            metadata: Metadata::from_fields(call.headers),
            peer: None,
        };
        let handled = self.dispatch.unary(method, request);
        let (dispatch, reporter) = (self.dispatch.clone(), self.reporter.clone());
        Some(Box::pin(async move {
            let reply = handled.await;
            response(reply, reporter.due(&*dispatch))
        }))
    }

    fn max_message_bytes(&self) -> usize {
        self.dispatch.max_message_bytes()
    }
}

impl Dispatching {
    /// The method that the call is for. Calls of one method begin alike on a connection, and what that beginning means is
    /// looked up once: path and implementation stand in it, as RSF's clients send them.
    fn method(&self, call: &Call) -> Option<usize> {
        let find = || self.dispatch.method(call.path(), implementation(&call.headers));
        let Some(beginning) = call.headers.beginning() else {
            return find();
        };
        if call.headers.get_behind(IMPLEMENTATION.as_str()).is_some() {
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

/// The implementation that the call asks for; empty for the default.
fn implementation(headers: &Headers) -> &str {
    let name = headers.get(IMPLEMENTATION.as_str()).unwrap_or_default();
    std::str::from_utf8(name).unwrap_or_default()
}

fn message(body: Result<Bytes, MessageError>) -> Result<Bytes, Status> {
    match body.and_then(|body| unframe(&body)) {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(framework_status(
            Reason::Malformed,
            "a unary call came without a message",
        )),
        Err(error) => Err(bad_message(&error)),
    }
}

fn response(reply: InboundReply, load: Option<HeaderValue>) -> Response {
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
    Response::Message {
        headers,
        body: frame.bytes().clone(),
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
        trailers.insert(GRPC_ENCODING, HeaderValue::from_static("identity"));
    }
    write_status(status, &mut trailers);
    Response::Status(fields::literals(&trailers))
}

/// A request that is not RSF's to handle: a hosted tonic service, or unknown. Answered whole.
async fn foreign(dispatch: Arc<dyn Dispatch>, call: Call) -> Response {
    let mut headers = call.headers.to_map();
    headers.insert(CONTENT_TYPE, GRPC);
    let path = call.path().parse::<http::Uri>();
    let (body, path) = match (call.body, path) {
        (Ok(body), Ok(path)) => (body, path),
        (Err(error), _) => return refusal(&bad_message(&error)),
        (_, Err(_)) => return refusal(&Status::unimplemented("the request's path is none")),
    };
    let mut request = http::Request::new(tonic::body::Body::new(http_body_util::Full::new(body)));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = path;
    *request.headers_mut() = headers;
    let (parts, body) = dispatch.http(request).await.into_parts();
    if parts.status != http::StatusCode::OK {
        return Response::Http(parts.status.as_u16());
    }
    let collected = match body.collect().await {
        Ok(collected) => collected,
        Err(error) => return refusal(&Status::internal(format!("the reply broke off: {error}"))),
    };
    let trailers = collected.trailers().map(fields::literals);
    let (headers, body) = (fields::literals(&parts.headers), collected.to_bytes());
    match trailers {
        Some(trailers) => Response::Message {
            headers,
            body,
            trailers: Some(trailers),
        },
        None => Response::Status(headers),
    }
}
