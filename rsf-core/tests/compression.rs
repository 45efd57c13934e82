//! Compressed unary messages: the same over every wire, in all pairs of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use rsf_core::message::Response;
use rsf_core::metadata::Metadata;
use rsf_core::status::{Code, Status};
use rsf_core::wire::engine::{self, EngineWire};
use rsf_core::wire::http2::{self, Http2Wire, ServerOptions};
use rsf_core::wire::{
    Compression, Connection, Dispatch, Encoding, Exchange, Frame, InboundReply, InboundRequest, RequestId,
    Target, UnaryReply, UnaryRequest, Wire,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const PATH: &str = "/test.v1.Echo/Echo";
const LIMIT: usize = 1 << 20;

/// What it takes to admit a call that says so.
const ADMISSION: Duration = Duration::from_millis(60);

/// Echoes messages.
#[derive(Default)]
struct Echo {
    admitted: AtomicUsize,
    /// The time that was left of the last call, where it had any, and whether its message was there.
    told: Mutex<Option<(Option<Duration>, bool)>>,
}

impl Dispatch for Echo {
    fn method(&self, path: &str, _implementation: &str) -> Option<usize> {
        (path == PATH).then_some(0)
    }

    fn admit(
        &self,
        _method: usize,
        metadata: &Metadata,
        _peer: Option<&rsf_core::identity::Peer>,
    ) -> Result<(), Status> {
        self.admitted.fetch_add(1, Ordering::SeqCst);
        if metadata.get("admitted-late").is_some() {
            // Nobody ever says anything.
            let (_silent, hears) = std::sync::mpsc::channel::<()>();
            let _ = hears.recv_timeout(ADMISSION);
        }
        match metadata.get("stranger") {
            None => Ok(()),
            Some(_) => Err(Status::permission_denied("not you")),
        }
    }

    fn unary(&self, _method: usize, request: InboundRequest) -> BoxFuture<'static, InboundReply> {
        *self.told.lock() = Some((request.timeout, request.message.is_ok()));
        Box::pin(async move {
            let message = request.message?;
            Ok(Response::new(Frame::from_message(&message).unwrap()))
        })
    }

    fn http(
        &self,
        _request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, http::Response<tonic::body::Body>> {
        Box::pin(std::future::ready(
            tonic::Status::unimplemented("not here").into_http(),
        ))
    }

    fn max_message_bytes(&self) -> usize {
        LIMIT
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Http2,
    Engine,
}

const PAIRS: [(Kind, Kind); 4] = [
    (Kind::Engine, Kind::Engine),
    (Kind::Engine, Kind::Http2),
    (Kind::Http2, Kind::Engine),
    (Kind::Http2, Kind::Http2),
];

/// A connection of one wire to a server of another, both with their compression.
async fn line(
    (client, server): (Kind, Kind),
    requests: Option<Encoding>,
    replies: Option<Encoding>,
) -> (Arc<dyn Connection>, Arc<Echo>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (echo, drain) = (Arc::new(Echo::default()), CancellationToken::new());
    let dispatch: Arc<dyn Dispatch> = echo.clone();
    let options = ServerOptions {
        compression: replies.map(Compression::new),
        ..ServerOptions::default()
    };
    match server {
        Kind::Http2 => tokio::spawn(http2::serve(listener, dispatch, options, drain)),
        Kind::Engine => tokio::spawn(engine::serve(listener, dispatch, options, drain)),
    };
    let wire: Box<dyn Wire> = match (client, requests.map(Compression::new)) {
        (Kind::Http2, None) => Box::new(Http2Wire::new()),
        (Kind::Http2, Some(how)) => Box::new(Http2Wire::new().with_compression(how)),
        (Kind::Engine, None) => Box::new(EngineWire::new()),
        (Kind::Engine, Some(how)) => Box::new(EngineWire::new().with_compression(how)),
    };
    let target = Target {
        address: address.into(),
        keepalive: None,
    };
    (soon(wire.connect(&target)).await.unwrap(), echo)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, future).await.expect("in time")
}

async fn echoed(connection: &Arc<dyn Connection>, message: &[u8]) -> UnaryReply {
    let path = http::uri::PathAndQuery::from_static(PATH);
    let request = UnaryRequest {
        path: &path,
        frame: &Frame::from_message(message).unwrap(),
        timeout: None,
        previous_attempts: 0,
        repeated: false,
        request_id: &RequestId::Number(7),
        trace: None,
        caller: None,
        target: None,
        implementation: None,
        own: &[],
        metadata: &Metadata::new(),
    };
    soon(Exchange::start(connection.clone(), &request)).await.unwrap()
}

fn text(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| b"all work and no play "[i % 21]).collect()
}

