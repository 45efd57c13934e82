//! Peers of streaming and slow requests: windows raised for hours, replies that nobody reads, ends in mid-sentence.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rsf_wire::hpack::Headers;
use rsf_wire::server::{Handling, Serving};
use rsf_wire::{
    Call, Client, Fate, Handler, Keepalive, Limits, Literals, Refusal, Request, Route, StreamingCall, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::peer::{PATIENCE, Peer, Seen, echoed};
use crate::raw::*;

const MOST: u32 = 0x7fff_ffff;

/// Unary requests are slow ones, answered with 10 000 bytes when they are whole. Streaming: `/s/flood` sends without end,
/// `/s/spawn` has a task of its own read, which says how the body ended. What ends with `deaf` is not read, nor answered.
struct Streams {
    ended: mpsc::UnboundedSender<bool>,
}

impl Handler for Streams {
    fn route(&self, headers: &Headers) -> Route {
        match headers.get(":path").unwrap_or_default().starts_with(b"/s/") {
            true => Route::Streaming,
            false => Route::Unary(0),
        }
    }

    fn call(&self, _: Call) -> Option<Handling> {
        None
    }

    fn takes_slow(&self) -> bool {
        true
    }

    fn slow(&self, _: usize, call: StreamingCall) -> Serving {
        Box::pin(async move {
            deaf(&call).await;
            let StreamingCall { mut body, answer, .. } = call;
            while let Some(Ok(_)) = poll_fn(|cx| body.poll_data(cx)).await {}
            let mut out = answer.grpc(Literals::new());
            out.send(vec![7; 10_000].into(), false);
            out.finish(Literals::new());
        })
    }

    fn stream(&self, call: StreamingCall) -> Serving {
        let ended = self.ended.clone();
        Box::pin(async move {
            deaf(&call).await;
            let StreamingCall {
                headers,
                mut body,
                answer,
            } = call;
            let mut out = answer.grpc(Literals::new());
            if headers.get(":path") == Some(b"/s/flood") {
                while poll_fn(|cx| out.poll_room(cx)).await.is_ok() {
                    out.send(Bytes::from_static(&[7; 10_000]), false);
                }
                return;
            }
            tokio::spawn(async move {
                let whole = loop {
                    match poll_fn(|cx| body.poll_data(cx)).await {
                        Some(Ok(_)) => {}
                        Some(Err(_)) => break false,
                        None => break true,
                    }
                };
                let _ = ended.send(whole);
            });
            std::future::pending().await
        })
    }
}

async fn deaf(call: &StreamingCall) {
    if call.headers.get(":path").unwrap_or_default().ends_with(b"deaf") {
        std::future::pending().await
    }
}

async fn greeted(limits: Limits) -> (Peer, mpsc::UnboundedReceiver<bool>) {
    let (ended, said) = mpsc::unbounded_channel();
    let peer = Peer::of_handler(Arc::new(Streams { ended }), limits);
    (peer.greet().await, said)
}

/// All that the server says until so many bytes of a stream came.
async fn read(peer: &mut Peer, stream: u32, bytes: usize) {
    let mut came = 0;
    while came < bytes {
        let frame = peer.next().await.expect("the connection lives");
        assert!(!frame.is(RST_STREAM, stream), "{frame:?}");
        came += echoed(&[frame], stream).len();
    }
    assert_eq!(came, bytes);
}

/// A window is what was given less what was sent: it may be raised for as long as the stream lasts.
#[tokio::test]
async fn a_streams_window_may_be_raised_by_more_than_it_can_hold_at_once() {
    let (mut peer, _) = greeted(Limits::default()).await;
    peer.say(&headers(1, END_HEADERS, &request("/s/flood"))).await;
    peer.say(&window_update(1, MOST - 65_535)).await;
    read(&mut peer, 1, 65_535).await;
    peer.say(&[window_update(1, 65_535), window_update(0, 65_535)].concat())
        .await;
    read(&mut peer, 1, 65_535).await;
    // The same by SETTINGS: 4 are more now, and the window holds 65 535 less than the most.
    peer.say(&[settings(&[(4, 65_539)]), window_update(0, 65_535)].concat())
        .await;
    read(&mut peer, 1, 65_535).await;
    peer.say(&window_update(1, MOST)).await;
    let frames = peer.until(|frame| frame.is(RST_STREAM, 1)).await.unwrap();
    assert_eq!(frames.last().unwrap().code(), FLOW_CONTROL_ERROR);
}

#[tokio::test]
async fn a_reader_learns_of_the_end_that_comes_with_its_last_bytes() {
    for _ in 0..20 {
        let (mut peer, mut said) = greeted(Limits::default()).await;
        peer.say(&headers(1, END_HEADERS, &request("/s/spawn"))).await;
        // The reader waits when its headers were answered and it had its turn.
        peer.until(|frame| frame.is(HEADERS, 1)).await.unwrap();
        peer.settle().await;
        let wrong = headers(2, WHOLE, &request("/t/now"));
        peer.say(&[data(1, 0, b"last"), wrong].concat()).await;
        let whole = tokio::time::timeout(PATIENCE, said.recv());
        assert_eq!(whole.await.expect("the reader is told"), Some(false));
    }
}

/// A unary request in two packets, whose reply has no window.
async fn ask_slowly(peer: &mut Peer, stream: u32) -> Vec<Seen> {
    peer.say(&headers(stream, END_HEADERS, &request("/t/slow"))).await;
    let (mut seen, _) = peer.settle().await;
    peer.say(&data(stream, END_STREAM, b"\0\0\0\0\0")).await;
    let answer = peer.until(|frame| frame.is(HEADERS, stream)).await;
    seen.extend(answer.expect("the connection lives"));
    seen.extend(peer.settle().await.0);
    seen
}

/// Nothing was done with half a unary request, and the peer is told so; of a stream nobody knows.
#[tokio::test]
async fn memory_that_is_full_refuses_unary_requests_and_resets_streams() {
    for (path, code) in [("/t/deaf", REFUSED_STREAM), ("/s/deaf", 11)] {
        let before = Refusal::Buffered.count();
        let limits = Limits {
            buffered_bytes: 100_000,
            ..Limits::default()
        };
        let (mut peer, _) = greeted(limits).await;
        peer.say(&headers(1, END_HEADERS, &request(path))).await;
        // The server has read all there is: it hands over what is not whole.
        peer.settle().await;
        for _ in 0..7 {
            peer.say(&data(1, 0, &[7; 16_000])).await;
        }
        let frames = peer.until(|frame| frame.is(RST_STREAM, 1)).await.unwrap();
        assert_eq!(frames.last().unwrap().code(), code, "{path}");
        assert!(Refusal::Buffered.count() > before);
    }
}

#[tokio::test]
async fn slow_requests_replies_that_nobody_reads_are_reset_beyond_the_limit() {
    let before = Refusal::Unsent.count();
    let limits = Limits {
        unsent_bytes: 100_000,
        ..Limits::default()
    };
    let (mut peer, _) = greeted(limits).await;
    peer.say(&settings(&[(4, 0)])).await;
    let mut resets = 0;
    for i in 0..15 {
        let seen = ask_slowly(&mut peer, 2 * i + 1).await;
        resets += seen.iter().filter(|frame| frame.kind == RST_STREAM).count();
    }
    assert_eq!(resets, 5);
    assert!(Refusal::Unsent.count() >= before + 5);
    // One is given up and the others are read: there is room again.
    peer.say(&reset(1, CANCEL)).await;
    peer.say(&[settings(&[(4, 1 << 20)]), window_update(0, 1 << 24)].concat())
        .await;
    let (seen, _) = peer.settle().await;
    let came: usize = (0..15).map(|i| echoed(&seen, 2 * i + 1).len()).sum();
    assert_eq!(came, 90_000);
    peer.say(&settings(&[(4, 0)])).await;
    for i in 20..30 {
        let seen = ask_slowly(&mut peer, 2 * i + 1).await;
        assert!(seen.iter().all(|frame| frame.kind != RST_STREAM), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_requests_reply_is_not_waited_for_without_end() {
    let limits = Limits::default();
    let before = Refusal::SlowReader.count();
    let (mut peer, _) = greeted(limits.clone()).await;
    peer.say(&settings(&[(4, 0)])).await;
    ask_slowly(&mut peer, 1).await;
    let began = Instant::now();
    peer.ended().await;
    let late = limits.read_time + Duration::from_secs(12);
    assert!(
        (limits.read_time..late).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    assert!(Refusal::SlowReader.count() > before);
}

#[tokio::test(start_paused = true)]
async fn a_streams_rest_is_waited_for() {
    let (mut peer, _) = greeted(Limits::default()).await;
    peer.say(&settings(&[(4, 0)])).await;
    peer.say(&headers(1, END_HEADERS, &request("/s/flood"))).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(peer.settle().await.1);
}

/// A peer that takes what waits for it is there, though it is too slow to come to our PINGs.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_taken_for_a_silent_one() {
    let keepalive = Keepalive {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(4),
    };
    let limits = Limits {
        keepalive: Some(keepalive),
        ..Limits::default()
    };
    let (mut near, far) = tokio::io::duplex(512);
    let (ended, _) = mpsc::unbounded_channel();
    let handler = Arc::new(Streams { ended });
    let served = tokio::spawn(serve(far, handler, limits, std::future::pending()));
    let asks = [
        PREFACE.to_vec(),
        settings(&[(4, MOST)]),
        headers(1, END_HEADERS, &request("/s/flood")),
    ];
    near.write_all(&asks.concat()).await.unwrap();
    for second in 0..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        near.read_exact(&mut [0; 512]).await.unwrap();
        assert!(!served.is_finished(), "{second}");
    }
    let began = Instant::now();
    let error = served.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("PING"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(16), "{:?}", began.elapsed());
}

#[tokio::test]
async fn streams_that_nobody_reads_are_reset_beyond_the_limit() {
    let before = Refusal::Buffered.count();
    let limits = Limits {
        buffered_bytes: 100_000,
        ..Limits::default()
    };
    let (mut peer, _) = greeted(limits).await;
    let mut resets = 0;
    for i in 0..10 {
        // The flood does not read.
        peer.say(&headers(2 * i + 1, END_HEADERS, &request("/s/flood")))
            .await;
        peer.say(&data(2 * i + 1, 0, &[7; 15_000])).await;
        let (seen, alive) = peer.settle().await;
        assert!(alive);
        resets += seen.iter().filter(|frame| frame.kind == RST_STREAM).count();
    }
    assert_eq!(resets, 4);
    assert!(Refusal::Buffered.count() >= before + 4);
    peer.say(&reset(1, CANCEL)).await;
    peer.settle().await;
    peer.say(&headers(41, END_HEADERS, &request("/s/flood"))).await;
    peer.say(&data(41, 0, &[7; 15_000])).await;
    let (seen, _) = peer.settle().await;
    assert!(seen.iter().all(|frame| !frame.is(RST_STREAM, 41)), "{seen:?}");
}

#[tokio::test]
async fn a_client_that_is_dropped_closes_a_socket_that_takes_nothing() {
    let (near, mut far) = tokio::io::duplex(512);
    far.write_all(&settings(&[])).await.unwrap();
    let (client, connection) = Client::new(near, "test", Limits::default(), |_| {});
    let connection = tokio::spawn(connection);
    let mut stuck = client.open(
        rsf_wire::Head {
            method: "POST",
            path: "/s/hold",
            authority: None,
            grpc: true,
            fields: Literals::new(),
        },
        false,
    );
    stuck.outgoing.send(vec![0; 10_000].into(), false);
    client.send(Request {
        path: "/t/now",
        constant: &[],
        varying: Literals::new(),
        body: vec![0; 10_000].into(),
    });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!connection.is_finished());
    drop(client);
    let ended = tokio::time::timeout(PATIENCE, connection).await;
    ended.expect("the connection ends").unwrap().unwrap();
    let error = poll_fn(|cx| stuck.incoming.poll_head(cx)).await.unwrap_err();
    assert_eq!(error.fate, Fate::Written);
    drop(far);
}

/// A server that limits its streams need not say so again.
#[tokio::test]
async fn a_limit_of_streams_holds_until_another_is_announced() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    for limit in [1, 100] {
        let (io, mut far) = tokio::io::duplex(1 << 20);
        let (client, connection) = Client::new(io, "test", Limits::default(), |_| {});
        tokio::spawn(connection);
        let say = [
            settings(&[(MAX_CONCURRENT_STREAMS, limit)]),
            settings(&[(4, 65_535)]),
        ]
        .concat();
        far.write_all(&say).await.unwrap();
        let mut peer = Peer::of_stream(far).await;
        // Both were acknowledged.
        for _ in 0..2 {
            peer.until(|frame| frame.is(SETTINGS, 0) && frame.flags == ACK)
                .await
                .unwrap();
        }
        for _ in 0..limit + 1 {
            client.send(Request {
                path: "/t/never",
                constant: &[],
                varying: Literals::new(),
                body: Bytes::from_static(b"\0\0\0\0\0"),
            });
        }
        let (seen, _) = peer.settle().await;
        let opened = seen.iter().filter(|frame| frame.kind == HEADERS).count();
        assert_eq!(opened, limit as usize);
    }
}
