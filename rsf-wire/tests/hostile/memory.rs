//! Memory that peers would like to take, and ends that wait for each other.

use std::sync::Arc;
use std::time::Duration;

use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Handler, Limits, Literals, Refusal, Request, Response};

use crate::peer::{Peer, echoed, pair, pair_with};
use crate::raw::*;

const PIECE: usize = 16_000;

#[tokio::test]
async fn unfinished_bodies_beyond_the_limit_are_refused() {
    let before = Refusal::Buffered.count();
    let limits = Limits {
        buffered_bytes: 10 * PIECE,
        ..Limits::default()
    };
    let mut peer = Peer::greeted(limits).await;
    for i in 0..20 {
        peer.say(&headers(2 * i + 1, END_HEADERS, &request("/t/now")))
            .await;
        peer.say(&data(2 * i + 1, 0, &[7; PIECE])).await;
    }
    let (seen, alive) = peer.settle().await;
    let refused: Vec<_> = seen.iter().filter(|frame| frame.kind == RST_STREAM).collect();
    assert!(alive);
    assert_eq!(refused.len(), 10, "{refused:?}");
    assert!(refused.iter().all(|frame| frame.code() == REFUSED_STREAM));
    assert!(Refusal::Buffered.count() >= before + 10);
    // What is given up is given back, by the peer and by its end.
    peer.say(&reset(1, CANCEL)).await;
    peer.say(&data(3, END_STREAM, b"")).await;
    for stream in [101, 103] {
        peer.say(&headers(stream, END_HEADERS, &request("/t/now"))).await;
        peer.say(&data(stream, 0, &[7; PIECE])).await;
    }
    let (seen, _) = peer.settle().await;
    assert!(
        seen.iter().all(|frame| frame.kind != RST_STREAM),
        "{}",
        seen.len()
    );
}

#[tokio::test]
async fn replies_that_nobody_reads_are_reset_beyond_the_limit() {
    let before = Refusal::Unsent.count();
    let limits = Limits {
        unsent_bytes: 10 * PIECE,
        ..Limits::default()
    };
    let mut peer = Peer::greeted(limits).await;
    peer.say(&settings(&[(4, 0)])).await;
    let ask = async |peer: &mut Peer, i: u32| {
        peer.say(&headers(2 * i + 1, END_HEADERS, &request("/t/now")))
            .await;
        peer.say(&data(2 * i + 1, END_STREAM, &[7; PIECE])).await;
        peer.settle().await.0
    };
    let mut reset = 0;
    for i in 0..15 {
        let seen = ask(&mut peer, i).await;
        reset += seen.iter().filter(|frame| frame.kind == RST_STREAM).count();
    }
    assert_eq!(reset, 5);
    assert!(Refusal::Unsent.count() >= before + 5);
    // The others come when they may, and make room.
    peer.say(&settings(&[(4, 1 << 20)])).await;
    peer.say(&window_update(0, 1 << 24)).await;
    let (seen, _) = peer.settle().await;
    let came: usize = (0..15).map(|i| echoed(&seen, 2 * i + 1).len()).sum();
    assert_eq!(came, 10 * PIECE);
    let seen = ask(&mut peer, 20).await;
    assert_eq!(echoed(&seen, 41).len(), PIECE);
}

fn call<'a>(path: &'a str, constant: &'a [(&'a str, &'a [u8])], size: usize) -> Request<'a> {
    Request {
        path,
        constant,
        varying: Literals::new(),
        body: rsf_wire::message::frame(&vec![7; size]).unwrap(),
    }
}

/// Calls that were given up while they waited for a stream take no place from others.
#[tokio::test]
async fn places_of_calls_that_were_given_up_are_free_again() {
    let limits = Limits {
        queued_calls: 3,
        ..Limits::default()
    };
    // Nobody drives the connection: the peer admits 100 streams as far as the client knows.
    let (near, _far) = tokio::io::duplex(64);
    let (client, _connection) = Client::new(near, "test", limits, |_| {});
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..100 {
        client.send(call("/t/never", &[], 3));
    }
    for round in 0..500 {
        let waiting: Vec<_> = (0..3).map(|_| client.send(call("/t/never", &[], 3))).collect();
        let refused = client.send(call("/t/never", &[], 3));
        assert!(client.poll(refused, &mut cx).is_ready(), "{round}");
        for slot in waiting {
            assert!(client.poll(slot, &mut cx).is_pending(), "{round}");
            client.cancel(slot);
        }
    }
    let slot = client.send(call("", &[], 3));
    let std::task::Poll::Ready(Err(error)) = client.poll(slot, &mut cx) else {
        panic!("a request without a path is refused");
    };
    assert!(error.to_string().contains("path"), "{error}");
}

