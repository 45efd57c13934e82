//! What docs/wire.md shows byte by byte: the second call of a connection and its reply.

use rsf_wire::{Client, Limits, Literals, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::whole;
use crate::peer::Peer;
use crate::raw::*;

/// The block of bytes behind `## A call, byte by byte` whose first line begins so.
fn documented(beginning: &str) -> Vec<u8> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let (_, block) = docs
        .split_once(&format!("```text\n{beginning}"))
        .expect(beginning);
    let (block, _) = block.split_once("```").unwrap();
    let lines = block.lines().skip(1);
    // Bytes stand before the first double space.
    let bytes = lines.flat_map(|line| line.split("  ").next().unwrap_or_default().split_whitespace());
    bytes
        .map(|byte| u8::from_str_radix(byte, 16).expect(byte))
        .collect()
}

const MESSAGE: &[u8] = b"\0\0\0\0\x03abc";

/// The frames of stream 3, without those of the connection around them.
fn of_stream_3(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(&[a, b, c, _, _, s0, s1, s2, s3]) = bytes.first_chunk::<9>() {
        let (frame, rest) = bytes.split_at(9 + u32::from_be_bytes([0, a, b, c]) as usize);
        if u32::from_be_bytes([s0, s1, s2, s3]) == 3 {
            out.extend_from_slice(frame);
        }
        bytes = rest;
    }
    out
}

#[tokio::test]
async fn the_second_request_is_as_documented() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let (client, connection) = Client::new(near, "10.0.0.7:7000", Limits::default(), |_| {});
    tokio::spawn(connection);
    far.write_all(&settings(&[])).await.unwrap();
    let call = |timeout: &'static [u8]| {
        let mut varying = Literals::new();
        varying.push("grpc-timeout", timeout).unwrap();
        client.call(Request {
            path: "/shop.Orders/Place",
            constant: &[],
            varying,
            body: rsf_wire::message::frame(b"abc").unwrap(),
        })
    };
    let server = async {
        let mut heard = Vec::new();
        // Until the first request's DATA.
        while !heard.windows(MESSAGE.len()).any(|bytes| bytes == MESSAGE) {
            far.read_buf(&mut heard).await.unwrap();
        }
        far.write_all(&whole()).await.unwrap();
        heard.clear();
        while !heard.windows(MESSAGE.len()).any(|bytes| bytes == MESSAGE) {
            far.read_buf(&mut heard).await.unwrap();
        }
        of_stream_3(&heard)
    };
    let calls = async {
        call(b"1S").await.unwrap();
        // Nobody answers this one.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), call(b"250m")).await;
    };
    let second = tokio::select! {
        () = calls => panic!("no second request"),
        second = server => second,
    };
    assert_eq!(second, documented("A request"));
}

#[tokio::test]
async fn the_second_reply_is_as_documented() {
    let mut peer = Peer::greeted(Limits::default()).await;
    let mut replies = Vec::new();
    for stream in [1, 3] {
        peer.say(&headers(stream, END_HEADERS, &request("/t/now"))).await;
        peer.say(&data(stream, END_STREAM, b"\0\0\0\0\x03abc")).await;
        let (seen, _) = peer.settle().await;
        replies = seen.into_iter().filter(|seen| seen.stream == stream).collect();
    }
    let frames = replies
        .iter()
        .map(|seen| frame(seen.kind, seen.flags, seen.stream, &seen.payload));
    assert_eq!(frames.collect::<Vec<_>>().concat(), documented("A reply"));
}
