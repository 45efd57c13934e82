//! Calls between the engine's own two ends, over memory and over deliberately odd peers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step fails the test"
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rsf_wire::message::{MessageError, frame, unframe};
use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Fate, Handler, Life, Limits, Literals, Request, Response, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, Semaphore, watch};

/// Echoes. Paths: `/e/now` at once, `/e/later` after a turn, `/e/never`, `/e/gate` when let, `/e/panic`.
#[derive(Default)]
struct Echo {
    running: Arc<Running>,
    gate: Option<Arc<Semaphore>>,
}

#[derive(Default)]
struct Running {
    count: std::sync::atomic::AtomicUsize,
    changed: Notify,
}

impl Running {
    fn add(&self, change: usize) {
        self.count.fetch_add(change, std::sync::atomic::Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    async fn becomes(&self, wanted: usize) {
        loop {
            let changed = self.changed.notified();
            if self.count.load(std::sync::atomic::Ordering::SeqCst) == wanted {
                return;
            }
            changed.await;
        }
    }
}

struct Counted(Arc<Running>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.add(usize::MAX);
    }
}

impl Handler for Echo {
    fn call(&self, call: Call) -> Option<Handling> {
        let path = call.path().to_owned();
        let gate = self.gate.clone();
        let known = ["/e/now", "/e/later", "/e/never", "/e/gate", "/e/panic"];
        if !known.contains(&path.as_str()) {
            return None;
        }
        self.running.add(1);
        let counted = Counted(self.running.clone());
        Some(Box::pin(async move {
            let _counted = counted;
            match (path.as_str(), gate) {
                ("/e/later", _) => tokio::task::yield_now().await,
                ("/e/never", _) => std::future::pending().await,
                ("/e/gate", Some(gate)) => gate.acquire().await.unwrap().forget(),
                ("/e/panic", _) => panic!("on purpose"),
                _ => {}
            }
            match call.body {
                Ok(body) => {
                    let mut headers = Literals::new();
                    for name in ["grpc-timeout", "x-note"] {
                        if let Some(value) = call.headers.get(name) {
                            headers.push(&format!("echo-{name}"), value).unwrap();
                        }
                    }
                    Response::Message {
                        headers,
                        body,
                        trailers: None,
                    }
                }
                Err(error @ MessageError::TooLarge { .. }) => Response::status(8, &error.to_string()),
                Err(error) => Response::status(13, &error.to_string()),
            }
        }))
    }

    fn max_message_bytes(&self) -> usize {
        1 << 20
    }
}

struct Pair {
    client: Client,
    life: watch::Receiver<Life>,
    drain: Arc<Notify>,
    running: Arc<Running>,
    served: tokio::task::JoinHandle<Result<(), rsf_wire::client::Ended>>,
}

fn connect(io: DuplexStream, limits: Limits) -> (Client, watch::Receiver<Life>) {
    let (step, life) = watch::channel(Life::Ready);
    let (client, connection) = Client::new(io, "test:1", limits, move |life| {
        step.send_if_modified(|now| std::mem::replace(now, life.max(*now)) != *now);
    });
    tokio::spawn(connection);
    (client, life)
}

fn pair(buffer: usize, client: Limits, server: Limits, gate: Option<Arc<Semaphore>>) -> Pair {
    let (near, far) = tokio::io::duplex(buffer);
    let (client, life) = connect(near, client);
    let drain = Arc::new(Notify::new());
    let drained = drain.clone();
    let handler = Echo {
        gate,
        ..Echo::default()
    };
    let running = handler.running.clone();
    let served = tokio::spawn(async move { serve(far, Arc::new(handler), server, drained.notified()).await });
    Pair {
        client,
        life,
        drain,
        running,
        served,
    }
}

fn default_pair() -> Pair {
    pair(64 * 1024, Limits::default(), Limits::default(), None)
}

fn request<'a>(path: &'a str, message: &[u8]) -> Request<'a> {
    Request {
        path,
        constant: &[],
        varying: Literals::new(),
        body: frame(message).unwrap(),
    }
}

fn read(reply: &rsf_wire::Reply) -> Bytes {
    unframe(reply.body.as_ref().unwrap()).unwrap().unwrap()
}

