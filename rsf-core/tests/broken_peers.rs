//! Peers that speak broken HTTP/2 or broken gRPC over raw TCP. Whatever they get, the server lives on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

mod support;

#[path = "support/line.rs"]
mod line;

use std::time::Duration;

use line::{Line, reason, request, soon};
use rsf_core::outcome::Reason;
use rsf_core::wire::http2::{ServerOptions, serve};
use support::{Echo, Kind, counted, note};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Preface and empty SETTINGS.
fn greeting() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

/// Literal headers without indexing or Huffman coding.
fn headers(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        out.push(0);
        for text in [name, value] {
            match text.len() {
                short @ 0..127 => out.push(short as u8),
                long => {
                    out.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        out.push((rest % 128 + 128) as u8);
                        rest /= 128;
                    }
                    out.push(rest as u8);
                }
            }
            out.extend(text.as_bytes());
        }
    }
    out
}

const CALL: [(&str, &str); 6] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.v1.Echo/Get"),
    (":authority", "test"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
];

/// Sends bytes and reads until the peer closes, or has said `until`, or nothing came for a while.
async fn hear(line: &Line, sent: &[u8], until: &[Vec<u8>]) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(line.node.address()).await.unwrap();
    // The peer may close before it has read everything.
    let _ = stream.write_all(sent).await;
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match soon(stream.read(&mut buffer)).await {
            Ok(0) | Err(_) => return (heard, true),
            Ok(count) => heard.extend(&buffer[..count]),
        }
        if until.iter().any(|wanted| holds(&heard, wanted)) {
            return (heard, false);
        }
    }
}

async fn what_is_no_http2_is_closed(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let garbage: Vec<u8> = (0..4096u32).map(|place| (place * 31 % 251) as u8).collect();
    let oversized = [
        greeting(),
        vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
        vec![0; 100_000],
    ]
    .concat();
    let cases: [(&str, Vec<u8>); 6] = [
        ("garbage", garbage),
        ("http/1.1", b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()),
        ("half a preface and garbage", [&PREFACE[..10], &[7; 100]].concat()),
        ("a frame over the limit", oversized),
        (
            "data on an idle stream",
            [greeting(), frame(0, 1, 9, b"x")].concat(),
        ),
        (
            "a broken header block",
            [greeting(), frame(1, 5, 1, &[0xff; 40])].concat(),
        ),
    ];
    for (name, sent) in cases {
        let (_, closed) = hear(&line, &sent, &[]).await;
        assert!(closed, "{name}");
        line.lives().await;
    }
}

async fn an_http1_client_is_told_what_the_port_speaks(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let (heard, _) = hear(&line, b"GET / HTTP/1.1\r\nhost: test\r\n\r\n", &[]).await;
    let text = String::from_utf8(heard).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 505 "), "{text}");
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{text}"
    );
    assert!(body.contains("gRPC over HTTP/2"), "{text}");
}

