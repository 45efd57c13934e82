//! A wire within one process: no socket and no HTTP/2, but every message is serialized and every header built.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::headers::{implementation, request_headers};
use super::pending::PendingCalls;
use super::status_header::read_status;
use super::{
    ConnectError, Connection, ConnectionState, Dispatch, Fate, InboundRequest, Slot, Target, UnaryReply,
    UnaryRequest, Wire, WireError,
};
use crate::metadata::Metadata;
use crate::status::Status;

/// Servers by address, and a wire that reaches them.
#[derive(Clone, Default)]
pub struct InProcessWire {
    servers: Arc<Mutex<HashMap<String, Server>>>,
}

#[derive(Clone)]
struct Server {
    dispatch: Arc<dyn Dispatch>,
    state: watch::Sender<ConnectionState>,
}

/// A server's place on the wire. Dropping it is the server's sudden death: its connections close.
pub struct Bound {
    wire: InProcessWire,
    address: String,
}

impl InProcessWire {
    /// A wire without servers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a server at `address`, replacing an earlier one.
    pub fn bind(&self, address: &str, dispatch: Arc<dyn Dispatch>) -> Bound {
        let server = Server {
            dispatch,
            state: watch::Sender::new(ConnectionState::Ready),
        };
        if let Some(old) = self.servers.lock().insert(address.to_owned(), server) {
            old.state.send_replace(ConnectionState::Closed);
        }
        Bound {
            wire: self.clone(),
            address: address.to_owned(),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(server) = self.wire.servers.lock().remove(&self.address) {
            server.state.send_replace(ConnectionState::Closed);
        }
    }
}

impl Wire for InProcessWire {
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        let address = target.address.clone();
        let server = self.servers.lock().get(&*address).cloned();
        Box::pin(std::future::ready(match server {
            Some(server) => Ok(Arc::new(InProcessConnection {
                server,
                pending: PendingCalls::default(),
            }) as _),
            None => Err(ConnectError {
                address,
                reason: "no server is bound there in this process".to_owned(),
            }),
        }))
    }
}

struct InProcessConnection {
    server: Server,
    pending: PendingCalls,
}

impl InProcessConnection {
    fn is_closed(&self) -> bool {
        *self.server.state.borrow() == ConnectionState::Closed
    }
}

impl Connection for InProcessConnection {
    fn send(&self, request: UnaryRequest) -> Slot {
        let mut state = self.server.state.subscribe();
        let handled = handle(self.server.dispatch.clone(), request);
        let closed = self.is_closed();
        self.pending.insert(async move {
            if closed {
                return Err(WireError {
                    fate: Fate::NotWritten,
                    reason: "the server is gone".to_owned(),
                });
            }
            tokio::select! {
                biased;
                _ = state.wait_for(|state| *state == ConnectionState::Closed) => {
                    Err(WireError { fate: Fate::Written, reason: "the server went away".to_owned() })
                }
                reply = handled => Ok(reply),
            }
        })
    }

    fn poll(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>> {
        self.pending.poll(slot, cx)
    }

    fn cancel(&self, slot: Slot) {
        self.pending.cancel(slot);
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.server.state.subscribe()
    }

    fn http(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, WireError>> {
        if self.is_closed() {
            let reason = "the server is gone".to_owned();
            return Box::pin(std::future::ready(Err(WireError {
                fate: Fate::NotWritten,
                reason,
            })));
        }
        let answer = self.server.dispatch.http(request);
        Box::pin(async move { Ok(answer.await) })
    }

    fn close(&self) {}
}

async fn handle(dispatch: Arc<dyn Dispatch>, request: UnaryRequest) -> UnaryReply {
    let headers = request_headers(&request);
    let path = request.path.as_str();
    let Some(method) = dispatch.method(path, implementation(&headers)) else {
        return foreign(&*dispatch, request, headers).await;
    };
    let message = request.frame.message();
    let message = if message.len() <= dispatch.max_message_bytes() {
        Ok(message)
    } else {
        Err(crate::error::framework_status(
            crate::outcome::Reason::TooLarge,
            format!(
                "the message has {} bytes, at most {} are allowed",
                message.len(),
                dispatch.max_message_bytes()
            ),
        ))
    };
    let inbound = InboundRequest {
        message,
        timeout: request.timeout,
        metadata: Metadata::from_headers(headers),
    };
    let reply = dispatch.unary(method, inbound).await;
    UnaryReply {
        result: reply.result.map(|frame| frame.message()),
        metadata: reply.metadata,
    }
}

/// A method that is not RSF's to handle: a hosted tonic service, or unknown.
async fn foreign(dispatch: &dyn Dispatch, request: UnaryRequest, headers: http::HeaderMap) -> UnaryReply {
    let body = tonic::body::Body::new(http_body_util::Full::new(request.frame.bytes().clone()));
    let mut message = http::Request::new(body);
    *message.method_mut() = http::Method::POST;
    *message.uri_mut() = request.path.into();
    *message.headers_mut() = headers;
    let (parts, body) = dispatch.http(message).await.into_parts();
    let broken = |problem: String| UnaryReply {
        result: Err(Status::internal(problem)),
        metadata: Metadata::new(),
    };
    let collected = match http_body_util::BodyExt::collect(body).await {
        Ok(collected) => collected,
        Err(error) => return broken(format!("the reply broke off: {error}")),
    };
    let trailers = collected
        .trailers()
        .cloned()
        .unwrap_or_else(|| parts.headers.clone());
    let bytes = collected.to_bytes();
    match read_status(&trailers) {
        Some(Some(status)) => UnaryReply {
            result: Err(status),
            metadata: Metadata::from_headers(parts.headers),
        },
        Some(None) if bytes.len() >= 5 => UnaryReply {
            result: Ok(bytes.slice(5..)),
            metadata: Metadata::from_headers(parts.headers),
        },
        _ => broken("the reply is no gRPC reply".to_owned()),
    }
}
