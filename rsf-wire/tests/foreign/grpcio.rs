//! gRPC's interop cases against grpcio, whose core is gRPC's own in C.

use std::path::Path;

use prost::Message;
use rsf_testkit::{Process, Program, python};
use rsf_wire::message::unframe;
use rsf_wire::{Client, Literals, Reply, Request};

use crate::testing::{
    EchoStatus, INITIAL, SOON, SimpleRequest, SimpleResponse, TRAILING, connected, framed, payload, served,
};

fn script(name: &str) -> Program {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    Program::new(python())
        .name(name)
        .arg(name)
        .current_dir(folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
}

async fn called_by_grpcio(cases: &[&str]) {
    let address = served().await;
    let client = script("client.py").arg(address.to_string()).args(cases).start();
    let status = client.wait(SOON).await;
    let held = client.stdout();
    assert!(status.success(), "{}", client.log());
    assert_eq!(held.lines().collect::<Vec<_>>(), cases);
}

#[tokio::test]
async fn grpcio_calls_the_engine() {
    called_by_grpcio(&[
        "empty_unary",
        "large_unary",
        "many_at_once",
        "custom_metadata",
        "status_code_and_message",
        "special_status_message",
        "unimplemented_method",
        "unimplemented_service",
        "compressed_unary",
        "cancel_unary",
        "timeout_unary",
        // Once more over what all of these have left behind.
        "empty_unary",
        "large_unary",
    ])
    .await;
}

async fn grpcio_server() -> (Process, Client) {
    let server = script("server.py").start();
    let line = server.line("port ", SOON).await;
    let port = line.rsplit(' ').next().unwrap().trim().parse().unwrap();
    (server, connected(port).await)
}

fn request<'a>(method: &'a str, message: &impl Message, varying: Literals) -> Request<'a> {
    Request {
        path: method,
        constant: &[("user-agent", b"rsf-wire")],
        varying,
        body: framed(message),
    }
}

const UNARY: &str = "/grpc.testing.TestService/UnaryCall";

async fn unary(client: &Client, message: &SimpleRequest) -> Reply {
    client
        .call(request(UNARY, message, Literals::new()))
        .await
        .unwrap()
}

fn response(reply: &Reply) -> SimpleResponse {
    assert_eq!(reply.grpc_status(), Some(0), "{reply:?}");
    let message = unframe(reply.body.as_ref().unwrap()).unwrap().unwrap();
    SimpleResponse::decode(message).unwrap()
}

fn size(reply: &Reply) -> usize {
    response(reply).payload.unwrap().body.len()
}

fn sized(response_size: i32, with: usize) -> SimpleRequest {
    SimpleRequest {
        response_size,
        payload: payload(with),
        response_status: None,
    }
}

#[tokio::test]
async fn the_engine_calls_grpcio() {
    let (_server, client) = grpcio_server().await;
    let empty = "/grpc.testing.TestService/EmptyCall";
    let reply = client.call(request(empty, &(), Literals::new())).await.unwrap();
    assert_eq!(
        (reply.grpc_status(), response(&reply)),
        (Some(0), SimpleResponse::default())
    );

    assert_eq!(size(&unary(&client, &sized(314_159, 271_828)).await), 314_159);

    let mut varying = Literals::new();
    varying.push(INITIAL, b"test_initial_metadata_value").unwrap();
    // Base64 of AB AB AB.
    varying.push(TRAILING, b"q6ur").unwrap();
    let reply = client
        .call(request(UNARY, &sized(10, 10), varying))
        .await
        .unwrap();
    assert_eq!(
        reply.headers.get(INITIAL),
        Some(&b"test_initial_metadata_value"[..])
    );
    assert_eq!(reply.trailers.as_ref().unwrap().get(TRAILING), Some(&b"q6ur"[..]));

    for (text, encoded) in [
        ("test status message", "test status message"),
        (
            "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n",
            "%09%0Atest with whitespace%0D%0Aand Unicode BMP %E2%98%BA and non-BMP %F0%9F%98%88%09%0A",
        ),
    ] {
        let status = EchoStatus {
            code: 2,
            message: text.to_owned(),
        };
        let asks = SimpleRequest {
            response_status: Some(status),
            ..SimpleRequest::default()
        };
        let reply = unary(&client, &asks).await;
        assert_eq!(reply.grpc_status(), Some(2));
        let last = reply.trailers.as_ref().unwrap_or(&reply.headers);
        assert_eq!(last.get("grpc-message"), Some(encoded.as_bytes()));
    }

    for path in [
        "/grpc.testing.TestService/UnimplementedCall",
        "/grpc.testing.UnimplementedService/UnimplementedCall",
    ] {
        let reply = client.call(request(path, &(), Literals::new())).await.unwrap();
        assert_eq!(reply.grpc_status(), Some(12), "{path}");
    }
    assert_eq!(client.pending(), 0);
}

#[tokio::test]
async fn the_engine_gives_calls_to_grpcio_up_and_goes_on() {
    let (server, client) = grpcio_server().await;
    // Cancelled; and run out of time, which grpcio itself watches too.
    let slot = client.send(request(UNARY, &sized(-1, 10), Literals::new()));
    server.line("began", SOON).await;
    client.cancel(slot);
    server.line("abandoned", SOON).await;
    let mut timeout = Literals::new();
    timeout.push("grpc-timeout", b"200m").unwrap();
    let reply = client.call(request(UNARY, &sized(-1, 10), timeout)).await;
    match reply {
        Ok(reply) => assert_eq!(reply.grpc_status(), Some(4), "{reply:?}"),
        Err(error) => assert!(error.reason.contains("reset"), "{error}"),
    }
    let mut calls: Vec<_> = (0..300)
        .map(|i| Some(client.send(request(UNARY, &sized(2_000 + i, 3_000), Literals::new()))))
        .collect();
    // Every third one interests nobody.
    for slot in calls.iter_mut().step_by(3) {
        client.cancel(slot.take().unwrap());
    }
    for (i, slot) in calls.into_iter().enumerate() {
        let Some(slot) = slot else { continue };
        let reply = std::future::poll_fn(|cx| client.poll(slot, cx)).await.unwrap();
        assert_eq!(size(&reply), 2_000 + i);
    }
    assert_eq!(client.pending(), 0);
}
