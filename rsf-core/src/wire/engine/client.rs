//! Client connections over the engine.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::HeaderMap;
use http_body_util::BodyExt as _;
use rsf_wire::bridge::HttpClient;
use rsf_wire::compression::{self, read};
use rsf_wire::message::{MessageError, unframe};
use rsf_wire::{CallError, Client, ErrorCode, Life, Limits, Reply, Request, StreamError};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::fields;
use super::socket::set_up;
use crate::error::framework_status;
use crate::outcome::Reason;
use crate::status::Status;
use crate::wire::compression::bad_message;
use crate::wire::greeting::Greeting;
use crate::wire::headers::{CALLER, IMPLEMENTATION, TARGET};
use crate::wire::status_header::{GRPC_ENCODING, from_http, read_status};
use crate::wire::{
    Compression, ConnectError, Connection, ConnectionState, Fate, Keepalive, MAX_HEADER_BYTES,
    MAX_MESSAGE_BYTES, Slot, Target, UnaryReply, UnaryRequest, Wire, WireError,
};

/// gRPC over TCP by RSF's own engine, without TLS.
#[derive(Debug, Clone)]
pub struct EngineWire {
    limits: Limits,
    compression: Option<Compression>,
}

impl Default for EngineWire {
    fn default() -> Self {
        let limits = Limits {
            message_bytes: MAX_MESSAGE_BYTES,
            header_list_bytes: MAX_HEADER_BYTES,
            ..Limits::default()
        };
        EngineWire {
            limits,
            compression: None,
        }
    }
}

impl EngineWire {
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

    /// With connections that are replaced after so many calls, instead of 2³⁰: streams have numbers, and they run out.
    #[must_use]
    pub fn with_calls_per_connection(mut self, calls: u32) -> Self {
        self.limits.last_stream = calls.saturating_mul(2).clamp(1, self.limits.last_stream);
        self
    }
}

impl Wire for EngineWire {
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        let (address, keepalive) = (target.address.clone(), target.keepalive);
        let (limits, compression) = (self.limits.clone(), self.compression);
        Box::pin(async move {
            let failed = |reason: String| ConnectError {
                address: address.clone(),
                reason,
                refused: false,
            };
            // What stands in each request must be one.
            let authority = address.parse::<http::uri::Authority>();
            authority.map_err(|e| failed(format!("is no host:port: {e}")))?;
            let stream = TcpStream::connect(&*address).await;
            let stream = stream.map_err(|e| ConnectError {
                refused: e.kind() == std::io::ErrorKind::ConnectionRefused,
                ..failed(e.to_string())
            })?;
            set_up(&stream).map_err(|e| failed(e.to_string()))?;
            let (stream, greeted) = Greeting::of(stream);
            let mut connection = EngineConnection::start(stream, &address, keepalive, limits);
            connection.compression = compression;
            let silent = |_| failed("the connection closed before the peer's first HTTP/2 frame".to_owned());
            greeted.await.map_err(silent)?;
            Ok(Arc::new(connection) as Arc<dyn Connection>)
        })
    }
}

struct EngineConnection {
    client: Arc<Client>,
    state: watch::Sender<ConnectionState>,
    compression: Option<Compression>,
}

impl EngineConnection {
    fn start(
        stream: Greeting,
        address: &str,
        keepalive: Option<Keepalive>,
        limits: Limits,
    ) -> EngineConnection {
        let state = watch::Sender::new(ConnectionState::Ready);
        let steps = state.clone();
        // Steps may come out of order from several threads; a life only goes forward.
        let step = move |life| {
            steps.send_if_modified(|state| {
                let next = state_of(life).max(*state);
                std::mem::replace(state, next) != next
            });
        };
        let (client, connection) = Client::new(stream, address, limits, step);
        if let Some(Keepalive { interval, timeout }) = keepalive {
            tokio::spawn(client.keep_alive(rsf_wire::Keepalive { interval, timeout }));
        }
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        let client = Arc::new(client);
        EngineConnection {
            client,
            state,
            compression: None,
        }
    }
}

fn state_of(life: Life) -> ConnectionState {
    match life {
        Life::Ready => ConnectionState::Ready,
        Life::Aging => ConnectionState::Aging,
        Life::Draining => ConnectionState::Draining,
        Life::Closed => ConnectionState::Closed,
    }
}

