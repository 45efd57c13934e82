//! gRPC's interop cases by the engine's client, against whatever server speaks them; and their names, for foreign clients.

use bytes::Bytes;
use prost::Message;
use rsf_wire::compression::{self, Encoding};
use rsf_wire::message::unframe;
use rsf_wire::{Client, Head, Headers, Incoming, Literals, Outgoing, Reply, Request};

use crate::testing::{
    EchoStatus, INITIAL, InputRequest, InputResponse, Messages, ResponseParameters, SimpleRequest,
    SimpleResponse, StreamingRequest, TRAILING, framed, payload,
};

/// What foreign clients call, one case after the other over one connection.
pub(crate) const CASES: [&str; 20] = [
    "empty_unary",
    "large_unary",
    "many_at_once",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
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
];

/// Bytes of the messages of streams, as gRPC's document has them.
pub(crate) const STREAM_SIZES: [i32; 4] = [31_415, 9, 2_653, 58_979];
pub(crate) const INPUT_SIZES: [usize; 4] = [27_182, 8, 1_828, 45_904];

/// `special_status_message`.
pub(crate) const SPECIAL: &str = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";

const FOLDER: &str = "/grpc.testing.TestService";
const UNARY: &str = "/grpc.testing.TestService/UnaryCall";

fn request<'a>(method: &'a str, message: &impl Message, varying: Literals) -> Request<'a> {
    Request {
        path: method,
        constant: &[("user-agent", b"rsf-wire")],
        varying,
        body: framed(message),
    }
}

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

/// A compressed request, and a reply that is compressed in return.
pub(crate) async fn compressed_case(client: &Client) {
    let mut varying = Literals::new();
    varying.push("grpc-encoding", b"gzip").unwrap();
    varying
        .push("grpc-accept-encoding", compression::ACCEPTED.as_bytes())
        .unwrap();
    let mut asks = request(UNARY, &sized(30_000, 20_000), varying);
    asks.body = compression::compress(&asks.body, Encoding::Gzip).unwrap();
    assert!(asks.body.len() < 1_000);
    let reply = client.call(asks).await.unwrap();
    assert_eq!(reply.grpc_status(), Some(0), "{reply:?}");
    assert_eq!(reply.headers.get("grpc-encoding"), Some(&b"gzip"[..]));
    let body = reply.body.unwrap();
    assert!(body.len() < 1_000 && body[0] == 1);
    let message = compression::read(&body, Some(b"gzip"), 1 << 20).unwrap().unwrap();
    let response = SimpleResponse::decode(message).unwrap();
    assert_eq!(response.payload.unwrap().body.len(), 30_000);
}

