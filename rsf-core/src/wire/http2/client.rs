//! Client connections over hyper's HTTP/2.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use http::{HeaderMap, HeaderValue, Uri};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::error::framework_status;
use crate::metadata::Metadata;
use crate::outcome::Reason;
use crate::status::Status;
use crate::wire::body::{OutBody, Received, receive};
use crate::wire::compression::ACCEPTED;
use crate::wire::greeting::Greeting;
use crate::wire::headers::{Varying, request_headers};
use crate::wire::pending::PendingCalls;
use crate::wire::status_header::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING, from_http, read_status};
use crate::wire::{
    Compression, ConnectError, Connection, ConnectionState, Fate, Keepalive, MAX_HEADER_BYTES,
    MAX_MESSAGE_BYTES, Slot, Target, UnaryReply, UnaryRequest, Wire, WireError,
};

/// Bytes that may be under way before the reader asks for more: a stream's and a connection's.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// gRPC over TCP and HTTP/2 without TLS.
#[derive(Debug, Clone, Default)]
pub struct Http2Wire {
    compression: Option<Compression>,
}

impl Http2Wire {
    /// A wire with the limits of [`crate::wire`].
    pub fn new() -> Self {
        Self::default()
    }

    /// With requests that are compressed, and replies that may be.
    #[must_use]
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }
}

impl Wire for Http2Wire {
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        let (address, keepalive) = (target.address.clone(), target.keepalive);
        let compression = self.compression;
        Box::pin(async move {
            let failed = |reason: String| ConnectError {
                address: address.clone(),
                reason,
                refused: false,
            };
            let authority = Uri::builder()
                .scheme("http")
                .authority(&*address)
                .path_and_query("/")
                .build();
            let authority = authority.map_err(|e| failed(format!("is no host:port: {e}")))?;
            let stream = TcpStream::connect(&*address).await.map_err(|e| ConnectError {
                refused: e.kind() == ErrorKind::ConnectionRefused,
                ..failed(e.to_string())
            })?;
            stream.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
            let (stream, greeted) = Greeting::of(stream);
            let connection = handshake(stream, authority, keepalive, compression)
                .await
                .map_err(|e| failed(e.to_string()))?;
            let silent = |_| failed("the connection closed before the peer's first HTTP/2 frame".to_owned());
            greeted.await.map_err(silent)?;
            Ok(Arc::new(connection) as Arc<dyn Connection>)
        })
    }
}

async fn handshake(
    stream: Greeting,
    base: Uri,
    keepalive: Option<Keepalive>,
    compression: Option<Compression>,
) -> Result<Http2Connection, hyper::Error> {
    let state = watch::Sender::new(ConnectionState::Ready);
    let tasks = Tasks {
        _life: Arc::new(Life(state.clone())),
    };
    let mut builder = hyper::client::conn::http2::Builder::new(tasks.clone());
    if let Some(Keepalive { interval, timeout }) = keepalive {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(true);
    }
    let (sender, driver) = builder
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake::<_, OutBody>(TokioIo::new(stream))
        .await?;
    let ended = state.clone();
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "connection ended");
        }
        drains(&ended);
        drop(tasks);
    });
    Ok(Http2Connection {
        base,
        compression,
        sender: Mutex::new(Some(sender)),
        pending: PendingCalls::default(),
        names_sent: AtomicBool::new(false),
        state,
    })
}

/// Runs hyper's tasks for one connection. Its driver ends as soon as no new calls are taken; the running ones go on in
/// these tasks, and the connection is closed when the last of them has ended.
#[derive(Clone)]
struct Tasks {
    _life: Arc<Life>,
}

struct Life(watch::Sender<ConnectionState>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.send_replace(ConnectionState::Closed);
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let tasks = self.clone();
        // Not an async block: hyper's tasks are large, and it would hold and copy each of them twice.
        tokio::spawn(task.map(move |_| drop(tasks)));
    }
}