/// Bytes of a header that no buffer of [`tight`] has room for twice.
const WIDE: usize = 3_000;

/// Answers with a header of [`WIDE`] bytes.
struct Wide;

impl Handler for Wide {
    fn call(&self, call: Call) -> Option<Handling> {
        let body = call.body.ok()?;
        let mut headers = Literals::new();
        headers.push("x-wide", &[b'w'; WIDE]).ok()?;
        let trailers = None;
        Some(Box::pin(std::future::ready(Response::Message {
            headers,
            body,
            trailers,
        })))
    }
}

/// So little may wait that one more header block floods an end.
fn tight() -> Limits {
    Limits {
        unwritten_bytes: 600,
        ..Limits::default()
    }
}

/// Requests and replies are wider than what may wait at either end, and the pipe holds a hundredth of each. A server that
/// owes several replies rests from reading; a client that begins calls as replies come is flooded with what it does not take.
/// Were it to rest too, neither would ever read.
#[tokio::test]
async fn two_flooded_ends_do_not_wait_for_each_other() {
    let few_streams = Limits {
        concurrent_streams: 8,
        ..tight()
    };
    let client = Arc::new(pair_with(Arc::new(Wide), 32, tight(), few_streams));
    let ask = |client: Arc<Client>| async move {
        let mut request = call("/t/wide", &[], 10);
        request.varying.push("x-wide", &[b'w'; WIDE]).unwrap();
        let reply = client.call(request).await.unwrap();
        assert_eq!(reply.headers.get("x-wide").map(<[u8]>::len), Some(WIDE));
    };
    // From now on the client knows how few streams it may open.
    ask(client.clone()).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        calls.spawn(ask(client.clone()));
    }
    let all = async { while calls.join_next().await.transpose().unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .expect("no deadlock");
}

/// Both ends have more to say than the pipe and their buffers hold, calls are given up all the time, and still all ends.
#[tokio::test]
async fn calls_that_are_given_up_between_full_ends_leave_nothing_behind() {
    let client = Arc::new(pair(128, tight(), tight()));
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..600 {
        let client = client.clone();
        calls.spawn(async move {
            let slot = client.send(call("/t/now", &[], 100 + i));
            if i % 2 == 0 {
                tokio::task::yield_now().await;
                client.cancel(slot);
                return;
            }
            let reply = std::future::poll_fn(|cx| client.poll(slot, cx)).await.unwrap();
            assert_eq!(reply.body.unwrap().len(), 105 + i);
        });
    }
    let all = async { while calls.join_next().await.transpose().unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .expect("no deadlock");
    assert_eq!(client.pending(), 0);
}

/// A request's headers enter the table when they are written. One that is given up before must leave no trace there,
/// one that is given up behind must leave it.
#[tokio::test]
async fn a_request_that_is_given_up_leaves_both_tables_alike() {
    let one_stream = Limits {
        concurrent_streams: 1,
        ..Limits::default()
    };
    let client: Client = pair(1 << 16, Limits::default(), one_stream);
    let ask = async |constant: &[(&str, &[u8])]| {
        let reply = client.call(call("/t/now", constant, 3)).await.unwrap();
        assert_eq!(reply.grpc_status(), Some(0), "{reply:?}");
    };
    ask(&[]).await;
    for round in 0..30u32 {
        let text = format!("round {round}");
        let (waits, goes): ([(&str, &[u8]); 1], _) =
            ([("x-waits", text.as_bytes())], [("x-goes", text.as_bytes())]);
        let running = client.send(call("/t/never", &goes, 3));
        let queued = client.send(call("/t/never", &waits, 3));
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        client.cancel(queued);
        client.cancel(running);
        ask(&goes).await;
        ask(&waits).await;
        ask(&waits).await;
    }
}
