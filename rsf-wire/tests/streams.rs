//! Streams between the engine's own two ends: both directions at once, back-pressure, cancellation, early ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rsf_wire::hpack::Headers;
use rsf_wire::message::frame;
use rsf_wire::server::{Handling, Serving};
use rsf_wire::{
    Call, Client, ErrorCode, Fate, Handler, Head, Incoming, Keepalive, Life, Limits, Literals, Opened,
    Outgoing, Request, Response, Route, StreamError, StreamingCall, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

const SOON: Duration = Duration::from_secs(10);

/// Unary: `/u/echo`. Streaming: `/s/echo`; `/s/hold` answers with headers and reads nothing; `/s/flood` sends without end;
/// `/s/early` answers at once; `/s/panic`, `/s/break` panic before and after the headers.
struct Streams {
    running: watch::Sender<usize>,
    flooded: AtomicUsize,
    /// Unary requests that were long or slow.
    slow: watch::Sender<usize>,
}

struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl Handler for Local {
    fn route(&self, headers: &Headers) -> Route {
        match headers.get(":path").unwrap_or_default().starts_with(b"/s/") {
            true => Route::Streaming,
            false => Route::Unary(7),
        }
    }

    fn call(&self, call: Call) -> Option<Handling> {
        assert_eq!(call.route, 7);
        Some(Box::pin(async move { Response::ok(call.body.unwrap()) }))
    }

    fn takes_slow(&self) -> bool {
        true
    }

    fn slow(&self, route: usize, call: StreamingCall) -> Serving {
        assert_eq!(route, 7);
        self.0.slow.send_modify(|slow| *slow += 1);
        Box::pin(async move {
            let StreamingCall { mut body, answer, .. } = call;
            let mut whole = Vec::new();
            while let Some(piece) = next(&mut body).await {
                whole.extend(piece.unwrap());
            }
            let mut out = answer.grpc(Literals::new());
            out.send(whole.into(), false);
            let mut trailers = Literals::new();
            trailers.push("grpc-status", b"0").unwrap();
            out.finish(trailers);
        })
    }

    fn stream(&self, call: StreamingCall) -> Serving {
        let this = self.0.clone();
        this.running.send_modify(|running| *running += 1);
        Box::pin(async move {
            let _running = Running(this.running.clone());
            let StreamingCall {
                headers,
                mut body,
                answer,
            } = call;
            match headers.get(":path").unwrap() {
                b"/s/echo" => {
                    let mut out = answer.grpc(Literals::new());
                    while let Some(piece) = next(&mut body).await.transpose().unwrap() {
                        room(&mut out).await.unwrap();
                        out.send(piece, false);
                    }
                    let mut trailers = Literals::new();
                    trailers.push("grpc-status", b"0").unwrap();
                    if let Some(asked) = body.take_trailers() {
                        trailers.push("x-echo", asked.get("x-trailer").unwrap()).unwrap();
                    }
                    out.finish(trailers);
                }
                b"/s/hold" => {
                    let _held = answer.grpc(Literals::new());
                    std::future::pending::<()>().await;
                }
                b"/s/flood" => {
                    let mut out = answer.grpc(Literals::new());
                    while room(&mut out).await.is_ok() {
                        this.flooded.fetch_add(10_000, Ordering::SeqCst);
                        out.send(Bytes::from(vec![7; 10_000]), false);
                    }
                }
                b"/s/early" => answer.status(9, "not now"),
                b"/s/break" => {
                    let _out = answer.grpc(Literals::new());
                    panic!("on purpose");
                }
                _ => panic!("on purpose"),
            }
        })
    }
}

async fn room(out: &mut Outgoing) -> Result<(), StreamError> {
    poll_fn(|cx| out.poll_room(cx)).await
}

async fn next(incoming: &mut Incoming) -> Option<Result<Bytes, StreamError>> {
    poll_fn(|cx| incoming.poll_data(cx)).await
}

async fn head(incoming: &mut Incoming) -> Result<Headers, StreamError> {
    poll_fn(|cx| incoming.poll_head(cx)).await
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("not in time")
}

struct Local(Arc<Streams>);

struct Pair {
    client: Client,
    server: Arc<Streams>,
    served: tokio::task::JoinHandle<()>,
}

fn handler() -> (Arc<Streams>, Arc<Local>) {
    let server = Arc::new(Streams {
        running: watch::Sender::new(0),
        flooded: AtomicUsize::new(0),
        slow: watch::Sender::new(0),
    });
    let local = Arc::new(Local(server.clone()));
    (server, local)
}

fn pair(buffer: usize, limits: Limits) -> Pair {
    let (near, far) = tokio::io::duplex(buffer);
    let (server, handler) = handler();
    let served = limits.clone();
    let served = tokio::spawn(async move {
        let _ = serve(far, handler, served, std::future::pending()).await;
    });
    let (client, connection) = Client::new(near, "test:1", limits, |_| {});
    tokio::spawn(connection);
    Pair {
        client,
        server,
        served,
    }
}

impl Pair {
    fn open(&self, path: &str) -> Opened {
        self.client.open(grpc(path), false)
    }

    async fn running(&self, wanted: usize) {
        let mut running = self.server.running.subscribe();
        soon(running.wait_for(|running| *running == wanted))
            .await
            .unwrap();
    }

    /// A unary call on the same connection.
    async fn lives(&self) {
        let body = frame(b"alive").unwrap();
        let request = Request {
            path: "/u/echo",
            constant: &[],
            varying: Literals::new(),
            body: body.clone(),
        };
        let reply = soon(self.client.call(request)).await.unwrap();
        assert_eq!(reply.body.unwrap(), body);
    }
}

fn grpc(path: &str) -> Head<'_> {
    Head {
        method: "POST",
        path,
        authority: None,
        grpc: true,
        fields: Literals::new(),
    }
}

