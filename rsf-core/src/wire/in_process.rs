//! A wire within one process: no socket and no HTTP/2, but every message is serialized and every header built.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::headers::{Varying, implementation, request_headers};
use super::load_report::{LOAD_METRICS, Reporter};
use super::pending::PendingCalls;
use super::status_header::{read_status, write_status};
use super::{
    ConnectError, Connection, ConnectionState, Dispatch, Fate, Frame, InboundReply, InboundRequest,
    MAX_MESSAGE_BYTES, Slot, Target, UnaryReply, UnaryRequest, Wire, WireError, too_large,
};
use crate::metadata::Metadata;
use crate::status::Status;

/// Servers by address, and a wire that reaches them.
#[derive(Clone, Default)]
pub struct InProcessWire {
    servers: Arc<Mutex<HashMap<String, Arc<Server>>>>,
}

struct Server {
    dispatch: Arc<dyn Dispatch>,
    /// Each connection's life.
    connections: Mutex<Vec<watch::Sender<ConnectionState>>>,
}

impl Server {
    fn enter(&self, state: ConnectionState) {
        for life in &*self.connections.lock() {
            advance(life, state);
        }
    }
}

/// A server's place on the wire. Dropping it is the server's sudden death: its connections close.
pub struct Bound {
    wire: InProcessWire,
    address: String,
    server: Arc<Server>,
}

impl InProcessWire {
    /// A wire without servers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a server at `address`, replacing an earlier one.
    pub fn bind(&self, address: &str, dispatch: Arc<dyn Dispatch>) -> Bound {
        let server = Arc::new(Server {
            dispatch,
            connections: Mutex::default(),
        });
        if let Some(old) = self.servers.lock().insert(address.to_owned(), server.clone()) {
            old.enter(ConnectionState::Closed);
        }
        Bound {
            wire: self.clone(),
            address: address.to_owned(),
            server,
        }
    }
}

impl Bound {
    /// The server's graceful end: no new connections and calls, the running calls finish.
    pub fn drain(&self) {
        self.leave();
        self.server.enter(ConnectionState::Draining);
    }

    fn leave(&self) {
        let mut servers = self.wire.servers.lock();
        // Somebody else may have been put there since.
        if servers
            .get(&self.address)
            .is_some_and(|server| Arc::ptr_eq(server, &self.server))
        {
            servers.remove(&self.address);
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.leave();
        self.server.enter(ConnectionState::Closed);
    }
}

impl Wire for InProcessWire {
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        let address = target.address.clone();
        let server = self.servers.lock().get(&*address).cloned();
        Box::pin(async move {
            match server {
                Some(server) => Ok(Arc::new(InProcessConnection::new(&server, Handle::current())) as _),
                None => Err(ConnectError {
                    address,
                    reason: "no server is bound there in this process".to_owned(),
                    refused: true,
                }),
            }
        })
    }
}

struct InProcessConnection {
    dispatch: Arc<dyn Dispatch>,
    pending: PendingCalls,
    state: watch::Sender<ConnectionState>,
    reporter: Arc<Reporter>,
    /// Where handlers run: the caller's executor may know no timers.
    runtime: Handle,
}

impl InProcessConnection {
    fn new(server: &Server, runtime: Handle) -> Self {
        let state = watch::Sender::new(ConnectionState::Ready);
        let mut connections = server.connections.lock();
        connections.retain(|life| *life.borrow() != ConnectionState::Closed);
        connections.push(state.clone());
        InProcessConnection {
            dispatch: server.dispatch.clone(),
            pending: PendingCalls::default(),
            state,
            reporter: Arc::new(Reporter::new()),
            runtime,
        }
    }

    fn takes_calls(&self) -> bool {
        *self.state.borrow() == ConnectionState::Ready
    }

    /// A connection that drains ends with its last call.
    fn end_if_drained(&self) {
        if *self.state.borrow() == ConnectionState::Draining && self.pending.is_empty() {
            advance(&self.state, ConnectionState::Closed);
        }
    }
}

impl Drop for InProcessConnection {
    fn drop(&mut self) {
        advance(&self.state, ConnectionState::Closed);
    }
}

/// A connection's life goes one way.
fn advance(life: &watch::Sender<ConnectionState>, to: ConnectionState) {
    life.send_if_modified(|state| {
        let later = to > *state;
        if later {
            *state = to;
        }
        later
    });
}

fn broken(reason: &str) -> WireError {
    WireError {
        fate: Fate::Written,
        reason: reason.to_owned(),
    }
}

