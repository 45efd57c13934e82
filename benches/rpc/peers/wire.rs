//! RSF's wire without anything above it: no stack, no balance, no limits, no metrics, no timers. A request carries what a
//! governed one carries: a deadline, a request id, the caller and a trace that differ from call to call. What a governed
//! call costs more is the cost of governance.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use prost::Message as _;
use rsf_core::message::Response;
use rsf_core::metadata::Metadata;
use rsf_core::status::Status;
use rsf_core::wire::{
    Connection, Dispatch, Exchange, Frame, InboundReply, InboundRequest, RequestId, Target, TraceParent,
    UnaryRequest,
};
use tokio::net::TcpListener;

use super::governed::Travel;
use crate::Result;
use crate::load::Caller;

const PATH: &str = "/bench.v1.Echo/Echo";

/// As rsf-build's and tonic's, without their services.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bytes = "vec", tag = "1")]
    payload: Vec<u8>,
}

struct Echo;

impl Dispatch for Echo {
    fn method(&self, path: &str, _implementation: &str) -> Option<usize> {
        (path == PATH).then_some(0)
    }

    fn unary(&self, _method: usize, request: InboundRequest) -> BoxFuture<'static, InboundReply> {
        Box::pin(async move {
            let message = Message::decode(request.message?).map_err(|e| Status::internal(e.to_string()))?;
            let frame = Frame::encode(&message).map_err(|size| Status::internal(format!("{size} bytes")))?;
            Ok(Response::new(frame))
        })
    }

    fn http(
        &self,
        _request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, http::Response<tonic::body::Body>> {
        Box::pin(std::future::ready(
            tonic::Status::unimplemented("the benchmark's wire echoes, nothing else").into_http(),
        ))
    }
}

pub(super) async fn serve<T: Travel>(listeners: Vec<TcpListener>) -> Result<()> {
    let servers = listeners
        .into_iter()
        .map(|listener| T::serve(listener, Arc::new(Echo)));
    futures_util::future::join_all(servers).await;
    Ok(())
}

pub(super) async fn connect<T: Travel>(addresses: &[String], payload: usize) -> Result<impl Caller> {
    let mut connections = Vec::new();
    for address in addresses {
        let target = Target {
            address: address.as_str().into(),
            keepalive: Some(rsf_core::wire::Keepalive::default()),
        };
        connections.push(T::wire().connect(&target).await?);
    }
    Ok(Calls {
        connections,
        turn: Arc::default(),
        path: http::uri::PathAndQuery::from_static(PATH),
        caller: http::HeaderValue::from_static("bench"),
        payload: super::payload(payload),
        next: 0,
    })
}

#[derive(Clone)]
struct Calls {
    connections: Vec<Arc<dyn Connection>>,
    /// Whose turn it is. Shared: were each of the calls in flight to count by itself, all would meet on one connection, which
    /// no balancer allows.
    turn: Arc<AtomicUsize>,
    path: http::uri::PathAndQuery,
    caller: http::HeaderValue,
    payload: Vec<u8>,
    /// What differs from call to call is made of it.
    next: u64,
}

impl Caller for Calls {
    async fn call(&mut self) -> Result<()> {
        self.next += 1;
        let payload = self.payload.clone();
        let frame = Frame::encode(&Message { payload }).map_err(|size| format!("{size} bytes"))?;
        let request = UnaryRequest {
            path: &self.path,
            frame: &frame,
            timeout: Some(std::time::Duration::from_nanos(
                1_000_000_000 - self.next % 100_000_000,
            )),
            previous_attempts: 0,
            repeated: false,
            request_id: &RequestId::Number(self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            trace: Some(TraceParent {
                trace_id: u128::from(self.next) << 64 | u128::from(self.next.wrapping_mul(0x9e37_79b9)),
                span_id: self.next,
                sampled: false,
            }),
            caller: Some(&self.caller),
            target: None,
            implementation: None,
            own: &[],
            metadata: &Metadata::new(),
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let connection = &self.connections[turn % self.connections.len()];
        let reply = Exchange::start(connection.clone(), &request).await?;
        let message = reply.result.map_err(|status| status.message().to_owned())?;
        super::check(&Message::decode(message)?.payload, &self.payload)
    }
}
