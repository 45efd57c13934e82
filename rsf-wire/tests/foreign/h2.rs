//! The h2 crate, which most of Rust speaks: both ways, with windows, frames and tables of odd sizes.

use bytes::Bytes;
use prost::Message;
use rsf_wire::{Literals, Request};
use tokio::net::{TcpListener, TcpStream};

use crate::testing::{SimpleRequest, SimpleResponse, connected, framed, payload, served};

const UNARY: &str = "/grpc.testing.TestService/UnaryCall";

fn asks(size: i32, with: usize) -> Bytes {
    framed(&SimpleRequest {
        response_size: size,
        payload: payload(with),
        response_status: None,
    })
}

fn answered(body: &[u8]) -> usize {
    let response = SimpleResponse::decode(&body[5..]).unwrap();
    response.payload.map_or(0, |payload| payload.body.len())
}

/// Sends a body as the peer's window lets it.
async fn send(mut stream: h2::SendStream<Bytes>, mut body: Bytes, trailers: Option<http::HeaderMap>) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.expect("the stream lives").unwrap();
        let last = room >= body.len() && trailers.is_none();
        stream
            .send_data(body.split_to(room.min(body.len())), last)
            .unwrap();
    }
    if let Some(trailers) = trailers {
        stream.send_trailers(trailers).unwrap();
    }
}

/// Reads a body, giving its window back piece by piece.
async fn read(stream: &mut h2::RecvStream) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        body.extend_from_slice(&piece);
    }
    body
}

#[tokio::test]
async fn h2_calls_the_engine() {
    let address = served().await;
    for (window, table, frame) in [
        (65_535, 4_096, 16_384),
        (1, 0, 16_384),
        (1_000, 100, 1 << 20),
        (1 << 30, 1 << 16, 1 << 23),
    ] {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(window)
            .header_table_size(table)
            .max_frame_size(frame);
        let (client, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let size = if window == 1 { 50 } else { 100_000 };
        let mut calls = Vec::new();
        for i in 0..8 {
            let request = http::Request::post(format!("http://test{UNARY}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                // What moves the table with every call.
                .header("x-request", format!("number {i}"))
                .body(())
                .unwrap();
            client = client.ready().await.unwrap();
            let (reply, outgoing) = client.send_request(request, false).unwrap();
            calls.push(tokio::spawn(async move {
                send(outgoing, asks(size + i, 200_000), None).await;
                let mut reply = reply.await.unwrap().into_body();
                assert_eq!(answered(&read(&mut reply).await), (size + i) as usize);
                let trailers = reply.trailers().await.unwrap().expect("trailers");
                assert_eq!(trailers["grpc-status"], "0");
            }));
        }
        for call in calls {
            call.await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_engine_calls_h2() {
    for (window, table, streams) in [
        (65_535, 4_096, 100),
        (1, 0, 100),
        (500, 50, 1),
        (1 << 30, 1 << 16, 3),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut builder = h2::server::Builder::new();
            builder
                .initial_window_size(window)
                .header_table_size(table)
                .max_concurrent_streams(streams);
            let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    assert_eq!(request.uri().path(), UNARY);
                    assert_eq!(request.headers()["te"], "trailers");
                    let body = read(&mut request.into_body()).await;
                    let asked = SimpleRequest::decode(&body[5..]).unwrap();
                    let response = http::Response::builder().header("content-type", "application/grpc");
                    let stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                    let answer = framed(&SimpleResponse {
                        payload: payload(asked.response_size as usize),
                    });
                    let trailers =
                        [("grpc-status", "0")].map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
                    send(stream, answer, Some(trailers.into_iter().collect())).await;
                });
            }
        });
        let client = std::sync::Arc::new(connected(port).await);
        let with = if window == 1 { 40 } else { 200_000 };
        // Until its SETTINGS came a peer is taken to admit 100 streams; what is over its real limit it refuses.
        let first = Request {
            path: UNARY,
            constant: &[],
            varying: Literals::new(),
            body: asks(1, 1),
        };
        client.call(first).await.unwrap();
        let mut calls = Vec::new();
        for i in 0..20 {
            let client = client.clone();
            calls.push(tokio::spawn(async move {
                let mut varying = Literals::new();
                varying
                    .push("x-request", format!("number {i}").as_bytes())
                    .unwrap();
                let request = Request {
                    path: UNARY,
                    constant: &[("user-agent", b"rsf-wire")],
                    varying,
                    body: asks(100_000 + i, with),
                };
                let reply = client.call(request).await.unwrap();
                assert_eq!(answered(&reply.body.unwrap()), (100_000 + i) as usize);
                assert_eq!(reply.trailers.unwrap().get("grpc-status"), Some(&b"0"[..]));
            }));
        }
        for call in calls {
            call.await.unwrap();
        }
    }
}