fn not_sent() -> WireError {
    WireError {
        fate: Fate::NotWritten,
        reason: "the connection is closing".to_owned(),
    }
}

impl Connection for InProcessConnection {
    fn send(&self, request: &UnaryRequest<'_>) -> Slot {
        if !self.takes_calls() {
            return self.pending.insert(std::future::ready(Err(not_sent())));
        }
        let mut state = self.state.subscribe();
        let sent = Sent {
            path: request.path.clone(),
            frame: request.frame.clone(),
            timeout: request.timeout,
            headers: request_headers(request, Varying::Indexed),
        };
        let handled = handle(self.dispatch.clone(), self.reporter.clone(), sent);
        let handled = AbortOnDropHandle::new(self.runtime.spawn(handled));
        self.pending.insert(async move {
            tokio::select! {
                biased;
                _ = state.wait_for(|state| *state == ConnectionState::Closed) => Err(broken("the server went away")),
                reply = handled => reply.map_err(|_| broken("the server's task ended without a reply")),
            }
        })
    }

    fn poll(&self, slot: Slot, cx: &mut Context<'_>) -> Poll<Result<UnaryReply, WireError>> {
        let outcome = self.pending.poll(slot, cx);
        if outcome.is_ready() {
            self.end_if_drained();
        }
        outcome
    }

    fn cancel(&self, slot: Slot) {
        self.pending.cancel(slot);
        self.end_if_drained();
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    fn http(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, Result<http::Response<tonic::body::Body>, WireError>> {
        if !self.takes_calls() {
            return Box::pin(std::future::ready(Err(not_sent())));
        }
        let answer = AbortOnDropHandle::new(self.runtime.spawn(self.dispatch.http(request)));
        Box::pin(async move {
            answer
                .await
                .map_err(|_| broken("the server's task ended without a reply"))
        })
    }

    fn close(&self) {
        advance(&self.state, ConnectionState::Draining);
        self.end_if_drained();
    }
}

/// A request on its way.
struct Sent {
    path: PathAndQuery,
    frame: Frame,
    timeout: Option<Duration>,
    headers: HeaderMap,
}

async fn handle(dispatch: Arc<dyn Dispatch>, reporter: Arc<Reporter>, request: Sent) -> UnaryReply {
    let path = request.path.as_str();
    let Some(method) = dispatch.method(path, implementation(&request.headers)) else {
        return foreign(&*dispatch, &reporter, request).await;
    };
    let message = request.frame.message();
    let metadata = Metadata::from_headers(request.headers);
    let message = match dispatch.admit(method, &metadata, None) {
        Err(status) => Err(status),
        Ok(()) if message.len() <= dispatch.max_message_bytes() => Ok(message),
        Ok(()) => Err(too_large(message.len(), dispatch.max_message_bytes())),
    };
    let inbound = InboundRequest {
        message,
        timeout: request.timeout,
        metadata,
        peer: None,
    };
    let reply = dispatch.unary(method, inbound).await;
    received(reply, reporter.due(&*dispatch))
}

/// The reply as it looks after its headers were written and read.
fn received(reply: InboundReply, load: Option<HeaderValue>) -> UnaryReply {
    let mut headers = HeaderMap::new();
    if let Some(load) = load {
        headers.insert(LOAD_METRICS, load);
    }
    let result = match reply {
        Ok(reply) => {
            let (frame, metadata) = reply.into_parts();
            metadata.write_to(&mut headers);
            match frame.message_len() {
                length if length > MAX_MESSAGE_BYTES => Err(too_large(length, MAX_MESSAGE_BYTES)),
                _ => Ok(frame.message()),
            }
        }
        Err(status) => {
            write_status(&status, &mut headers);
            Err(read_status(&headers).flatten().unwrap_or(status))
        }
    };
    UnaryReply {
        result,
        metadata: Metadata::from_headers(headers),
    }
}

/// A method that is not RSF's to handle: a hosted tonic service, or unknown.
async fn foreign(dispatch: &dyn Dispatch, reporter: &Reporter, request: Sent) -> UnaryReply {
    let body = tonic::body::Body::new(http_body_util::Full::new(request.frame.bytes().clone()));
    let mut message = http::Request::new(body);
    *message.method_mut() = http::Method::POST;
    *message.uri_mut() = request.path.into();
    *message.headers_mut() = request.headers;
    let (mut parts, body) = dispatch.http(message).await.into_parts();
    if let Some(load) = reporter.due(dispatch) {
        parts.headers.entry(LOAD_METRICS).or_insert(load);
    }
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
