//! gRPC's interop cases against grpcio, whose core is gRPC's own in C.

use std::path::Path;

use prost::Message;
use rsf_testkit::{Process, Program, python};
use rsf_wire::message::unframe;
use rsf_wire::{Client, Head, Headers, Incoming, Literals, Outgoing, Reply, Request};

use crate::testing::{
    EchoStatus, INITIAL, InputRequest, InputResponse, Messages, ResponseParameters, SOON, SimpleRequest,
    SimpleResponse, StreamingRequest, TRAILING, connected, framed, payload, served,
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
        "client_streaming",
        "server_streaming",
        "ping_pong",
        "empty_stream",
        "cancel_after_begin",
        "cancel_after_first_response",
        "timeout_on_sleeping_server",
        "status_of_a_stream",
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

const FOLDER: &str = "/grpc.testing.TestService";
const STREAM_SIZES: [i32; 4] = [31_415, 9, 2_653, 58_979];
const INPUT_SIZES: [usize; 4] = [27_182, 8, 1_828, 45_904];

fn open(client: &Client, path: &str) -> (Outgoing, Incoming) {
    let head = Head {
        method: "POST",
        path,
        authority: None,
        grpc: true,
        fields: Literals::new(),
    };
    let opened = client.open(head, false);
    (opened.outgoing, opened.incoming)
}

async fn say(outgoing: &mut Outgoing, message: &impl Message) {
    std::future::poll_fn(|cx| outgoing.poll_room(cx)).await.unwrap();
    outgoing.send(framed(message), false);
}

fn wants(sizes: &[i32], with: usize) -> StreamingRequest {
    StreamingRequest {
        response_parameters: sizes
            .iter()
            .map(|size| ResponseParameters { size: *size })
            .collect(),
        payload: payload(with),
        response_status: None,
    }
}

async fn head(incoming: &mut Incoming) -> Headers {
    let headers = std::future::poll_fn(|cx| incoming.poll_head(cx)).await.unwrap();
    assert_eq!(headers.get(":status"), Some(&b"200"[..]));
    headers
}

async fn came(messages: &mut Messages) -> usize {
    let message = messages.next().await.expect("a message");
    SimpleResponse::decode(message)
        .unwrap()
        .payload
        .unwrap()
        .body
        .len()
}

/// Reads on to the end, where the status stands.
async fn ended(mut messages: Messages) -> Option<Vec<u8>> {
    assert_eq!(messages.next().await, None);
    let trailers = messages.into_body().take_trailers();
    trailers.and_then(|trailers| trailers.get("grpc-status").map(<[u8]>::to_vec))
}

#[tokio::test]
async fn the_engine_streams_with_grpcio() {
    let (_server, client) = grpcio_server().await;
    let ok = Some(b"0".to_vec());

    // client_streaming
    let (mut outgoing, mut incoming) = open(&client, &format!("{FOLDER}/StreamingInputCall"));
    for size in INPUT_SIZES {
        say(
            &mut outgoing,
            &InputRequest {
                payload: payload(size),
            },
        )
        .await;
    }
    outgoing.send(bytes::Bytes::new(), true);
    head(&mut incoming).await;
    let mut replies = Messages::of(incoming);
    let total = InputResponse::decode(replies.next().await.unwrap()).unwrap();
    assert_eq!(
        total.aggregated_payload_size as usize,
        INPUT_SIZES.iter().sum::<usize>()
    );
    assert_eq!(ended(replies).await, ok);

    // server_streaming
    let (mut outgoing, mut incoming) = open(&client, &format!("{FOLDER}/StreamingOutputCall"));
    say(&mut outgoing, &wants(&STREAM_SIZES, 0)).await;
    outgoing.send(bytes::Bytes::new(), true);
    head(&mut incoming).await;
    let mut replies = Messages::of(incoming);
    for size in STREAM_SIZES {
        assert_eq!(came(&mut replies).await, size as usize);
    }
    assert_eq!(ended(replies).await, ok);

    // ping_pong
    let (mut outgoing, mut incoming) = open(&client, &format!("{FOLDER}/FullDuplexCall"));
    say(&mut outgoing, &wants(&STREAM_SIZES[..1], INPUT_SIZES[0])).await;
    head(&mut incoming).await;
    let mut replies = Messages::of(incoming);
    assert_eq!(came(&mut replies).await, STREAM_SIZES[0] as usize);
    for i in 1..4 {
        say(&mut outgoing, &wants(&STREAM_SIZES[i..=i], INPUT_SIZES[i])).await;
        assert_eq!(came(&mut replies).await, STREAM_SIZES[i] as usize);
    }
    outgoing.send(bytes::Bytes::new(), true);
    assert_eq!(ended(replies).await, ok);

    // empty_stream: its status stands in the headers, for nothing else comes.
    let (mut outgoing, mut incoming) = open(&client, &format!("{FOLDER}/FullDuplexCall"));
    outgoing.send(bytes::Bytes::new(), true);
    let headers = head(&mut incoming).await;
    assert_eq!(headers.get("grpc-status"), Some(&b"0"[..]), "{headers:?}");
    assert_eq!(ended(Messages::of(incoming)).await, None);

    // cancel_after_begin, cancel_after_first_response
    drop(open(&client, &format!("{FOLDER}/StreamingInputCall")));
    let (mut outgoing, mut incoming) = open(&client, &format!("{FOLDER}/FullDuplexCall"));
    say(&mut outgoing, &wants(&STREAM_SIZES[..1], INPUT_SIZES[0])).await;
    head(&mut incoming).await;
    let mut replies = Messages::of(incoming);
    assert_eq!(came(&mut replies).await, STREAM_SIZES[0] as usize);
    drop((outgoing, replies));

    // The connection has taken no harm.
    assert_eq!(size(&unary(&client, &sized(100, 0)).await), 100);
}