/// Sends without reading until there has been no room for a while; the bytes.
async fn fill(out: &mut Outgoing, piece: usize) -> usize {
    let mut sent = 0;
    while let Ok(room) = tokio::time::timeout(Duration::from_millis(100), room(out)).await {
        room.unwrap();
        out.send(Bytes::from(vec![1; piece]), false);
        sent += piece;
    }
    sent
}

#[tokio::test]
async fn pieces_go_to_and_fro_while_the_stream_lasts() {
    let pair = pair(64 * 1024, Limits::default());
    let Opened {
        mut outgoing,
        mut incoming,
    } = pair.open("/s/echo");
    assert_eq!(
        head(&mut incoming).await.unwrap().get(":status"),
        Some(&b"200"[..])
    );
    for size in [1, 600, 20_000] {
        room(&mut outgoing).await.unwrap();
        outgoing.send(Bytes::from(vec![size as u8; size]), false);
        let mut came = Vec::new();
        while came.len() < size {
            came.extend(soon(next(&mut incoming)).await.unwrap().unwrap());
        }
        assert_eq!(came, vec![size as u8; size]);
    }
    pair.lives().await;
    let mut trailers = Literals::new();
    trailers.push("x-trailer", b"last words").unwrap();
    outgoing.finish(trailers);
    assert!(soon(next(&mut incoming)).await.is_none());
    let trailers = incoming.take_trailers().unwrap();
    assert_eq!(trailers.get("grpc-status"), Some(&b"0"[..]));
    assert_eq!(trailers.get("x-echo"), Some(&b"last words"[..]));
    pair.running(0).await;
    drop(incoming);
    assert_eq!(pair.client.pending(), 0);
}

#[tokio::test]
async fn large_bodies_cross_in_both_directions_at_once() {
    let limits = Limits {
        stream_window: 20_000,
        unwritten_bytes: 30_000,
        ..Limits::default()
    };
    let pair = Arc::new(pair(4096, limits));
    let mut streams = tokio::task::JoinSet::new();
    for i in 0..8u8 {
        let pair = pair.clone();
        streams.spawn(async move {
            let Opened {
                mut outgoing,
                mut incoming,
            } = pair.open("/s/echo");
            let sending = async move {
                for _ in 0..30 {
                    room(&mut outgoing).await.unwrap();
                    outgoing.send(Bytes::from(vec![i; 33_000]), false);
                }
                outgoing.send(Bytes::new(), true);
            };
            let reading = async move {
                head(&mut incoming).await.unwrap();
                let mut came = 0;
                while let Some(piece) = next(&mut incoming).await {
                    let piece = piece.unwrap();
                    assert!(piece.iter().all(|byte| *byte == i));
                    came += piece.len();
                }
                assert_eq!(came, 30 * 33_000);
            };
            tokio::join!(sending, reading);
        });
    }
    while let Some(stream) = soon(streams.join_next()).await {
        stream.unwrap();
    }
    assert_eq!(pair.client.pending(), 0);
}

