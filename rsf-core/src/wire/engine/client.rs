//! Client connections over the engine.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderMap};
use http_body_util::BodyExt as _;
use rsf_wire::message::{MessageError, unframe};
use rsf_wire::{CallError, Client, Life, Limits, Reply, Request};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::fields;
use crate::error::framework_status;
use crate::outcome::Reason;
use crate::status::Status;
use crate::wire::headers::{CALLER, GRPC, IMPLEMENTATION, TARGET};
use crate::wire::status_header::{from_http, read_status};
use crate::wire::{
    ConnectError, Connection, ConnectionState, Fate, MAX_HEADER_BYTES, MAX_MESSAGE_BYTES, Slot, Target,
    UnaryReply, UnaryRequest, Wire, WireError,
};

/// gRPC over TCP by RSF's own engine, without TLS. A spike: see [`super`].
#[derive(Debug, Clone, Default)]
pub struct EngineWire {}

impl EngineWire {
    /// A wire with the limits of [`crate::wire`].
    pub fn new() -> Self {
        Self::default()
    }
}

impl Wire for EngineWire {
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        let address = target.address.clone();
        Box::pin(async move {
            let failed = |error: std::io::Error| ConnectError {
                address: address.clone(),
                reason: error.to_string(),
            };
            let stream = TcpStream::connect(&*address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let limits = Limits {
                message_bytes: MAX_MESSAGE_BYTES,
                header_list_bytes: MAX_HEADER_BYTES,
                ..Limits::default()
            };
            let state = watch::Sender::new(ConnectionState::Ready);
            let steps = state.clone();
            let step = move |life| {
                let _ = steps.send_if_modified(|state| advance(state, life));
            };
            let (client, connection) = Client::new(stream, &address, limits, step);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
            let client = Arc::new(client);
            Ok(Arc::new(EngineConnection { client, state }) as Arc<dyn Connection>)
        })
    }
}

/// Steps may come out of order from several threads; a life only goes forward.
fn advance(state: &mut ConnectionState, life: Life) -> bool {
    let next = match (*state, life) {
        (_, Life::Closed) => ConnectionState::Closed,
        (ConnectionState::Ready, Life::Draining) => ConnectionState::Draining,
        (now, _) => now,
    };
    std::mem::replace(state, next) != next
}

struct EngineConnection {
    client: Arc<Client>,
    state: watch::Sender<ConnectionState>,
}

impl Connection for EngineConnection {
    fn send(&self, request: &UnaryRequest<'_>) -> Slot {
        let mut constant: [(&str, &[u8]); 3] = [("", b""); 3];
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
        let slot = self.client.send(Request {
            path: request.path.as_str(),
            constant: &constant[..count],
            varying: fields::varying(request),
            body: request.frame.bytes().clone(),
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
        let client = self.client.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let not_written = |reason: String| WireError {
                fate: Fate::NotWritten,
                reason,
            };
            let body = http_body_util::Limited::new(body, MAX_MESSAGE_BYTES)
                .collect()
                .await;
            let body = body.map_err(|e| not_written(format!("the request broke off: {e}")))?;
            let request = Request {
                path: parts.uri.path(),
                constant: &[],
                varying: fields::literals(&parts.headers),
                body: body.to_bytes(),
            };
            let reply = client.call(request).await.map_err(wire_error)?;
            Ok(http_response(reply))
        })
    }

    fn close(&self) {
        self.client.close();
    }
}

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
            result: message(&reply.body)
                .and_then(|message| message.ok_or_else(|| malformed("the reply is OK but holds no message"))),
            metadata: fields::metadata(&reply.headers, reply.trailers.as_ref()),
        };
    }
    let mut last = HeaderMap::new();
    fields::copy(reply.trailers.as_ref().unwrap_or(&reply.headers), None, &mut last);
    let status = match read_status(&last).flatten() {
        Some(status) => status,
        None if http_status != b"200" => {
            let number = std::str::from_utf8(http_status).unwrap_or_default();
            let code = number.parse().map_or(crate::status::Code::Unknown, from_http);
            Status::new(
                code,
                format!("the peer answered with HTTP {number} and no gRPC status"),
            )
        }
        None => message(&reply.body)
            .err()
            .unwrap_or_else(|| malformed("the reply has no grpc-status")),
    };
    UnaryReply {
        result: Err(status),
        metadata: fields::metadata(&reply.headers, reply.trailers.as_ref()),
    }
}

fn message(body: &Result<Bytes, MessageError>) -> Result<Option<Bytes>, Status> {
    let message = body.as_ref().map_err(MessageError::clone).and_then(unframe);
    message.map_err(|error| bad_message(&error))
}

/// A message that cannot be read, as a status with its reason.
pub(super) fn bad_message(error: &MessageError) -> Status {
    match error {
        MessageError::TooLarge { limit } => framework_status(
            Reason::TooLarge,
            format!(
                "the message is too large, at most {limit} bytes are allowed; split it, or raise the limit"
            ),
        ),
        MessageError::Compressed => framework_status(Reason::Unimplemented, error.to_string()),
        MessageError::Length { .. } | MessageError::Prefix => {
            framework_status(Reason::Malformed, error.to_string())
        }
    }
}

fn malformed(problem: &str) -> Status {
    framework_status(
        Reason::Malformed,
        format!("{problem}; is the peer a gRPC server?"),
    )
}

fn http_response(reply: Reply) -> http::Response<tonic::body::Body> {
    let mut headers = HeaderMap::new();
    fields::copy(&reply.headers, None, &mut headers);
    headers.insert(CONTENT_TYPE, GRPC);
    let (body, trailers) = match (reply.body, reply.trailers) {
        (Ok(body), Some(trailers)) => {
            let mut map = HeaderMap::new();
            fields::copy(&trailers, None, &mut map);
            (body, map)
        }
        (Ok(body), None) => (body, HeaderMap::new()),
        (Err(error), _) => {
            let mut map = HeaderMap::new();
            crate::wire::status_header::write_status(&bad_message(&error), &mut map);
            (Bytes::new(), map)
        }
    };
    let body = http_body_util::Full::new(body);
    let body = match trailers.is_empty() {
        true => tonic::body::Body::new(body),
        false => tonic::body::Body::new(body.with_trailers(std::future::ready(Some(Ok(trailers))))),
    };
    let mut response = http::Response::new(body);
    if let Some(status) = reply.headers.get(":status")
        && let Ok(status) = http::StatusCode::from_bytes(status)
    {
        *response.status_mut() = status;
    }
    *response.headers_mut() = headers;
    response
}
