//! `grpc.testing.TestService` on the engine, and its messages as far as the interop cases use them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rsf_wire::message::{frame, unframe};
use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Handler, Headers, Limits, Literals, Response, serve};
use tokio::net::{TcpListener, TcpStream};

/// How long a peer may take for a step.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) const INITIAL: &str = "x-grpc-test-echo-initial";
pub(crate) const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Payload {
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EchoStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SimpleRequest {
    #[prost(int32, tag = "2")]
    pub(crate) response_size: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) payload: Option<Payload>,
    #[prost(message, optional, tag = "7")]
    pub(crate) response_status: Option<EchoStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SimpleResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) payload: Option<Payload>,
}

pub(crate) fn payload(size: usize) -> Option<Payload> {
    let body = Bytes::from(vec![0; size]);
    Some(Payload { body })
}

/// A message with gRPC's prefix.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    frame(&message.encode_to_vec()).unwrap()
}

/// The service; a request for less than nothing is never answered.
struct TestService;

impl Handler for TestService {
    fn call(&self, call: Call) -> Option<Handling> {
        let method = call.path().strip_prefix("/grpc.testing.TestService/")?;
        match method {
            "EmptyCall" => Some(Box::pin(std::future::ready(Response::ok(framed(&()))))),
            "UnaryCall" => Some(Box::pin(unary(call))),
            _ => None,
        }
    }
}

async fn unary(call: Call) -> Response {
    let message = match call.body.and_then(|body| unframe(&body)) {
        Ok(message) => message.unwrap_or_default(),
        Err(error @ rsf_wire::message::MessageError::Compressed) => {
            return Response::status(12, &error.to_string());
        }
        Err(error) => return Response::status(13, &error.to_string()),
    };
    let request = match SimpleRequest::decode(message) {
        Ok(request) => request,
        Err(error) => return Response::status(13, &error.to_string()),
    };
    if let Some(status) = request.response_status.filter(|status| status.code != 0) {
        return Response::status(status.code as u32, &status.message);
    }
    let Ok(size) = usize::try_from(request.response_size) else {
        return std::future::pending().await;
    };
    let response = SimpleResponse {
        payload: payload(size),
    };
    Response::Message {
        headers: echo(&call.headers, INITIAL, Literals::new()),
        body: framed(&response),
        trailers: Some(echo(&call.headers, TRAILING, ok())),
    }
}

fn ok() -> Literals {
    let mut trailers = Literals::new();
    trailers.push("grpc-status", b"0").unwrap();
    trailers
}

fn echo(headers: &Headers, name: &str, mut fields: Literals) -> Literals {
    if let Some(value) = headers.get(name) {
        fields.push(name, value).unwrap();
    }
    fields
}

/// Serves on a port of its own until the test ends.
pub(crate) async fn served() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let never = std::future::pending();
                // How a peer ends its connection is its own affair here.
                let _ = serve(stream, Arc::new(TestService), Limits::default(), never).await;
            });
        }
    });
    address
}

/// A client of the engine's, connected.
pub(crate) async fn connected(port: u16) -> Client {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = Client::new(stream, "localhost", Limits::default(), |_| {});
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}