#[tokio::test]
async fn messages_are_compressed_both_ways_where_both_ends_want_it() {
    for pair in PAIRS {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let (connection, echo) = line(pair, Some(encoding), Some(encoding)).await;
            for (bytes, compressed) in [(100, false), (4096, true), (900_000, true)] {
                let reply = echoed(&connection, &text(bytes)).await;
                assert_eq!(reply.result.unwrap(), text(bytes), "{pair:?}");
                let named = reply.metadata.get("grpc-encoding");
                assert_eq!(named, compressed.then_some(encoding.name()), "{pair:?} {bytes}");
            }
            assert!(echo.admitted.load(Ordering::SeqCst) >= 2);
            // Its replies are compressed by another encoding than its requests.
            let (connection, _) = line(pair, Some(encoding), Some(Encoding::Gzip)).await;
            let reply = echoed(&connection, &text(9000)).await;
            assert_eq!(reply.result.unwrap(), text(9000));
            assert_eq!(reply.metadata.get("grpc-encoding"), Some("gzip"));
        }
        // Who does not say that it accepts them gets none.
        let (connection, _) = line(pair, None, Some(Encoding::Gzip)).await;
        let reply = echoed(&connection, &text(9000)).await;
        assert_eq!(reply.result.unwrap(), text(9000));
        assert_eq!(reply.metadata.get("grpc-encoding"), None, "{pair:?}");
    }
}

/// Sends a body of a consumer's own making; the status that comes back, and what encodings the answer names.
async fn answered(
    pair: (Kind, Kind),
    body: Bytes,
    fields: &[(&'static str, &str)],
) -> (Code, String, String) {
    let (connection, _) = line(pair, None, None).await;
    answered_over(&connection, body, fields).await
}

async fn answered_over(
    connection: &Arc<dyn Connection>,
    body: Bytes,
    fields: &[(&'static str, &str)],
) -> (Code, String, String) {
    let mut request = http::Request::post(PATH)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let body = tonic::body::Body::new(Full::new(body));
    let response = soon(connection.http(request.body(body).unwrap())).await.unwrap();
    let (parts, body) = response.into_parts();
    let rest = soon(body.collect()).await.unwrap();
    let trailers = rest.trailers().cloned().unwrap_or_default();
    let field = |name| {
        let value = trailers.get(name).or_else(|| parts.headers.get(name));
        value
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    let code = field("grpc-status").parse().unwrap();
    (
        Code::from_number(code),
        field("grpc-message"),
        field("grpc-accept-encoding"),
    )
}

fn marked(flag: u8, message: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(flag);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    body.freeze()
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    use rsf_wire::compression::compress;
    let frame = |bytes: Vec<u8>| Frame::from_message(&bytes).unwrap().bytes().clone();
    let good = compress(&frame(text(9000)), Encoding::Zstd).unwrap();
    let bomb = compress(&frame(vec![0; 64 << 20]), Encoding::Zstd).unwrap();
    let zstd = ("grpc-encoding", "zstd");
    for pair in PAIRS {
        assert_eq!(
            answered(pair, good.clone(), &[zstd]).await.0,
            Code::Ok,
            "{pair:?}"
        );
        let (code, message, accepted) = answered(pair, good.clone(), &[("grpc-encoding", "snappy")]).await;
        assert_eq!(
            (code, &*accepted),
            (Code::Unimplemented, "identity,gzip,zstd"),
            "{pair:?}"
        );
        assert!(message.contains("snappy"), "{message}");
        for none in [&[][..], &[("grpc-encoding", "identity")]] {
            assert_eq!(
                answered(pair, good.clone(), none).await.0,
                Code::Internal,
                "{pair:?}"
            );
        }
        let broken = marked(1, b"no zstd at all");
        assert_eq!(
            answered(pair, broken, &[zstd]).await.0,
            Code::Internal,
            "{pair:?}"
        );
        let plain = answered(pair, marked(0, b"plain"), &[("grpc-encoding", "snappy")]).await;
        assert_eq!(plain.0, Code::Ok, "{pair:?}");
        let (code, message, _) = answered(pair, bomb.clone(), &[zstd]).await;
        assert_eq!(code, Code::ResourceExhausted, "{pair:?}");
        assert!(message.contains("1048576"), "{message}");
        let stranger = [zstd, ("stranger", "yes")];
        assert_eq!(
            answered(pair, bomb.clone(), &stranger).await.0,
            Code::PermissionDenied
        );
    }
}

/// What a server does with a message before the handler is the call's own time.
#[tokio::test]
async fn a_compressed_calls_time_runs_from_its_arrival() {
    use rsf_wire::compression::compress;
    let message = Frame::from_message(&text(9000)).unwrap();
    let body = compress(message.bytes(), Encoding::Zstd).unwrap();
    for pair in PAIRS {
        let (connection, echo) = line(pair, None, None).await;
        for (timeout, whole) in [("10S", true), ("20m", false)] {
            let fields = [
                ("grpc-encoding", "zstd"),
                ("grpc-timeout", timeout),
                ("admitted-late", "yes"),
            ];
            answered_over(&connection, body.clone(), &fields).await;
            let Some((Some(left), came)) = echo.told.lock().take() else {
                // The wire itself may have said that the time is over.
                assert!(!whole, "{pair:?}");
                continue;
            };
            assert!(left <= Duration::from_secs(10) - ADMISSION, "{pair:?} {left:?}");
            assert_eq!((left.is_zero(), came), (!whole, whole), "{pair:?}");
        }
    }
}