async fn a_silent_connection_is_closed_and_half_a_preface_may_be_finished(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let (_, closed) = hear(&line, &PREFACE[..7], &[]).await;
    assert!(closed);
    let mut stream = TcpStream::connect(line.node.address()).await.unwrap();
    let greeting = greeting();
    stream.write_all(&greeting[..7]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    stream.write_all(&greeting[7..]).await.unwrap();
    let mut settings = [0; 9];
    soon(stream.read_exact(&mut settings)).await.unwrap();
    assert_eq!(settings[3], 4, "the server answers with SETTINGS");
}

/// Sends one call with this body, and waits for a text in the answer.
async fn answered(line: &Line, body: &[u8], wanted: &str) {
    let sent = [greeting(), frame(1, 4, 1, &headers(&CALL)), frame(0, 1, 1, body)].concat();
    let (heard, closed) = hear(line, &sent, &texts(wanted)).await;
    assert!(!closed, "{wanted}: the connection was closed after {heard:?}");
    line.lives().await;
}

fn holds(heard: &[u8], wanted: &[u8]) -> bool {
    heard.windows(wanted.len()).any(|window| window == wanted)
}

/// How a text may travel: as it is, or as Huffman codes.
fn texts(text: &str) -> [Vec<u8>; 2] {
    [text.into(), huffman(text)]
}

/// `text` as HPACK's Huffman code, by h2's own encoder's table for the letters that reasons are made of.
fn huffman(text: &str) -> Vec<u8> {
    // RFC 7541, appendix B.
    let code = |letter: u8| -> (u32, u32) {
        match letter {
            b'_' => (0x22, 6),
            b'a' => (0x3, 5),
            b'b' => (0x23, 6),
            b'c' => (0x4, 5),
            b'd' => (0x24, 6),
            b'e' => (0x5, 5),
            b'f' => (0x25, 6),
            b'g' => (0x26, 6),
            b'h' => (0x27, 6),
            b'i' => (0x6, 5),
            b'l' => (0x28, 6),
            b'm' => (0x29, 6),
            b'n' => (0x2a, 6),
            b'o' => (0x7, 5),
            b'p' => (0x2b, 6),
            b'r' => (0x2c, 6),
            b's' => (0x8, 5),
            b't' => (0x9, 5),
            b'u' => (0x2d, 6),
            _ => panic!("{letter} is not in the table"),
        }
    };
    let (mut bits, mut count, mut out) = (0u64, 0, Vec::new());
    for letter in text.bytes() {
        let (value, length) = code(letter);
        bits = bits << length | u64::from(value);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

async fn broken_messages_get_a_status(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let whole = [0, 0, 0, 0, 2, 0x18, 7];
    for (body, reason) in [
        (&[][..], "malformed"),
        (&[0, 0, 0][..], "malformed"),
        (&[0, 0, 0, 0, 9, 1][..], "malformed"),
        (&[7, 0, 0, 0, 0][..], "malformed"),
        // It says that it is compressed, and nobody says how.
        (&[1, 0, 0, 0, 0][..], "malformed"),
        (&[whole, whole].concat()[..], "malformed"),
        (&[0, 0xff, 0xff, 0xff, 0xff, 1][..], "too_large"),
        (&[0, 0, 0, 0, 2, 0x0a, 0x7f][..], "malformed"),
    ] {
        answered(&line, body, reason).await;
    }
}

async fn headers_over_the_limit_are_refused(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let mut heavy = request("Get", &note(""));
    heavy.metadata.insert("ballast", &"x".repeat(17 * 1024)).unwrap();
    match soon(line.send(heavy)).await {
        Ok(reply) => {
            let status = reply.result.unwrap_err();
            assert_eq!(reason(&status), Some(Reason::TooLarge), "{status}");
            assert!(status.message().contains("16384"), "{status}");
        }
        Err(error) => panic!("no answer: {error}"),
    }
    line.lives().await;
    // A bomb: small on the wire, endless for whoever collects it.
    let mut bomb = [greeting(), frame(1, 0, 1, &headers(&CALL))].concat();
    for _ in 0..10_000 {
        bomb.extend(frame(9, 0, 1, &headers(&[("x", "y")]).repeat(1000)));
    }
    let (_, closed) = hear(&line, &bomb, &[]).await;
    assert!(closed);
    line.lives().await;
}

async fn a_body_that_never_ends_is_over_with_its_deadline(kind: Kind) {
    let echo = Echo::plain();
    let line = Line::to(kind, echo.clone()).await;
    let mut pairs = CALL.to_vec();
    pairs.push(("grpc-timeout", "50m"));
    let sent = [
        greeting(),
        frame(1, 4, 1, &headers(&pairs)),
        frame(0, 0, 1, &[0, 0, 0]),
    ]
    .concat();
    let (_, closed) = hear(&line, &sent, &texts("deadline")).await;
    assert!(!closed);
    assert_eq!(echo.counts().began, 0);
    line.lives().await;
}

async fn what_is_no_grpc_is_told_so(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let mut pairs = CALL.to_vec();
    pairs[5] = ("content-type", "application/json");
    let sent = [greeting(), frame(1, 5, 1, &headers(&pairs))].concat();
    // `:status: 415` by its indexed name: literal value in Huffman code.
    let (heard, closed) = hear(&line, &sent, &[frame_head_of_stream(1)]).await;
    assert!(!closed, "{heard:?}");
    let mut pairs = CALL.to_vec();
    pairs.push(("grpc-timeout", "soon"));
    let sent = [
        greeting(),
        frame(1, 4, 1, &headers(&pairs)),
        frame(0, 1, 1, &[0; 5]),
    ]
    .concat();
    let (heard, closed) = hear(&line, &sent, &[frame_head_of_stream(1)]).await;
    assert!(!closed, "{heard:?}");
    line.lives().await;
}

/// The end of a HEADERS frame's head that also ends the stream.
fn frame_head_of_stream(stream: u8) -> Vec<u8> {
    vec![1, 5, 0, 0, 0, stream]
}

async fn a_request_that_never_comes_whole_is_refused(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServerOptions {
        body_timeout: Duration::from_millis(200),
        ..ServerOptions::default()
    };
    let (provider, drain) = (line.node.provider.clone(), CancellationToken::new());
    let server = match kind {
        Kind::Engine => tokio::spawn(rsf_core::wire::engine::serve(listener, provider, options, drain)),
        _ => tokio::spawn(serve(listener, provider, options, drain)),
    };
    // Without a deadline of their own, and with one that is as good as none.
    let patient = [&CALL[..], &[("grpc-timeout", "99999999H")]].concat();
    for call in [&CALL[..], &patient] {
        let half = [0, 0, 0, 0, 2, 0x18];
        let sent = [greeting(), frame(1, 4, 1, &headers(call)), frame(0, 0, 1, &half)].concat();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        let (wanted, mut heard, mut buffer) = (texts("deadline"), Vec::new(), [0; 4096]);
        while !wanted.iter().any(|wanted| holds(&heard, wanted)) {
            let count = soon(stream.read(&mut buffer)).await.unwrap();
            assert!(count > 0, "closed after {heard:?}");
            heard.extend(&buffer[..count]);
        }
    }
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_the_wire_that_is_met_is_counted() {
    let line = Line::to(Kind::Engine, Echo::plain()).await;
    let count = |reason| counted(&line.node.registry, "rsf_wire_refusals_total", reason);
    let before = count("control_frames");
    let pings = frame(6, 0, 0, &[0; 8]).repeat(11_000);
    let (_, closed) = hear(&line, &[greeting(), pings].concat(), &[]).await;
    assert!(closed);
    assert_eq!(count("control_frames"), before + 1);
    assert_eq!(
        count("control_frames"),
        before + 1,
        "once, however often it is read"
    );
    line.lives().await;
}

macro_rules! over {
    ($kind:ident: $($case:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() { super::$case(super::Kind::$kind).await })*
    };
}

mod http2 {
    over! { Http2: what_is_no_http2_is_closed an_http1_client_is_told_what_the_port_speaks a_silent_connection_is_closed_and_half_a_preface_may_be_finished broken_messages_get_a_status headers_over_the_limit_are_refused a_body_that_never_ends_is_over_with_its_deadline what_is_no_grpc_is_told_so a_request_that_never_comes_whole_is_refused }
}

mod engine {
    over! { Engine: what_is_no_http2_is_closed an_http1_client_is_told_what_the_port_speaks a_silent_connection_is_closed_and_half_a_preface_may_be_finished broken_messages_get_a_status headers_over_the_limit_are_refused a_body_that_never_ends_is_over_with_its_deadline what_is_no_grpc_is_told_so a_request_that_never_comes_whole_is_refused }
}