#[tokio::test]
async fn a_server_that_does_not_read_stops_its_client_and_nobody_else() {
    let limits = Limits {
        stream_window: 100_000,
        stream_buffer: 30_000,
        // Less than the streams' windows together: it must not be theirs.
        connection_window: 150_000,
        ..Limits::default()
    };
    let pair = pair(1 << 20, limits);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut opened = pair.open("/s/hold");
        head(&mut opened.incoming).await.unwrap();
        let sent = fill(&mut opened.outgoing, 7_000).await;
        assert!((100_000..=100_000 + 30_000 + 7_000).contains(&sent), "{sent}");
        held.push(opened);
        pair.lives().await;
    }
    pair.running(3).await;
    drop(held);
    pair.running(0).await;
    assert_eq!(pair.client.pending(), 0);
    pair.lives().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_server_and_reads_on_later() {
    let limits = Limits {
        stream_window: 100_000,
        stream_buffer: 30_000,
        ..Limits::default()
    };
    let pair = pair(1 << 20, limits);
    let mut opened = pair.open("/s/flood");
    head(&mut opened.incoming).await.unwrap();
    let flooded = || pair.server.flooded.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = flooded();
    assert!(
        (100_000..=100_000 + 30_000 + 10_000).contains(&before),
        "{before}"
    );
    let mut came = 0;
    while came < 1_000_000 {
        came += soon(next(&mut opened.incoming)).await.unwrap().unwrap().len();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        (came..=came + 140_000).contains(&flooded()),
        "{came} {}",
        flooded()
    );
    drop(opened);
    pair.running(0).await;
    assert_eq!(pair.client.pending(), 0);
}

#[tokio::test]
async fn either_end_breaks_a_stream_and_the_other_is_told() {
    let pair = pair(64 * 1024, Limits::default());
    // The client, by a code.
    let mut opened = pair.open("/s/hold");
    head(&mut opened.incoming).await.unwrap();
    opened.outgoing.reset(ErrorCode::INTERNAL_ERROR);
    let error = soon(next(&mut opened.incoming)).await.unwrap().unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::INTERNAL_ERROR));
    pair.running(0).await;
    drop(opened.incoming);
    // The server, by a panic, before and after its headers.
    let mut opened = pair.open("/s/panic");
    let headers = soon(head(&mut opened.incoming)).await.unwrap();
    assert_eq!(headers.get("grpc-status"), Some(&b"13"[..]));
    drop(opened);
    let mut opened = pair.open("/s/break");
    soon(head(&mut opened.incoming)).await.unwrap();
    let error = soon(next(&mut opened.incoming)).await.unwrap().unwrap_err();
    assert_eq!(
        (error.code, error.fate),
        (Some(ErrorCode::INTERNAL_ERROR), Fate::Written)
    );
    let ended = soon(room(&mut opened.outgoing)).await;
    assert!(ended.is_err(), "whoever writes is told as well");
    drop(opened);
    assert_eq!(pair.client.pending(), 0);
    pair.lives().await;
}

#[tokio::test]
async fn an_answer_before_the_requests_end_stops_the_request() {
    let pair = pair(64 * 1024, Limits::default());
    let Opened {
        mut outgoing,
        mut incoming,
    } = pair.open("/s/early");
    let headers = soon(head(&mut incoming)).await.unwrap();
    assert_eq!(headers.get("grpc-status"), Some(&b"9"[..]));
    assert!(soon(next(&mut incoming)).await.is_none());
    assert!(soon(room(&mut outgoing)).await.is_err());
    drop((outgoing, incoming));
    assert_eq!(pair.client.pending(), 0);
}

/// Plays a client by hand: an open request to `/s/early`; what the server says of its stream.
/// What is still said behind an early answer is not waited for for long.
#[tokio::test(start_paused = true)]
async fn an_early_answer_ends_with_no_error() {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let (_, handler) = handler();
    tokio::spawn(serve(far, handler, Limits::default(), std::future::pending()));
    near.write_all(rsf_wire::frame::PREFACE).await.unwrap();
    near.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let block = b"\x83\x86\x44\x08/s/early\x5f\x10application/grpc";
    near.write_all(&[0, 0, block.len() as u8, 1, 4, 0, 0, 0, 1])
        .await
        .unwrap();
    near.write_all(block).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(
        of_stream(&mut near, 1).await,
        [(1, 5, vec![]), (3, 0, vec![0, 0, 0, 0])]
    );
}

