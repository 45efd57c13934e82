//! The accept loop, and each connection's requests handed to a [`Dispatch`].

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{OutBody, Received, receive};
use crate::error::framework_status;
use crate::metadata::Metadata;
use crate::outcome::Reason;
use crate::status::Status;
use crate::wire::budget::FREE_BYTES;
use crate::wire::headers::{GRPC, implementation};
use crate::wire::load_report::{LOAD_METRICS, Reporter, with_load};
use crate::wire::status_header::{GRPC_ENCODING, GRPC_STATUS, read_timeout, write_status};
use crate::wire::{Dispatch, InboundReply, InboundRequest, MAX_HEADER_BYTES};

/// Connections that the system keeps waiting at most (tokio's own choice).
const BACKLOG: usize = 1024;
/// Time for the system to hand over the next of the connections that waited when the drain began.
const LAST_LOOK: Duration = Duration::from_millis(2);
/// Time for a connection that came with the drain to greet, so that it can be told.
const LAST_GREETING: Duration = Duration::from_millis(200);

/// What a listening port allows.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Connections at once; further ones wait in the system's backlog. Default 10 000.
    pub max_connections: usize,
    /// Streams at once on a connection, as announced in SETTINGS. Default 4 096.
    pub max_concurrent_streams: u32,
    /// Time for a new connection to send HTTP/2's preface; one that stays silent takes a place no longer. Default 3 s.
    pub handshake_timeout: Duration,
    /// Time for the message of a unary call to come whole; a shorter deadline of the call wins. What takes longer is
    /// refused with `deadline`: nothing else bounds a body that trickles in. Default 60 s.
    pub body_timeout: Duration,
    /// Idle time after which a PING is sent. Default 20 s.
    pub keepalive_interval: Duration,
    /// Time without an answer to a PING after which the connection is closed. Default 10 s.
    pub keepalive_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            max_connections: 10_000,
            max_concurrent_streams: 4096,
            handshake_timeout: Duration::from_secs(3),
            body_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves until `drain` is cancelled, then sends GOAWAY on every connection and returns when the running calls are
/// done. The caller bounds that time: dropping this future closes every connection at once.
pub async fn serve(
    listener: TcpListener,
    dispatch: Arc<dyn Dispatch>,
    options: ServerOptions,
    drain: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(options.max_connections));
    let connections = TaskTracker::new();
    let closed = CancellationToken::new();
    let _close = closed.clone().drop_guard();
    let spawn = |stream: TcpStream, place: Option<OwnedSemaphorePermit>| {
        let (dispatch, options) = (dispatch.clone(), options.clone());
        let (drain, closed) = (drain.clone(), closed.clone());
        connections.spawn(async move {
            closed
                .run_until_cancelled(serve_connection(stream, dispatch, &options, drain))
                .await;
            drop(place);
        });
    };
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
        spawn(stream, Some(place));
    }
    // Who waits in the backlog would be reset, and the calls that are on their way with it: GOAWAY tells them apart.
    for _ in 0..BACKLOG {
        match tokio::time::timeout(LAST_LOOK, listener.accept()).await {
            Ok(Ok((stream, _))) => spawn(stream, None),
            _ => break,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_connection(
    stream: TcpStream,
    dispatch: Arc<dyn Dispatch>,
    options: &ServerOptions,
    drain: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!(%error, "connection is gone already");
    }
    let greeted = tokio::time::timeout(options.handshake_timeout, greeted(&stream));
    let too_late = async {
        drain.cancelled().await;
        tokio::time::sleep(LAST_GREETING).await;
    };
    let greeted = tokio::select! {
        greeted = greeted => Some(greeted),
        () = too_late => None,
    };
    match greeted {
        Some(Ok(Ok(true))) => {}
        Some(Ok(Ok(false))) => {
            // In HTTP/1.1, because that is what people and load balancers try.
            let _ = stream.try_write(NO_HTTP2);
            return;
        }
        Some(Ok(Err(error))) => return tracing::debug!(%error, "connection ended before its preface"),
        Some(Err(_)) => return tracing::debug!("connection closed: no HTTP/2 preface in time"),
        None => return,
    }
    let (reporter, body_timeout) = (Arc::new(Reporter::new()), options.body_timeout);
    let service = hyper::service::service_fn(move |request| {
        let (dispatch, reporter) = (dispatch.clone(), reporter.clone());
        async move { Ok::<_, Infallible>(answer(dispatch, &reporter, body_timeout, request).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        .max_header_list_size(MAX_HEADER_BYTES)
        // gRPC has no use for it, and each reply would pay.
        .auto_date_header(false)
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NO_HTTP2: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\n\
    content-type: text/plain\r\ncontent-length: 70\r\nconnection: close\r\n\r\n\
    this port speaks gRPC over HTTP/2; for HTTP and JSON use RSF's adapter";

/// Waits for HTTP/2's preface without consuming it. `false` where something else comes.
async fn greeted(stream: &TcpStream) -> std::io::Result<bool> {
    let mut start = [0; PREFACE.len()];
    loop {
        let came = stream.peek(&mut start).await?;
        if came == 0 || start[..came] != PREFACE[..came] {
            return Ok(false);
        }
        if came == PREFACE.len() {
            return Ok(true);
        }
        // Half a preface stays readable, so that the socket cannot tell when the other half is there.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn answer(
    dispatch: Arc<dyn Dispatch>,
    reporter: &Reporter,
    body_timeout: Duration,
    request: Request<Incoming>,
) -> Response<OutBody> {
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
    let metadata = Metadata::from_headers(parts.headers);
    if let Err(status) = dispatch.admit(method, &metadata, None) {
        // Its body is not waited for; what of it comes is thrown away with the stream.
        let request = inbound(Err(status), timeout, metadata);
        let answered = dispatch.unary(method, request).await;
        return reply(answered, reporter.due(&*dispatch));
    }
    let arrived = tokio::time::Instant::now();
    // Until the answer: the message is held for as long as its handler runs.
    let mut held = None;
    let receiving = receive(body, dispatch.max_message_bytes(), |bytes| {
        match bytes > FREE_BYTES {
            true => dispatch.hold_body(&mut held, bytes),
            false => Ok(()),
        }
    });
    // A body that trickles in takes from the call's time, and ends with it. Without an end it would hold stream and memory
    // for as long as its sender likes: it has no place in pool or queue yet.
    let limit = timeout.map_or(body_timeout, |timeout| timeout.min(body_timeout));
    let Ok(received) = tokio::time::timeout(limit, receiving).await else {
        return refusal(&too_slow(timeout, limit));
    };
    let timeout = timeout.map(|limit| limit.saturating_sub(arrived.elapsed()));
    let message = match received {
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
    reply(answered, reporter.due(&*dispatch))
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

fn reply(reply: InboundReply, load: Option<http::HeaderValue>) -> Response<OutBody> {
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
    let body = OutBody::Unary {
        data: Some(frame.bytes().clone()),
        trailers: Some(trailers),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    metadata.write_to(response.headers_mut());
    response
}

/// A trailers-only response.
fn refusal(status: &Status) -> Response<OutBody> {
    let mut response = Response::new(OutBody::empty());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    if status.code() == crate::status::Code::Unimplemented {
        response
            .headers_mut()
            .insert(GRPC_ENCODING, http::HeaderValue::from_static("identity"));
    }
    write_status(status, response.headers_mut());
    response
}
