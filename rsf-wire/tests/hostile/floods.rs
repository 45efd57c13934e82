//! Floods of frames that cost their sender little.

use rsf_wire::{Limits, Refusal};

use crate::peer::Peer;
use crate::raw::*;

const ENHANCE_YOUR_CALM: u32 = 11;

/// Says `flood(0)`, `flood(1)`, … to a server until it has had enough, at most `most` times; the code that it ends with,
/// and how often was said.
async fn until_it_ends(limits: Limits, most: u32, flood: impl Fn(u32) -> Vec<u8>) -> (Option<u32>, u32) {
    let mut peer = Peer::greeted(limits).await;
    let mut said = 0;
    while said < most {
        let batch: Vec<u8> = (said..(said + 100).min(most)).flat_map(&flood).collect();
        said += 100;
        peer.say(&batch).await;
        let (seen, alive) = peer.settle().await;
        if !alive {
            let code = seen
                .iter()
                .find(|frame| frame.kind == GOAWAY)
                .map(|frame| frame.code());
            return (code, said);
        }
    }
    (None, said)
}

type Flood<'a> = &'a dyn Fn(u32) -> Vec<u8>;

fn stream(i: u32) -> u32 {
    2 * i + 1
}

#[tokio::test]
async fn requests_that_are_not_even_looked_at_end_the_connection() {
    let before = Refusal::EarlyResets.count();
    let limits = Limits {
        early_resets: 500,
        ..Limits::default()
    };
    // GET of a unary path: 405.
    let flood = |i| headers(stream(i), WHOLE, &[0x82, 0x86, 0x84]);
    let (code, said) = until_it_ends(limits, 2_000, flood).await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    assert!((500..=600).contains(&said), "{said}");
    assert!(Refusal::EarlyResets.count() > before);
}