/// Kind and flags of the frames of a stream, up to its RST_STREAM; HEADERS without their block.
async fn of_stream(near: &mut DuplexStream, stream: u32) -> Vec<(u8, u8, Vec<u8>)> {
    let mut frames = Vec::new();
    loop {
        let mut start = [0; 9];
        soon(near.read_exact(&mut start)).await.unwrap();
        let length = u32::from_be_bytes([0, start[0], start[1], start[2]]) as usize;
        let mut payload = vec![0; length];
        soon(near.read_exact(&mut payload)).await.unwrap();
        if start[5..] != stream.to_be_bytes() {
            continue;
        }
        if start[3] == 1 {
            payload.clear();
        }
        frames.push((start[3], start[4], payload));
        if start[3] == 3 {
            return frames;
        }
    }
}

#[tokio::test]
async fn streams_above_the_peers_limit_wait_for_their_turn() {
    let limits = Limits {
        concurrent_streams: 2,
        ..Limits::default()
    };
    let pair = pair(64 * 1024, limits);
    // Learns the limit.
    pair.lives().await;
    let mut first: Vec<_> = (0..2).map(|_| pair.open("/s/hold")).collect();
    pair.running(2).await;
    let mut third = pair.open("/s/echo");
    let waits = tokio::time::timeout(Duration::from_millis(50), room(&mut third.outgoing)).await;
    assert!(waits.is_err(), "there is no room before it has a stream");
    // What is sent all the same waits with it.
    third.outgoing.send(Bytes::from_static(b"early"), false);
    let fourth = pair.open("/s/hold");
    drop(first.pop());
    let came = async {
        head(&mut third.incoming).await?;
        next(&mut third.incoming).await.unwrap()
    };
    assert_eq!(soon(came).await.unwrap(), "early");
    drop((fourth, third, first));
    pair.running(0).await;
    assert_eq!(pair.client.pending(), 0);
    pair.lives().await;
}

#[tokio::test]
async fn the_fate_tells_what_was_written() {
    let (near, far) = tokio::io::duplex(512);
    let (client, connection) = Client::new(near, "test:1", Limits::default(), |_| {});
    tokio::spawn(connection);
    let mut written = client.open(grpc("/s/echo"), false);
    written.outgoing.send(Bytes::from(vec![0; 4096]), false);
    tokio::task::yield_now().await;
    let mut unwritten = client.open(grpc("/s/echo"), false);
    drop(far);
    let error = soon(head(&mut written.incoming)).await.unwrap_err();
    assert_eq!(error.fate, Fate::Written);
    let error = soon(head(&mut unwritten.incoming)).await.unwrap_err();
    assert_eq!(error.fate, Fate::NotWritten);
    let mut late = client.open(grpc("/s/echo"), false);
    let error = soon(head(&mut late.incoming)).await.unwrap_err();
    assert_eq!(error.fate, Fate::NotWritten);
    drop((written, unwritten, late));
    assert_eq!(client.pending(), 0);
}

#[tokio::test]
async fn a_dropped_connection_ends_the_handlers_of_its_streams() {
    let pair = pair(64 * 1024, Limits::default());
    let mut held = pair.open("/s/hold");
    head(&mut held.incoming).await.unwrap();
    pair.running(1).await;
    pair.served.abort();
    let mut running = pair.server.running.subscribe();
    soon(running.wait_for(|running| *running == 0)).await.unwrap();
    let error = soon(next(&mut held.incoming)).await.unwrap().unwrap_err();
    assert_eq!(error.fate, Fate::Written);
}

#[tokio::test]
async fn a_small_call_overtakes_a_large_message() {
    let limits = Limits {
        stream_window: 16 << 20,
        connection_window: 32 << 20,
        ..Limits::default()
    };
    let pair = pair(16 * 1024, limits);
    let Opened {
        mut outgoing,
        mut incoming,
    } = pair.open("/s/echo");
    head(&mut incoming).await.unwrap();
    pair.lives().await;
    let came = Arc::new(AtomicUsize::new(0));
    let counted = came.clone();
    let reading = tokio::spawn(async move {
        while let Some(piece) = next(&mut incoming).await {
            counted.fetch_add(piece.unwrap().len(), Ordering::SeqCst);
        }
    });
    outgoing.send(Bytes::from(vec![1; 10 << 20]), true);
    tokio::task::yield_now().await;
    pair.lives().await;
    let before = came.load(Ordering::SeqCst);
    assert!(before <= 1 << 20, "{before} bytes came first");
    soon(reading).await.unwrap();
    assert_eq!(came.load(Ordering::SeqCst), 10 << 20);
}