#[tokio::test]
async fn an_echo_comes_back_with_its_varying_headers() {
    let pair = default_pair();
    for i in 0..50u32 {
        let (path, text) = (["/e/now", "/e/later"][i as usize % 2], format!("{i}m"));
        let mut varying = Literals::new();
        varying.push("grpc-timeout", text.as_bytes()).unwrap();
        let constant: &[(&str, &[u8])] = &[("x-note", b"same")];
        let body = frame(text.as_bytes()).unwrap();
        let reply = pair
            .client
            .call(Request {
                path,
                constant,
                varying,
                body,
            })
            .await
            .unwrap();
        assert_eq!(reply.grpc_status(), Some(0));
        assert_eq!(reply.headers.get("echo-grpc-timeout"), Some(text.as_bytes()));
        assert_eq!(reply.headers.get("echo-x-note"), Some(&b"same"[..]));
        assert_eq!(read(&reply), text);
    }
    assert_eq!(pair.client.pending(), 0);
}

#[tokio::test]
async fn unknown_paths_and_panics_are_answered() {
    let pair = default_pair();
    for (path, status) in [("/no/such", 12), ("/e/panic", 13), ("/e/now", 0)] {
        let reply = pair.client.call(request(path, b"x")).await.unwrap();
        assert_eq!(reply.grpc_status(), Some(status), "{path}");
    }
}