#[tokio::test]
async fn frames_that_belong_to_no_call_end_the_connection() {
    let crumbs = |i: u32| match i {
        0 => headers(1, END_HEADERS, &request("/t/never")),
        _ => window_update(1, 1),
    };
    let empty_data = |i: u32| match i {
        0 => headers(1, END_HEADERS, &request("/t/never")),
        _ => data(1, 0, b""),
    };
    let padding_alone = |i: u32| match i {
        0 => headers(1, END_HEADERS, &request("/t/never")),
        _ => data(1, PADDED, &[200; 201]),
    };
    // What came on a stream that we gave up is no call, and makes up for nothing.
    let late_headers = |i: u32| match i {
        0 => headers(1, WHOLE, &request_with(&[("Upper", "case")])),
        _ => [frame(PING, 0, 0, &[7; 8]), headers(1, WHOLE, &request("/t/now"))].concat(),
    };
    let floods: [(&str, Flood<'_>); 10] = [
        ("HEADERS of no call", &late_headers),
        ("PING", &|_| frame(PING, 0, 0, &[7; 8])),
        ("PING's ACK", &|_| frame(PING, ACK, 0, &[7; 8])),
        ("SETTINGS", &|i| settings(&[(4, i)])),
        ("SETTINGS' ACK", &|_| frame(SETTINGS, ACK, 0, &[])),
        ("PRIORITY", &|i| frame(PRIORITY, 0, stream(i), &dependency(0, 9))),
        ("an extension", &|_| frame(0xee, 0, 0, &[0; 8])),
        ("WINDOW_UPDATE", &crumbs),
        ("empty DATA", &empty_data),
        ("padding", &padding_alone),
    ];
    for (name, flood) in floods {
        let before = Refusal::ControlFrames.count();
        let limits = Limits {
            control_frames: 2_000,
            ..Limits::default()
        };
        let (code, said) = until_it_ends(limits, 10_000, flood).await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{name}");
        assert!(said <= 2_200, "{name}: {said}");
        assert!(Refusal::ControlFrames.count() > before, "{name}");
    }
}

#[tokio::test]
async fn calls_make_up_for_their_noise() {
    let limits = Limits {
        control_frames: 100,
        ..Limits::default()
    };
    // As much as grpcio sends: a PING and two window updates with each call, more than is allowed all told.
    let call = |i| {
        [
            headers(stream(i), END_HEADERS, &request("/t/now")),
            data(stream(i), 0, b"\0\0\0\0\x01x"),
            data(stream(i), END_STREAM, b""),
            frame(PING, 0, 0, &[7; 8]),
            window_update(0, 5),
            window_update(stream(i), 5),
        ]
        .concat()
    };
    assert_eq!(until_it_ends(limits, 2_000, call).await.0, None);
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let before = Refusal::EarlyResets.count();
    let limits = Limits {
        early_resets: 500,
        ..Limits::default()
    };
    let rapid = |i| {
        [
            headers(stream(i), END_HEADERS, &request("/t/never")),
            reset(stream(i), CANCEL),
        ]
        .concat()
    };
    let (code, said) = until_it_ends(limits.clone(), 5_000, rapid).await;
    assert_eq!((code, said), (Some(ENHANCE_YOUR_CALM), 600));
    // The same with a server that is made to reset them itself.
    let made = |i| headers(stream(i), WHOLE, &request_without(":path"));
    let (code, said) = until_it_ends(limits.clone(), 5_000, made).await;
    assert_eq!((code, said), (Some(ENHANCE_YOUR_CALM), 600));
    // Streams that were closed, over and over.
    let closed = |i| match i {
        0 => headers(1, WHOLE, &request("/t/now")),
        _ => data(1, END_STREAM, b"x"),
    };
    let (code, _) = until_it_ends(limits.clone(), 5_000, closed).await;
    assert!(code.is_none() || code == Some(ENHANCE_YOUR_CALM));
    assert!(Refusal::EarlyResets.count() >= before + 2);
    // Cancelling every second call is no attack.
    let half = |i| match i % 2 {
        0 => rapid(i),
        _ => headers(stream(i), WHOLE, &request("/t/now")),
    };
    assert_eq!(until_it_ends(limits, 5_000, half).await.0, None);
}

#[tokio::test]
async fn endless_header_blocks_end_the_connection() {
    for (name, part) in [
        ("empty", Vec::new()),
        ("long", field("x", &"y".repeat(100)).repeat(100)),
    ] {
        let before = Refusal::HeaderBlock.count();
        let mut peer = Peer::greeted(Limits::default()).await;
        let mut flood = headers(1, 0, &request("/t/now"));
        for _ in 0..1_000 {
            flood.extend(continuation(1, 0, &part));
        }
        peer.say(&flood[..flood.len().min(900_000)]).await;
        let seen = peer.until(|frame| frame.kind == GOAWAY).await.expect(name);
        assert_eq!(seen.last().unwrap().code(), ENHANCE_YOUR_CALM, "{name}");
        assert!(Refusal::HeaderBlock.count() > before, "{name}");
    }
}

#[tokio::test]
async fn header_bombs_are_answered_431_and_cost_no_memory() {
    let before = Refusal::HeaderList.count();
    let mut peer = Peer::greeted(Limits::default()).await;
    // A field of 3 000 bytes into the table, then named by a byte, 10 000 times: 30 MB.
    let mut field = vec![0x40, 1, b'x', 0x7f];
    field.extend([0x80 | ((3_000 - 127) & 0x7f) as u8, ((3_000 - 127) >> 7) as u8]);
    field.extend([b'y'; 3_000]);
    let bomb = [request("/t/now"), field, vec![0xbe; 10_000]].concat();
    peer.say(&headers(1, WHOLE, &bomb)).await;
    // Packed tightly: 16 000 bytes of Huffman code are 25 600 letters.
    let mut packed = request("/t/now");
    packed.extend([
        0,
        1,
        b'x',
        0xff,
        0x80 | ((15_000 - 127) & 0x7f) as u8,
        ((15_000 - 127) >> 7) as u8,
    ]);
    // `0` is 00000.
    packed.extend([0; 15_000]);
    peer.say(&headers(3, WHOLE, &packed)).await;
    peer.say(&headers(5, WHOLE, &request("/t/now"))).await;
    let (seen, alive) = peer.settle().await;
    assert!(alive, "{seen:?}");
    for stream in [1, 3] {
        let answer = seen.iter().find(|frame| frame.is(HEADERS, stream)).unwrap();
        // The second time by its index.
        let status = answer.payload.windows(3).any(|text| text == b"431") || answer.payload == [0xbe];
        assert!(status, "{answer:?}");
    }
    assert!(
        seen.iter()
            .any(|frame| frame.is(DATA, 5) || frame.stream == 5 && frame.ends())
    );
    assert!(Refusal::HeaderList.count() >= before + 2);
}

#[tokio::test]
async fn blocks_that_fill_the_memo_push_nothing_wrong_into_it() {
    let mut peer = Peer::greeted(Limits::default()).await;
    // :method, :scheme and :path by index, :status by index where it does not belong: 60 beginnings, most of them wrong.
    let mut refused = 0;
    for i in 0..3_000 {
        let odd = 0x80 | (1 + i % 61) as u8;
        let block = [&[0x83, 0x86, 0x84, odd][..], &block(&REQUEST[3..])].concat();
        peer.say(&headers(stream(i), WHOLE, &block)).await;
        if i % 100 == 99 {
            let (seen, alive) = peer.settle().await;
            assert!(alive, "{seen:?}");
            refused += seen.iter().filter(|frame| frame.kind == RST_STREAM).count();
        }
    }
    assert!(refused > 500, "{refused}");
    peer.say(&headers(stream(3_000), END_HEADERS, &request("/t/now")))
        .await;
    peer.say(&data(stream(3_000), END_STREAM, b"whole")).await;
    let (seen, _) = peer.settle().await;
    assert_eq!(crate::peer::echoed(&seen, stream(3_000)), "whole");
}
