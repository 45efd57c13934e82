//! Four targets, each fed at random for a while: nothing panics, hangs, or stays behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use rsf_wire::hpack::{Constants, Decoder, Encoder};
use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Handler, Limits, Literals, Request, Response, frame, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::input;

/// Virtual time, far above every limit that a connection keeps.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// Runs a target with seed after seed while there is time, and says how often.
#[allow(clippy::print_stdout, reason = "`make fuzz` shows it")]
fn fuzz(target: impl Fn(&mut Rng)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = number("RSF_FUZZ_SECONDS").unwrap_or(1);
    let first = number("RSF_FUZZ_SEED").unwrap_or(0);
    let mut seed = first;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) {
        let told = Told(seed);
        target(&mut Rng::with_seed(seed));
        drop(told);
        seed += 1;
    }
    let thread = std::thread::current();
    let target = thread.name().unwrap_or_default();
    println!("{target}: {} runs from seed {first} on", seed - first);
}

/// Tells the seed of a panic.
struct Told(u64);

#[allow(clippy::print_stdout, reason = "a failed test tells how to repeat it")]
impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("RSF_FUZZ_SEED={} repeats this", self.0);
        }
    }
}

#[test]
fn frames_are_read_or_refused() {
    fuzz(|rng| {
        let bytes = input::frames(rng, false);
        // However they are cut, the same comes of them.
        let mut whole = BytesMut::from(&bytes[..]);
        let mut pieces = BytesMut::new();
        let mut rest = &bytes[..];
        loop {
            let expected = frame::read(&mut whole, 16_384);
            let mut got = frame::read(&mut pieces, 16_384);
            while got == Ok(None) && !rest.is_empty() {
                let (piece, after) = rest.split_at(rng.usize(1..=rest.len().min(40)));
                pieces.extend_from_slice(piece);
                rest = after;
                got = frame::read(&mut pieces, 16_384);
            }
            assert_eq!(expected, got);
            if !matches!(expected, Ok(Some(_))) {
                return;
            }
        }
    });
}

#[test]
fn header_blocks_are_decoded_or_refused() {
    fuzz(|rng| {
        let (mut memo, mut fresh) = (Decoder::new(4_096, 4_096), None);
        let mut encoder = Encoder::new(4_096);
        for _ in 0..rng.usize(1..40) {
            let mut block = match rng.u8(..4) {
                // Our own, which the memo is made for.
                0 | 1 => {
                    let mut out = Vec::new();
                    let path = ["/a", "/b"][rng.usize(..2)];
                    let before: &[(&str, &[u8])] = &[(":method", b"POST"), (":scheme", b"http")];
                    let constants = Constants {
                        before,
                        path,
                        ..Constants::default()
                    };
                    encoder.encode(constants, &Literals::new(), &mut out);
                    out
                }
                _ => input::block(rng),
            };
            if rng.u8(..) < 10 {
                input::spoil(rng, &mut block);
            }
            let block = Bytes::from(block);
            let Ok(headers) = memo.decode(&block) else { return };
            let size: usize = headers.iter().map(|field| field.size()).sum();
            assert!(size <= 4_096, "{size}");
            for field in headers.iter() {
                let name = std::str::from_utf8(&field.name).unwrap_or_default();
                assert!(name.is_empty() || headers.get(name).is_some(), "{field:?}");
            }
            // A block that comes first says the same to who remembers nothing.
            let first: &mut Option<Decoder> = &mut fresh;
            if first.is_none() {
                let mut decoder = Decoder::new(4_096, 4_096);
                let again = decoder.decode(&block).unwrap();
                assert!(again.iter().eq(headers.iter()));
                *first = Some(decoder);
            }
        }
    });
}

/// Handlers under way.
#[derive(Default, Clone)]
struct Running(Arc<AtomicUsize>);

struct One(Running);

impl Drop for One {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Handler for Running {
    fn call(&self, call: Call) -> Option<Handling> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let one = One(self.clone());
        Some(Box::pin(async move {
            let _one = one;
            match call.path() {
                "/t/never" => std::future::pending().await,
                "/t/late" => tokio::time::sleep(Duration::from_secs(1)).await,
                _ => {}
            }
            Response::ok(call.body.unwrap_or_default())
        }))
    }
}

fn with_virtual_time(run: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(run);
}

/// Says bytes in pieces, reads what comes back now and then, hangs up, and reads to the end.
async fn talk(rng: &mut Rng, mut io: tokio::io::DuplexStream, bytes: &[u8]) {
    let mut rest = bytes;
    let mut heard = vec![0; 4_096];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.usize(1..=rest.len().min(3_000)));
        rest = after;
        if tokio::time::timeout(FOR_EVER, io.write_all(piece)).await.is_err() {
            // Both are full: the peer rests until it is read.
            let _ = io.read(&mut heard).await;
        }
        if rng.bool() {
            let _ = tokio::time::timeout(Duration::ZERO, io.read(&mut heard)).await;
        }
        if rng.u8(..) < 10 {
            tokio::time::sleep(Duration::from_secs(rng.u64(..30))).await;
        }
    }
    if rng.bool() {
        let _ = io.shutdown().await;
        while io.read(&mut heard).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

#[test]
fn servers_end_with_their_peers_and_leave_nothing_behind() {
    fuzz(|rng| {
        let bytes = input::frames(rng, true);
        let running = Running::default();
        with_virtual_time(async {
            let (near, far) = tokio::io::duplex(1 << rng.u32(4..17));
            let handler = Arc::new(running.clone());
            let served = tokio::spawn(serve(far, handler, limits(rng), std::future::pending()));
            talk(rng, near, &bytes).await;
            let ended = tokio::time::timeout(FOR_EVER, served).await;
            let _ = ended.expect("it ends").expect("it does not panic");
            // Tasks that were cancelled go with the next turn.
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
        assert_eq!(running.0.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn clients_end_with_their_peers_and_all_calls_with_them() {
    fuzz(|rng| {
        let bytes = input::frames(rng, false);
        with_virtual_time(async {
            let (near, far) = tokio::io::duplex(1 << rng.u32(4..17));
            let (client, connection) = Client::new(far, "test", limits(rng), |_| {});
            let driven = tokio::spawn(connection);
            let mut slots: Vec<_> = (0..rng.usize(1..6))
                .map(|i| {
                    client.send(Request {
                        path: "/t/now",
                        constant: &[("x-a", b"same")],
                        varying: Literals::new(),
                        body: frame_of(i * 1_000),
                    })
                })
                .collect();
            if rng.bool() {
                client.cancel(slots.swap_remove(rng.usize(..slots.len())));
            }
            talk(rng, near, &bytes).await;
            let ended = tokio::time::timeout(FOR_EVER, driven).await;
            let _ = ended.expect("it ends").expect("it does not panic");
            for slot in slots {
                let outcome = std::future::poll_fn(|cx| client.poll(slot, cx));
                let _ = tokio::time::timeout(FOR_EVER, outcome)
                    .await
                    .expect("each call ends");
            }
            assert_eq!(client.pending(), 0);
        });
    });
}

fn frame_of(size: usize) -> Bytes {
    rsf_wire::message::frame(&vec![1; size]).unwrap()
}

fn limits(rng: &mut Rng) -> Limits {
    Limits {
        unwritten_bytes: [100, 10_000, 256 * 1024][rng.usize(..3)],
        stream_window: [1, 1_000, 1 << 20][rng.usize(..3)],
        buffered_bytes: [1_000, 64 << 20][rng.usize(..2)],
        concurrent_streams: [1, 4_096][rng.usize(..2)],
        ..Limits::default()
    }
}
