//! RSF's wire without anything above it: no deadline, no request id, no trace, no balance, no limits, no metrics. What a
//! governed call costs more is the cost of governance.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use prost::Message as _;
use rsf_core::metadata::Metadata;
use rsf_core::status::Status;
use rsf_core::wire::http2::{Http2Wire, ServerOptions};
use rsf_core::wire::{
    Connection, Dispatch, Exchange, Frame, InboundReply, InboundRequest, RequestId, Target, UnaryRequest,
    Wire,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::load::Caller;
use crate::{Error, Result};

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
            let echoed = |message| -> Result<Frame, Status> {
                let message = Message::decode(message).map_err(|e| Status::internal(e.to_string()))?;
                Frame::encode(&message).map_err(|size| Status::internal(format!("{size} bytes")))
            };
            InboundReply {
                result: request.message.and_then(echoed),
                metadata: Metadata::new(),
            }
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

pub(super) async fn serve(listeners: Vec<TcpListener>) -> Result<()> {
    let servers = listeners.into_iter().map(|listener| {
        let drain = CancellationToken::new();
        rsf_core::wire::http2::serve(listener, Arc::new(Echo), ServerOptions::default(), drain)
    });
    futures_util::future::join_all(servers).await;
    Ok(())
}

pub(super) async fn connect(addresses: &[String]) -> Result<impl Caller> {
    let [address] = addresses else {
        return Err(Error::from("the wire alone has one connection"));
    };
    let target = Target {
        address: address.as_str().into(),
        keepalive: true,
    };
    Ok(Calls {
        connection: Http2Wire::new().connect(&target).await?,
        path: http::uri::PathAndQuery::from_static(PATH),
        payload: super::payload(),
    })
}

#[derive(Clone)]
struct Calls {
    connection: Arc<dyn Connection>,
    path: http::uri::PathAndQuery,
    payload: Vec<u8>,
}

impl Caller for Calls {
    async fn call(&mut self) -> Result<()> {
        let payload = self.payload.clone();
        let frame = Frame::encode(&Message { payload }).map_err(|size| format!("{size} bytes"))?;
        let request = UnaryRequest {
            path: self.path.clone(),
            frame,
            timeout: None,
            previous_attempts: 0,
            request_id: RequestId::Number(1),
            trace: None,
            caller: None,
            target: None,
            implementation: None,
            own: Vec::new(),
            metadata: Metadata::new(),
        };
        let reply = Exchange::start(self.connection.clone(), request).await?;
        let message = reply.result.map_err(|status| status.message().to_owned())?;
        super::check(&Message::decode(message)?.payload)
    }
}