impl Connection for EngineConnection {
    fn send(&self, request: &UnaryRequest<'_>) -> Slot {
        let mut constant: [(&str, &[u8]); 5] = [("", b""); 5];
        let mut count = 0;
        let named = [
            (&CALLER, request.caller),
            (&TARGET, request.target),
            (&IMPLEMENTATION, request.implementation),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                constant[count] = (name.as_str(), value.as_bytes());
                count += 1;
            }
        }
        let mut compressed = None;
        if let Some(compression) = &self.compression {
            constant[count] = ("grpc-accept-encoding", compression::ACCEPTED.as_bytes());
            count += 1;
            compressed = compression.of(request.frame);
            if compressed.is_some() {
                constant[count] = ("grpc-encoding", compression.encoding.name().as_bytes());
                count += 1;
            }
        }
        let slot = self.client.send(Request {
            path: request.path.as_str(),
            constant: &constant[..count],
            varying: fields::varying(request),
            body: compressed.unwrap_or_else(|| request.frame.bytes().clone()),
        });
        Slot(slot.0)
    }

    fn poll(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>> {
        let outcome = ready!(self.client.poll(rsf_wire::Slot(slot.0), cx));
        Poll::Ready(outcome.map(reply).map_err(wire_error))
    }

    fn cancel(&self, slot: Slot) {
        self.client.cancel(rsf_wire::Slot(slot.0));
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    fn http(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, WireError>> {
        let sent = HttpClient::new(self.client.clone()).send(request);
        Box::pin(async move {
            let response = sent.await.map_err(wire_error)?;
            Ok(response.map(|body| tonic::body::Body::new(body.map_err(broken))))
        })
    }

    fn close(&self) {
        self.client.close();
    }
}

/// In the words of the other wire: the limit is RSF's.
const TOO_MUCH_METADATA: &str =
    "the request's headers are over the peer's limit (16384 bytes in RSF); send less metadata";

fn wire_error(error: CallError) -> WireError {
    WireError {
        fate: match error.fate {
            rsf_wire::Fate::NotWritten => Fate::NotWritten,
            rsf_wire::Fate::Refused => Fate::Refused,
            rsf_wire::Fate::Written => Fate::Written,
        },
        reason: error.reason.to_string(),
    }
}

fn reply(reply: Reply) -> UnaryReply {
    let http_status = reply.headers.get(":status").unwrap_or_default();
    if http_status == b"200" && reply.grpc_status() == Some(0) {
        return UnaryReply {
            result: message(&reply)
                .and_then(|message| message.ok_or_else(|| malformed("the reply is OK but holds no message"))),
            metadata: fields::metadata(&reply.headers, reply.trailers.as_ref()),
        };
    }
    let mut last = HeaderMap::new();
    fields::copy(reply.trailers.as_ref().unwrap_or(&reply.headers), None, &mut last);
    let status = match read_status(&last).flatten() {
        Some(status) => status,
        None if http_status == b"431" => framework_status(Reason::TooLarge, TOO_MUCH_METADATA),
        None if http_status != b"200" => {
            let number = std::str::from_utf8(http_status).unwrap_or_default();
            let code = number.parse().map_or(crate::status::Code::Unknown, from_http);
            Status::new(
                code,
                format!("the peer answered with HTTP {number} and no gRPC status"),
            )
        }
        None => message(&reply)
            .err()
            .unwrap_or_else(|| malformed("the reply has no grpc-status")),
    };
    UnaryReply {
        result: Err(status),
        metadata: fields::metadata(&reply.headers, reply.trailers.as_ref()),
    }
}

fn message(reply: &Reply) -> Result<Option<Bytes>, Status> {
    let body = reply.body.as_ref().map_err(MessageError::clone);
    let message = body.and_then(|body| match unframe(body) {
        Err(MessageError::Compressed) => {
            read(body, reply.headers.get(GRPC_ENCODING.as_str()), MAX_MESSAGE_BYTES)
        }
        other => other,
    });
    message.map_err(|error| match error {
        // What this side cannot read was handled over there: no word of ours may look like the peer's refusal.
        MessageError::UnknownEncoding { .. } => malformed(&error.to_string()),
        _ => bad_message(&error),
    })
}

fn malformed(problem: &str) -> Status {
    framework_status(
        Reason::Malformed,
        format!("{problem}; is the peer a gRPC server?"),
    )
}

/// A stream that broke off, as gRPC's document on HTTP/2 translates it.
fn broken(error: StreamError) -> tonic::Status {
    let code = match error.code {
        None | Some(ErrorCode::REFUSED_STREAM) => tonic::Code::Unavailable,
        Some(ErrorCode::CANCEL) => tonic::Code::Cancelled,
        Some(ErrorCode::ENHANCE_YOUR_CALM) => tonic::Code::ResourceExhausted,
        Some(ErrorCode::INADEQUATE_SECURITY) => tonic::Code::PermissionDenied,
        Some(_) => tonic::Code::Internal,
    };
    tonic::Status::new(code, error.to_string())
}