struct Http2Connection {
    base: Uri,
    compression: Option<Compression>,
    sender: Mutex<Option<SendRequest<OutBody>>>,
    pending: PendingCalls,
    /// The names of varying headers are in the peer's table: a request has put them there.
    names_sent: AtomicBool,
    state: watch::Sender<ConnectionState>,
}

impl Http2Connection {
    /// A sender that still takes requests. Hyper closes it on GOAWAY, and that is where we learn of it.
    fn sender(&self) -> Option<SendRequest<OutBody>> {
        let mut sender = self.sender.lock();
        if sender.as_ref().is_some_and(|sender| sender.is_closed()) {
            *sender = None;
        }
        if sender.is_none() {
            drains(&self.state);
        }
        sender.clone()
    }

    /// The first request puts the names of varying headers into the peer's table; from then on their values stand
    /// behind an index and change no table.
    fn varying(&self) -> Varying {
        if self.names_sent.load(Ordering::Relaxed) {
            return Varying::Literal;
        }
        self.names_sent.store(true, Ordering::Relaxed);
        Varying::Indexed
    }

    fn uri(&self, path: http::uri::PathAndQuery) -> Uri {
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).unwrap_or_default()
    }
}

impl Connection for Http2Connection {
    fn send(&self, request: &UnaryRequest<'_>) -> Slot {
        let mut headers = request_headers(request, self.varying());
        let mut compressed = None;
        if let Some(compression) = &self.compression {
            headers.insert(GRPC_ACCEPT_ENCODING, ACCEPTED);
            compressed = compression.of(request.frame);
            if compressed.is_some() {
                let encoding = HeaderValue::from_static(compression.encoding.name());
                headers.insert(GRPC_ENCODING, encoding);
            }
        }
        let body = OutBody::Unary {
            data: Some(compressed.unwrap_or_else(|| request.frame.bytes().clone())),
            trailers: None,
        };
        let mut message = http::Request::new(body);
        *message.method_mut() = http::Method::POST;
        *message.version_mut() = http::Version::HTTP_2;
        *message.uri_mut() = self.uri(request.path.clone());
        *message.headers_mut() = headers;
        match self.sender() {
            Some(mut sender) => {
                let sent = sender.try_send_request(message);
                let state = self.state.clone();
                self.pending.insert(async move {
                    match sent.await {
                        Ok(response) => reply(response).await,
                        Err(error) => Err(not_answered(error, &state)),
                    }
                })
            }
            None => self.pending.insert(std::future::ready(Err(draining()))),
        }
    }

    fn poll(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>> {
        self.pending.poll(slot, cx)
    }

    fn cancel(&self, slot: Slot) {
        self.pending.cancel(slot);
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    fn http(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, WireError>> {
        let Some(mut sender) = self.sender() else {
            return Box::pin(std::future::ready(Err(draining())));
        };
        let (mut parts, body) = request.into_parts();
        parts.version = http::Version::HTTP_2;
        if let Some(path) = parts.uri.path_and_query().cloned() {
            parts.uri = self.uri(path);
        }
        let sent = sender.try_send_request(http::Request::from_parts(parts, OutBody::Streaming(body)));
        let state = self.state.clone();
        Box::pin(async move {
            match sent.await {
                Ok(response) => Ok(response.map(tonic::body::Body::new)),
                Err(error) => Err(not_answered(error, &state)),
            }
        })
    }

    fn close(&self) {
        // Hyper finishes the running calls and closes when its last sender is gone.
        *self.sender.lock() = None;
        let _ = self.sender();
    }
}

/// Takes no more calls, unless it is gone altogether.
fn drains(state: &watch::Sender<ConnectionState>) {
    state.send_if_modified(|state| {
        let was_ready = *state == ConnectionState::Ready;
        if was_ready {
            *state = ConnectionState::Draining;
        }
        was_ready
    });
}

fn draining() -> WireError {
    WireError {
        fate: Fate::NotWritten,
        reason: "the connection is closing".to_owned(),
    }
}

/// A request that got no response. The first one that a GOAWAY turns away tells the others.
fn not_answered<M>(mut error: TrySendError<M>, state: &watch::Sender<ConnectionState>) -> WireError {
    let returned = error.take_message().is_some();
    if returned || says_goaway(error.error()) {
        drains(state);
    }
    wire_error(error.error(), returned)
}

fn says_goaway(error: &hyper::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<h2::Error>())
        .any(h2::Error::is_go_away)
}

/// How far a failed request got. When in doubt it counts as written.
fn wire_error(error: &hyper::Error, returned: bool) -> WireError {
    let mut reason = error.to_string();
    let mut fate = if returned { Fate::NotWritten } else { Fate::Written };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
            // A graceful GOAWAY fails only the streams above its last id.
            let above =
                cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR);
            if fate == Fate::Written && (refused || above) {
                fate = Fate::Refused;
            }
        }
        source = cause.source();
    }
    WireError { fate, reason }
}

