//! `grpc.testing.TestService` on the engine, and its messages as far as the interop cases use them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use rsf_wire::compression::{self, Encoding};
use rsf_wire::message::{MessageError, frame};
use rsf_wire::server::{Handling, Serving};
use rsf_wire::{
    Call, Client, Handler, Headers, Incoming, Limits, Literals, Response, Route, StreamingCall, serve,
};
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

/// `StreamingInputCallRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InputRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) payload: Option<Payload>,
}

/// `StreamingInputCallResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InputResponse {
    #[prost(int32, tag = "1")]
    pub(crate) aggregated_payload_size: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResponseParameters {
    #[prost(int32, tag = "1")]
    pub(crate) size: i32,
}

/// `StreamingOutputCallRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamingRequest {
    #[prost(message, repeated, tag = "2")]
    pub(crate) response_parameters: Vec<ResponseParameters>,
    #[prost(message, optional, tag = "3")]
    pub(crate) payload: Option<Payload>,
    #[prost(message, optional, tag = "7")]
    pub(crate) response_status: Option<EchoStatus>,
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
    fn route(&self, headers: &Headers) -> Route {
        let path = headers.get(":path").unwrap_or_default();
        match path.ends_with(b"StreamingOutputCall")
            || path.ends_with(b"StreamingInputCall")
            || path.ends_with(b"FullDuplexCall")
        {
            true => Route::Streaming,
            false => Route::Unary(0),
        }
    }

    fn stream(&self, call: StreamingCall) -> Serving {
        Box::pin(streaming(call))
    }

    fn call(&self, call: Call) -> Option<Handling> {
        let method = call.path().strip_prefix("/grpc.testing.TestService/")?;
        match method {
            "EmptyCall" => Some(Box::pin(std::future::ready(Response::ok(framed(&()))))),
            "UnaryCall" => Some(Box::pin(unary(call))),
            _ => None,
        }
    }
}

/// What `grpc-timeout` says.
fn timeout(text: &[u8]) -> Duration {
    let (number, unit) = std::str::from_utf8(text).unwrap().split_at(text.len() - 1);
    let nanos = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        _ => 1,
    };
    Duration::from_nanos(number.parse::<u64>().unwrap() * nanos)
}

/// Answers each request of a stream with what it asks for; `StreamingInputCall` counts them.
async fn streaming(call: StreamingCall) {
    let counts = call
        .headers
        .get(":path")
        .unwrap_or_default()
        .ends_with(b"StreamingInputCall");
    // The engine leaves time to its handlers.
    let time = call.headers.get("grpc-timeout").map_or(SOON, timeout);
    let deadline = tokio::time::Instant::now() + time;
    let mut requests = Messages::of(call.body);
    let mut replies = call.answer.grpc(Literals::new());
    let mut size = 0;
    loop {
        let message = match tokio::time::timeout_at(deadline, requests.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(_) => {
                let mut late = Literals::new();
                late.push("grpc-status", b"4").unwrap();
                return replies.finish(late);
            }
        };
        if counts {
            let request = InputRequest::decode(message).unwrap();
            size += request.payload.map_or(0, |payload| payload.body.len());
            continue;
        }
        let request = StreamingRequest::decode(message).unwrap();
        if let Some(status) = request.response_status.filter(|status| status.code != 0) {
            let Response::Status(trailers) = Response::status(status.code as u32, &status.message) else {
                return;
            };
            return replies.finish(trailers);
        }
        for wanted in request.response_parameters {
            let response = SimpleResponse {
                payload: payload(wanted.size as usize),
            };
            if std::future::poll_fn(|cx| replies.poll_room(cx)).await.is_err() {
                return;
            }
            replies.send(framed(&response), false);
        }
    }
    if counts {
        let total = InputResponse {
            aggregated_payload_size: size as i32,
        };
        replies.send(framed(&total), false);
    }
    replies.finish(ok());
}

/// The messages of a body, however its pieces fall.
pub(crate) struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    pub(crate) fn of(body: Incoming) -> Self {
        Messages {
            body,
            buffer: BytesMut::new(),
        }
    }

    /// The next message; `None` at the end, or where the stream broke.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(&[_, a, b, c, d]) = self.buffer.first_chunk::<5>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if self.buffer.len() >= 5 + length {
                    return Some(self.buffer.split_to(5 + length).freeze().slice(5..));
                }
            }
            let piece = std::future::poll_fn(|cx| self.body.poll_data(cx)).await?.ok()?;
            self.buffer.extend_from_slice(&piece);
        }
    }

    /// The body, read to its end.
    pub(crate) fn into_body(self) -> Incoming {
        self.body
    }
}

async fn unary(call: Call) -> Response {
    let encoding = call.headers.get("grpc-encoding");
    let message = match call
        .body
        .and_then(|body| compression::read(&body, encoding, 4 << 20))
    {
        Ok(message) => message.unwrap_or_default(),
        Err(error @ MessageError::UnknownEncoding { .. }) => {
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
    let mut headers = echo(&call.headers, INITIAL, Literals::new());
    let mut body = framed(&response);
    // Who compresses and accepts it gets the same back.
    let accepted = call.headers.get("grpc-accept-encoding").unwrap_or_default();
    if let Ok(encoding) = Encoding::of(encoding)
        && encoding.is_accepted(accepted)
        && let Some(compressed) = compression::compress(&body, encoding)
    {
        headers.push("grpc-encoding", encoding.name().as_bytes()).unwrap();
        body = compressed;
    }
    Response::Message {
        headers,
        body,
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