#[tokio::test]
async fn long_and_slow_unary_requests_are_handed_over_and_others_are_not() {
    let pair = pair(64 * 1024, Limits::default());
    let slow = || *pair.server.slow.borrow();
    for (size, handed_over) in [(10, 0), (15_000, 0), (3 << 20, 1), (100, 1)] {
        let body = frame(&vec![5; size]).unwrap();
        let request = Request {
            path: "/u/echo",
            constant: &[],
            varying: Literals::new(),
            body: body.clone(),
        };
        let reply = soon(pair.client.call(request)).await.unwrap();
        assert!(reply.body.unwrap() == body, "{size}");
        assert_eq!(slow(), handed_over, "{size}");
    }
    // One that trickles in.
    let Opened {
        mut outgoing,
        mut incoming,
    } = pair.open("/u/echo");
    outgoing.send(Bytes::from_static(b"\0\0\0"), false);
    let mut handed_over = pair.server.slow.subscribe();
    soon(handed_over.wait_for(|slow| *slow == 2)).await.unwrap();
    outgoing.send(Bytes::from_static(b"\0\x01a"), true);
    head(&mut incoming).await.unwrap();
    assert_eq!(soon(next(&mut incoming)).await.unwrap().unwrap(), "\0\0\0\0\x01a");
    assert!(soon(next(&mut incoming)).await.is_none());
}

#[tokio::test]
async fn a_connection_ages_before_its_streams_are_used_up() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (_, handler) = handler();
    tokio::spawn(serve(far, handler, Limits::default(), std::future::pending()));
    let limits = Limits {
        last_stream: 161,
        ..Limits::default()
    };
    let (life, mut lives) = watch::channel(Life::Ready);
    let (client, connection) = Client::new(near, "test:1", limits, move |step| {
        life.send_modify(|life| *life = step.max(*life));
    });
    tokio::spawn(connection);
    let mut seen = Vec::new();
    for _ in 0..81 {
        let body = frame(b"x").unwrap();
        let request = Request {
            path: "/u/echo",
            constant: &[],
            varying: Literals::new(),
            body,
        };
        soon(client.call(request)).await.unwrap();
        seen.push(client.life());
    }
    let aging = seen.iter().filter(|life| **life == Life::Aging).count();
    assert!(
        (9..=11).contains(&aging),
        "{aging} calls were possible after the warning"
    );
    let mut late = client.open(grpc("/s/echo"), false);
    let error = soon(head(&mut late.incoming)).await.unwrap_err();
    assert_eq!(error.fate, Fate::NotWritten);
    soon(lives.wait_for(|life| *life == Life::Closed)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_and_one_that_answers_is_not() {
    let keepalive = Keepalive {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(4),
    };
    // Both ends probe, nothing else is said.
    let limits = Limits {
        keepalive: Some(keepalive),
        ..Limits::default()
    };
    let pair = pair(64 * 1024, limits.clone());
    tokio::spawn(pair.client.keep_alive(keepalive));
    let mut held = pair.open("/s/hold");
    head(&mut held.incoming).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(pair.client.life(), Life::Ready);
    assert_eq!(*pair.server.running.borrow(), 1);
    // A peer that says its SETTINGS and nothing more.
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let (client, connection) = Client::new(near, "test:1", Limits::default(), |_| {});
    tokio::spawn(client.keep_alive(keepalive));
    let begun = tokio::time::Instant::now();
    let mut held = client.open(grpc("/s/hold"), false);
    let ended = connection.await.unwrap_err();
    assert!(ended.to_string().contains("PING"), "{ended}");
    let took = begun.elapsed().as_secs_f64();
    assert!((9.0..=10.5).contains(&took), "{took} s");
    assert_eq!(head(&mut held.incoming).await.unwrap_err().fate, Fate::Written);
    // One that takes nothing either.
    let (near, mut far) = tokio::io::duplex(512);
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let (client, connection) = Client::new(near, "test:1", Limits::default(), |_| {});
    tokio::spawn(client.keep_alive(keepalive));
    let mut stuck = client.open(grpc("/s/hold"), false);
    stuck.outgoing.send(Bytes::from(vec![0; 10_000]), true);
    let ended = tokio::time::timeout(2 * SOON, connection)
        .await
        .unwrap()
        .unwrap_err();
    assert!(ended.to_string().contains("PING"), "{ended}");
    drop(stuck);
    // The same of a server's peer.
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(rsf_wire::frame::PREFACE).await.unwrap();
    near.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let (_, handler) = handler();
    let begun = tokio::time::Instant::now();
    let ended = serve(far, handler, limits, std::future::pending())
        .await
        .unwrap_err();
    assert!(ended.to_string().contains("PING"), "{ended}");
    let took = begun.elapsed().as_secs_f64();
    assert!((9.0..=10.5).contains(&took), "{took} s");
}