/// The cases with one request and one reply.
pub(crate) async fn unary_cases(client: &Client) {
    let empty = "/grpc.testing.TestService/EmptyCall";
    let reply = client.call(request(empty, &(), Literals::new())).await.unwrap();
    assert_eq!(
        (reply.grpc_status(), response(&reply)),
        (Some(0), SimpleResponse::default())
    );

    assert_eq!(size(&unary(client, &sized(314_159, 271_828)).await), 314_159);

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

    for text in ["test status message", SPECIAL] {
        let status = EchoStatus {
            code: 2,
            message: text.to_owned(),
        };
        let asks = SimpleRequest {
            response_status: Some(status),
            ..SimpleRequest::default()
        };
        let reply = unary(client, &asks).await;
        assert_eq!(reply.grpc_status(), Some(2));
        let last = reply.trailers.as_ref().unwrap_or(&reply.headers);
        assert_eq!(decoded(last.get("grpc-message").unwrap()), text);
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

/// What percent-encoding stands for; which characters beyond the necessary are encoded is each peer's affair.
fn decoded(text: &[u8]) -> String {
    let (mut out, mut rest) = (Vec::new(), text);
    while let [byte, after @ ..] = rest {
        rest = after;
        let [high, low, behind @ ..] = after else {
            out.push(*byte);
            continue;
        };
        match (byte, std::str::from_utf8(&[*high, *low])) {
            (b'%', Ok(digits)) => {
                out.push(u8::from_str_radix(digits, 16).unwrap());
                rest = behind;
            }
            _ => out.push(*byte),
        }
    }
    String::from_utf8(out).unwrap()
}

/// What servers see differently.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// The status of a call whose time is up.
    pub(crate) late: u32,
    /// Whether they watch the time of a stream too.
    pub(crate) late_streams: bool,
    /// Of so many calls at once one may be given up.
    pub(crate) patience: usize,
}

/// gRPC's own.
pub(crate) const USUAL: Habits = Habits {
    late: 4,
    late_streams: true,
    patience: 3,
};

/// Calls that are cancelled, or run out of time. The server is to say `began` and `abandoned` of a request for less than
/// nothing, which it does not answer.
pub(crate) async fn given_up_cases(client: &Client, habits: Habits, mut says: impl AsyncFnMut(&'static str)) {
    // Cancelled; and run out of time, which the peer may watch too.
    let slot = client.send(request(UNARY, &sized(-1, 10), Literals::new()));
    says("began").await;
    client.cancel(slot);
    says("abandoned").await;
    let mut timeout = Literals::new();
    timeout.push("grpc-timeout", b"200m").unwrap();
    let reply = client.call(request(UNARY, &sized(-1, 10), timeout)).await;
    match reply {
        Ok(reply) => assert_eq!(reply.grpc_status(), Some(habits.late), "{reply:?}"),
        Err(error) => assert!(error.reason.contains("reset"), "{error}"),
    }
    let mut calls: Vec<_> = (0..300)
        .map(|i| Some(client.send(request(UNARY, &sized(2_000 + i, 3_000), Literals::new()))))
        .collect();
    // Some of them interest nobody.
    for slot in calls.iter_mut().step_by(habits.patience) {
        client.cancel(slot.take().unwrap());
    }
    for (i, slot) in calls.into_iter().enumerate() {
        let Some(slot) = slot else { continue };
        let reply = std::future::poll_fn(|cx| client.poll(slot, cx)).await.unwrap();
        assert_eq!(size(&reply), 2_000 + i);
    }
    assert_eq!(client.pending(), 0);
}

fn open(client: &Client, method: &str, fields: Literals) -> (Outgoing, Incoming) {
    let head = Head {
        method: "POST",
        path: &format!("{FOLDER}/{method}"),
        authority: None,
        grpc: true,
        fields,
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

/// The cases with streams.
pub(crate) async fn streaming_cases(client: &Client, habits: Habits) {
    let ok = Some(b"0".to_vec());
    let open = |method| open(client, method, Literals::new());

    // client_streaming
    let (mut outgoing, mut incoming) = open("StreamingInputCall");
    for size in INPUT_SIZES {
        let payload = payload(size);
        say(&mut outgoing, &InputRequest { payload }).await;
    }
    outgoing.send(Bytes::new(), true);
    head(&mut incoming).await;
    let mut replies = Messages::of(incoming);
    let total = InputResponse::decode(replies.next().await.unwrap()).unwrap();
    assert_eq!(
        total.aggregated_payload_size as usize,
        INPUT_SIZES.iter().sum::<usize>()
    );
    assert_eq!(ended(replies).await, ok);

    // server_streaming
    let (mut outgoing, mut incoming) = open("StreamingOutputCall");
    say(&mut outgoing, &wants(&STREAM_SIZES, 0)).await;
    outgoing.send(Bytes::new(), true);
    head(&mut incoming).await;
    let mut replies = Messages::of(incoming);
    for size in STREAM_SIZES {
        assert_eq!(came(&mut replies).await, size as usize);
    }
    assert_eq!(ended(replies).await, ok);

    // ping_pong
    let (mut outgoing, mut incoming) = open("FullDuplexCall");
    say(&mut outgoing, &wants(&STREAM_SIZES[..1], INPUT_SIZES[0])).await;
    head(&mut incoming).await;
    let mut replies = Messages::of(incoming);
    assert_eq!(came(&mut replies).await, STREAM_SIZES[0] as usize);
    for i in 1..4 {
        say(&mut outgoing, &wants(&STREAM_SIZES[i..=i], INPUT_SIZES[i])).await;
        assert_eq!(came(&mut replies).await, STREAM_SIZES[i] as usize);
    }
    outgoing.send(Bytes::new(), true);
    assert_eq!(ended(replies).await, ok);

    // empty_stream: where nothing else comes its status may stand in the headers.
    let (mut outgoing, mut incoming) = open("FullDuplexCall");
    outgoing.send(Bytes::new(), true);
    let headers = head(&mut incoming).await;
    let at_once = headers.get("grpc-status").map(<[u8]>::to_vec);
    assert_eq!(ended(Messages::of(incoming)).await.or(at_once), ok, "{headers:?}");

    // cancel_after_begin, cancel_after_first_response
    drop(open("StreamingInputCall"));
    let (mut outgoing, mut incoming) = open("FullDuplexCall");
    say(&mut outgoing, &wants(&STREAM_SIZES[..1], INPUT_SIZES[0])).await;
    head(&mut incoming).await;
    let mut replies = Messages::of(incoming);
    assert_eq!(came(&mut replies).await, STREAM_SIZES[0] as usize);
    drop((outgoing, replies));

    status_of_a_stream(client).await;
    if habits.late_streams {
        timeout_on_sleeping_server(client, habits.late).await;
    }

    // The connection has taken no harm.
    assert_eq!(size(&unary(client, &sized(100, 0)).await), 100);
}

/// A stream that ends by a status of its own: the status stands in headers or trailers.
async fn status_of_a_stream(client: &Client) {
    let (mut outgoing, mut incoming) = open(client, "FullDuplexCall", Literals::new());
    let status = EchoStatus {
        code: 2,
        message: "test status message".to_owned(),
    };
    let asks = StreamingRequest {
        response_status: Some(status),
        ..StreamingRequest::default()
    };
    say(&mut outgoing, &asks).await;
    let headers = head(&mut incoming).await;
    let at_once = headers.get("grpc-status").map(<[u8]>::to_vec);
    assert_eq!(
        ended(Messages::of(incoming)).await.or(at_once),
        Some(b"2".to_vec())
    );
}

/// The server is asked for nothing and told that there is little time for it.
async fn timeout_on_sleeping_server(client: &Client, late: u32) {
    let mut fields = Literals::new();
    fields.push("grpc-timeout", b"200m").unwrap();
    let (mut outgoing, mut incoming) = open(client, "FullDuplexCall", fields);
    say(&mut outgoing, &wants(&[], INPUT_SIZES[0])).await;
    let headers = match std::future::poll_fn(|cx| incoming.poll_head(cx)).await {
        Ok(headers) => headers,
        // By RST_STREAM, for gRPC leaves that open.
        Err(error) => return assert!(error.reason.contains("reset"), "{error}"),
    };
    let at_once = headers.get("grpc-status").map(<[u8]>::to_vec);
    let mut replies = Messages::of(incoming);
    while replies.next().await.is_some() {}
    let trailers = replies.into_body().take_trailers();
    let status = trailers.and_then(|trailers| trailers.get("grpc-status").map(<[u8]>::to_vec));
    // Or broken off without any.
    if let Some(status) = status.or(at_once) {
        assert_eq!(status, late.to_string().into_bytes());
    }
}