async fn reply(response: http::Response<hyper::body::Incoming>) -> Result<UnaryReply, WireError> {
    let (parts, body) = response.into_parts();
    if parts.status != http::StatusCode::OK {
        let status = read_status(&parts.headers)
            .flatten()
            .unwrap_or_else(|| not_grpc(parts.status));
        return Ok(UnaryReply {
            result: Err(status),
            metadata: Metadata::from_headers(parts.headers),
        });
    }
    if let Some(Some(status)) = read_status(&parts.headers) {
        return Ok(UnaryReply {
            result: Err(status),
            metadata: Metadata::from_headers(parts.headers),
        });
    }
    let encoding = parts.headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes);
    let (message, trailers) = match receive(body, encoding, MAX_MESSAGE_BYTES, |_| Ok(())).await {
        Received::Message(message, trailers) => (Some(message), trailers),
        Received::Nothing(trailers) => (None, trailers),
        Received::Bad(status) => {
            // What this side cannot read was handled over there: no word of ours may look like the peer's refusal.
            let unread = status.code() == crate::status::Code::Unimplemented;
            return Ok(UnaryReply {
                result: Err(if unread {
                    malformed(status.message())
                } else {
                    status
                }),
                metadata: Metadata::new(),
            });
        }
        // Headers came, so the peer has looked at the request, whatever the reset says.
        Received::Broken(error) => {
            return Err(WireError {
                fate: Fate::Written,
                ..wire_error(&error, false)
            });
        }
    };
    let status = read_status(trailers.as_ref().unwrap_or(&parts.headers));
    let result = match (status, message) {
        (Some(None), Some(message)) => Ok(message),
        (Some(Some(status)), _) => Err(status),
        (Some(None), None) => Err(malformed("the reply is OK but holds no message")),
        (None, _) => Err(malformed("the reply has no grpc-status")),
    };
    Ok(UnaryReply {
        result,
        metadata: merged(parts.headers, trailers),
    })
}

/// An answer of plain HTTP.
fn not_grpc(status: http::StatusCode) -> Status {
    if status == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
        let advice = format!(
            "the request's headers are over the peer's limit ({MAX_HEADER_BYTES} bytes in RSF); send less metadata"
        );
        return framework_status(Reason::TooLarge, advice);
    }
    Status::new(
        from_http(status),
        format!("the peer answered with HTTP {status} and no gRPC status"),
    )
}

fn malformed(problem: &str) -> Status {
    framework_status(
        Reason::Malformed,
        format!("{problem}; is the peer a gRPC server?"),
    )
}

fn merged(mut headers: HeaderMap, trailers: Option<HeaderMap>) -> Metadata {
    let mut last = None;
    // Usually there is nothing beside the status, which the caller gets elsewhere.
    let trailers = trailers.filter(|trailers| trailers.len() > 1);
    for (name, value) in trailers.into_iter().flatten() {
        last = name.or(last);
        if let Some(name) = &last {
            headers.append(name.clone(), value);
        }
    }
    Metadata::from_headers(headers)
}