#[tokio::test]
async fn a_thousand_calls_at_once_under_a_limit_of_streams() {
    let server = Limits {
        concurrent_streams: 7,
        ..Limits::default()
    };
    let pair = pair(512, Limits::default(), server, None);
    // Until its SETTINGS came a peer is taken to admit 100; what is over its real limit it would refuse.
    pair.client.call(request("/e/now", b"x")).await.unwrap();
    let client = Arc::new(pair.client);
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..1000u32 {
        let client = client.clone();
        calls.spawn(async move {
            let text = format!("call {i}");
            let path = ["/e/now", "/e/later"][i as usize % 2];
            let reply = client.call(request(path, text.as_bytes())).await.unwrap();
            assert_eq!(read(&reply), text);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    assert_eq!(client.pending(), 0);
}

#[tokio::test]
async fn bodies_larger_than_every_window_go_through_both_ways() {
    let small = Limits {
        stream_window: 1000,
        unwritten_bytes: 2000,
        ..Limits::default()
    };
    let pair = pair(4096, small.clone(), small, None);
    let client = Arc::new(pair.client);
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..8u8 {
        let client = client.clone();
        calls.spawn(async move {
            let message = vec![i; 300_000];
            let reply = client.call(request("/e/later", &message)).await.unwrap();
            assert_eq!(read(&reply), message);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

#[tokio::test]
async fn messages_over_the_limits_are_refused_on_either_side() {
    let client = Limits {
        message_bytes: 1000,
        ..Limits::default()
    };
    let pair = pair(64 * 1024, client, Limits::default(), None);
    let reply = pair
        .client
        .call(request("/e/now", &vec![0; (1 << 20) + 1]))
        .await
        .unwrap();
    assert_eq!(reply.grpc_status(), Some(8));
    let reply = pair.client.call(request("/e/now", &[0; 1001])).await.unwrap();
    assert_eq!(reply.body, Err(MessageError::TooLarge { limit: 1000 }));
    let reply = pair.client.call(request("/e/now", &[0; 1000])).await.unwrap();
    assert_eq!(reply.grpc_status(), Some(0));
}

#[tokio::test]
async fn a_cancelled_call_frees_its_slot_and_stops_its_handler() {
    let pair = default_pair();
    for _ in 0..20 {
        let slot = pair.client.send(request("/e/never", b"x"));
        pair.running.becomes(1).await;
        assert_eq!(pair.client.pending(), 1);
        pair.client.cancel(slot);
        assert_eq!(pair.client.pending(), 0);
        pair.running.becomes(0).await;
    }
}

#[tokio::test]
async fn a_cancelled_call_that_waited_for_a_stream_is_never_sent() {
    let gate = Arc::new(Semaphore::new(0));
    let server = Limits {
        concurrent_streams: 1,
        ..Limits::default()
    };
    let pair = pair(64 * 1024, Limits::default(), server, Some(gate.clone()));
    // The first call learns the limit of one stream.
    pair.client.call(request("/e/now", b"x")).await.unwrap();
    let first = pair.client.send(request("/e/gate", b"1"));
    let second = pair.client.send(request("/e/never", b"2"));
    let third = pair.client.send(request("/e/now", b"3"));
    pair.running.becomes(1).await;
    pair.client.cancel(second);
    gate.add_permits(1);
    for (slot, text) in [(first, "1"), (third, "3")] {
        let reply = std::future::poll_fn(|cx| pair.client.poll(slot, cx))
            .await
            .unwrap();
        assert_eq!(read(&reply), text);
    }
    assert_eq!(pair.client.pending(), 0);
    pair.running.becomes(0).await;
}

#[tokio::test]
async fn draining_finishes_running_calls_and_takes_no_new_ones() {
    let gate = Arc::new(Semaphore::new(0));
    let mut pair = pair(
        64 * 1024,
        Limits::default(),
        Limits::default(),
        Some(gate.clone()),
    );
    let running = pair.client.send(request("/e/gate", b"kept"));
    pair.running.becomes(1).await;
    pair.drain.notify_one();
    pair.life.wait_for(|life| *life == Life::Draining).await.unwrap();
    let refused = pair.client.call(request("/e/now", b"x")).await.unwrap_err();
    assert_eq!(refused.fate, Fate::NotWritten);
    gate.add_permits(1);
    let reply = std::future::poll_fn(|cx| pair.client.poll(running, cx))
        .await
        .unwrap();
    assert_eq!(read(&reply), "kept");
    pair.life.wait_for(|life| *life == Life::Closed).await.unwrap();
    pair.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn closing_finishes_running_calls() {
    let gate = Arc::new(Semaphore::new(0));
    let mut pair = pair(
        64 * 1024,
        Limits::default(),
        Limits::default(),
        Some(gate.clone()),
    );
    let running = pair.client.send(request("/e/gate", b"kept"));
    pair.client.close();
    gate.add_permits(1);
    assert!(
        std::future::poll_fn(|cx| pair.client.poll(running, cx))
            .await
            .is_ok()
    );
    pair.life.wait_for(|life| *life == Life::Closed).await.unwrap();
    pair.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_the_client_cancels_everything() {
    let pair = default_pair();
    pair.client.send(request("/e/never", b"x"));
    pair.running.becomes(1).await;
    drop(pair.client);
    pair.running.becomes(0).await;
}

#[tokio::test]
async fn the_fate_tells_what_was_written() {
    // A peer that never reads: what does not fit into the pipe provably was not written.
    let (near, far) = tokio::io::duplex(512);
    let (client, _) = connect(near, Limits::default());
    let written = client.send(request("/e/now", &[0; 4096]));
    tokio::task::yield_now().await;
    let unwritten = client.send(request("/e/now", b"x"));
    drop(far);
    let fate = async |slot| {
        std::future::poll_fn(|cx| client.poll(slot, cx))
            .await
            .unwrap_err()
            .fate
    };
    assert_eq!(fate(written).await, Fate::Written);
    assert_eq!(fate(unwritten).await, Fate::NotWritten);
    assert_eq!(
        client.call(request("/e/now", b"x")).await.unwrap_err().fate,
        Fate::NotWritten
    );
}

/// Plays a server by hand: swallows what the client says, says `bytes`, and returns the client's outcome.
async fn answered_by(bytes: Vec<u8>) -> Result<rsf_wire::Reply, rsf_wire::CallError> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (client, _) = connect(near, Limits::default());
    let slot = client.send(request("/e/now", b"x"));
    let mut said = [0; 120];
    far.read_exact(&mut said).await.unwrap();
    far.write_all(&bytes).await.unwrap();
    let outcome = tokio::time::timeout(
        Duration::from_secs(10),
        std::future::poll_fn(|cx| client.poll(slot, cx)),
    );
    outcome.await.expect("the call must end")
}

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

#[tokio::test]
async fn refusals_and_broken_servers_end_the_call_with_the_right_fate() {
    for (frames, fate) in [
        (&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7][..], Fate::Refused),
        (&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2], Fate::Written),
        (
            &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Fate::Refused,
        ),
        (&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0xfe], Fate::Written),
        (&[0, 0, 1, 0, 0, 0, 0, 0, 1, 0], Fate::Written),
        (&[0, 0, 1, 1, 4, 0, 0, 0, 9, 0x88], Fate::Written),
        (&[0xff; 9], Fate::Written),
    ] {
        let error = answered_by([SETTINGS, frames].concat()).await.unwrap_err();
        assert_eq!(error.fate, fate, "{frames:?}: {error}");
    }
}

#[tokio::test]
async fn padding_and_continuation_are_read() {
    let headers = [
        &[0, 0, 3, 1, 8, 0, 0, 0, 1, 1, 0x88, 0][..],
        &[0, 0, 0, 9, 4, 0, 0, 0, 1],
    ]
    .concat();
    let data = [&[0, 0, 9, 0, 8, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1][..], b"a", &[0, 0]].concat();
    let trailers = [
        &[0, 0, 15, 1, 5, 0, 0, 0, 1, 0, 11][..],
        b"grpc-status",
        &[1],
        b"0",
    ]
    .concat();
    let reply = answered_by([SETTINGS, &headers, &data, &trailers].concat())
        .await
        .unwrap();
    assert_eq!(reply.grpc_status(), Some(0));
    assert_eq!(read(&reply), Bytes::from_static(b"a"));
}

/// Says `bytes` to a server after preface and SETTINGS; what it ends with.
async fn served(bytes: &[u8]) -> Result<(), rsf_wire::client::Ended> {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    near.write_all(rsf_wire::frame::PREFACE).await.unwrap();
    near.write_all(SETTINGS).await.unwrap();
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let reader = tokio::spawn(async move { near.read_to_end(&mut Vec::new()).await });
    let ended = serve(
        far,
        Arc::new(Echo::default()),
        Limits::default(),
        std::future::pending(),
    )
    .await;
    reader.await.unwrap().unwrap();
    ended
}

/// Computes for a while; tells which task it did so in.
struct Burner {
    burn: Duration,
    tasks: Arc<std::sync::Mutex<std::collections::HashMap<tokio::task::Id, usize>>>,
}

impl Handler for Burner {
    fn call(&self, call: Call) -> Option<Handling> {
        let (burn, tasks) = (self.burn, self.tasks.clone());
        Some(Box::pin(async move {
            let began = tokio::time::Instant::now();
            while began.elapsed() < burn {
                std::hint::spin_loop();
            }
            *tasks.lock().unwrap().entry(tokio::task::id()).or_default() += 1;
            Response::ok(call.body.unwrap_or_default())
        }))
    }
}

/// How many of 64 requests that came together were handled in the connection's own task.
async fn handled_in_place(burn: Duration, in_place_time: Duration) -> usize {
    let tasks: Arc<std::sync::Mutex<_>> = Arc::default();
    let limits = Limits {
        in_place_time,
        ..Limits::default()
    };
    let (near, far) = tokio::io::duplex(1 << 20);
    let handler = Arc::new(Burner {
        burn,
        tasks: tasks.clone(),
    });
    let client = connect(near, Limits::default()).0;
    let calls: Vec<_> = (0..64).map(|_| client.send(request("/e/now", b"x"))).collect();
    tokio::task::yield_now().await;
    let served = tokio::spawn(serve(far, handler, limits, std::future::pending()));
    for slot in calls {
        let reply = std::future::poll_fn(|cx| client.poll(slot, cx)).await.unwrap();
        assert_eq!(read(&reply), "x");
    }
    let tasks = tasks.lock().unwrap();
    assert_eq!(tasks.values().sum::<usize>(), 64);
    tasks.get(&served.id()).copied().unwrap_or_default()
}

/// One handler that burns CPU does not keep all that came with it from the other cores.
#[tokio::test]
async fn handlers_that_compute_become_tasks_when_their_budget_is_used_up() {
    let hour = Duration::from_secs(3600);
    let burn = Duration::from_millis(2);
    let default = Limits::default().in_place_time;
    assert_eq!(handled_in_place(burn, default).await, 1);
    assert_eq!(handled_in_place(burn, hour).await, 64);
    assert_eq!(handled_in_place(Duration::ZERO, Duration::ZERO).await, 0);
}

#[tokio::test]
async fn floods_of_resets_end_the_connection() {
    let mut flood = Vec::new();
    for i in 0..10_000u32 {
        let [a, b, c, d] = (2 * i + 1).to_be_bytes();
        let path = b"\x83\x86\x44\x06/e/now\x5f\x10application/grpc";
        flood.extend_from_slice(&[0, 0, path.len() as u8, 1, 4, a, b, c, d]);
        flood.extend_from_slice(path);
        flood.extend_from_slice(&[0, 0, 4, 3, 0, a, b, c, d, 0, 0, 0, 8]);
    }
    let error = served(&flood).await.unwrap_err();
    assert!(error.to_string().contains("reset before their reply"), "{error}");
}

#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let mut flood = vec![0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83];
    for _ in 0..1000 {
        flood.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 0, 1]);
    }
    let error = served(&flood).await.unwrap_err();
    assert!(error.to_string().contains("header block is too large"), "{error}");
}

#[tokio::test]
async fn random_bytes_end_or_stall_a_server_but_never_panic_it() {
    for seed in 0..300u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let bytes: Vec<u8> = (0..600)
            .map(|i| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Heads of short, known frames often, so that their payloads are reached.
                match i % 14 {
                    0 | 1 | 5 | 6 | 7 => 0,
                    2 => 5,
                    3 => (state % 10) as u8,
                    8 => (state % 7) as u8,
                    _ => state as u8,
                }
            })
            .collect();
        let _ = served(&bytes).await;
    }
}
