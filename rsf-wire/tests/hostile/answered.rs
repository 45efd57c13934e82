//! Requests that go on after their answer: their rest passes by, for a while.

use std::sync::Arc;
use std::time::Duration;

use rsf_wire::hpack::Headers;
use rsf_wire::server::{Handling, Serving};
use rsf_wire::{Call, Handler, Limits, Literals, Route, StreamingCall};
use tokio::time::Instant;

use crate::peer::{Peer, Seen, echoed};
use crate::raw::*;

const NO_ERROR: u32 = 0;
const ANSWER: usize = 10_000;

/// Answers streams with [`ANSWER`] bytes and reads nothing of them; refuses all else that it can.
struct Early;

impl Handler for Early {
    fn route(&self, headers: &Headers) -> Route {
        match headers.get(":path").unwrap_or_default().starts_with(b"/s/") {
            true => Route::Streaming,
            false => Route::Unary(0),
        }
    }

    fn call(&self, _: Call) -> Option<Handling> {
        None
    }

    fn stream(&self, call: StreamingCall) -> Serving {
        Box::pin(async move {
            let mut out = call.answer.grpc(Literals::new());
            out.send(vec![7; ANSWER].into(), false);
            out.finish(Literals::new());
        })
    }
}

/// Faces a server that answers early, with no window for its answers.
async fn without_window() -> Peer {
    let mut peer = Peer::of_handler(Arc::new(Early), Limits::default()).greet().await;
    peer.say(&settings(&[(4, 0)])).await;
    peer
}

/// Asks for an answer before its request ends; it waits for a window from then on.
async fn answer_early(peer: &mut Peer, stream: u32) {
    peer.say(&headers(stream, END_HEADERS, &request("/s/early")))
        .await;
    peer.until(|frame| frame.is(HEADERS, stream)).await.unwrap();
    let (seen, _) = peer.settle().await;
    assert!(echoed(&seen, stream).is_empty() && resets(&seen).is_empty());
}

fn pong() -> Vec<u8> {
    frame(PING, ACK, 0, b"rsfrests")
}

fn room(stream: u32) -> Vec<u8> {
    window_update(stream, 1 << 20)
}

/// The answer comes, whole and alone, and the reset when the peer has it.
async fn answered_and_reset(peer: &mut Peer, stream: u32) {
    let mut seen = peer
        .until(|frame| frame.is(PING, 0) && frame.flags == 0)
        .await
        .unwrap();
    seen.extend(peer.settle().await.0);
    assert_eq!(echoed(&seen, stream).len(), ANSWER);
    assert!(seen.iter().any(|frame| frame.is(HEADERS, stream) && frame.ends()));
    assert!(resets(&seen).is_empty(), "{seen:?}");
    peer.say(&pong()).await;
    let (seen, alive) = peer.settle().await;
    assert!(alive);
    assert_eq!(resets(&seen), [(stream, NO_ERROR)]);
}

/// A request that is refused for its headers, with a body still to come.
fn refused(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS, &request_without("content-type"))
}

fn resets(seen: &[Seen]) -> Vec<(u32, u32)> {
    let resets = seen.iter().filter(|frame| frame.kind == RST_STREAM);
    resets.map(|frame| (frame.stream, frame.code())).collect()
}

#[tokio::test]
async fn a_body_that_is_not_long_passes_by() {
    let mut peer = Peer::greeted(Limits::default()).await;
    let trailers = block(&[("x", "y")]);
    for (stream, end) in [
        (1, data(1, END_STREAM, b"end")),
        (3, headers(3, WHOLE, &trailers)),
        (5, reset(5, CANCEL)),
    ] {
        peer.say(&refused(stream)).await;
        for _ in 0..16 {
            peer.say(&data(stream, 0, &[7; 16_000])).await;
        }
        peer.say(&end).await;
        let (seen, alive) = peer.settle().await;
        assert!(alive && resets(&seen).is_empty(), "{seen:?}");
        assert!(seen.iter().any(|frame| frame.is(HEADERS, stream) && frame.ends()));
        let windows = seen.iter().filter(|frame| frame.is(WINDOW_UPDATE, stream));
        assert_eq!(windows.count(), 0, "nobody asked for more");
    }
    // Their ends were heard: what comes behind is no part of them, be it more than was left.
    for stream in [1, 3, 5] {
        peer.say(&data(stream, 0, &[7; 16_000])).await;
    }
    let (seen, alive) = peer.settle().await;
    assert!(alive && resets(&seen).is_empty(), "{seen:?}");
    peer.say(&headers(7, WHOLE, &request("/t/now"))).await;
    let (seen, _) = peer.settle().await;
    assert!(seen.iter().any(|frame| frame.is(HEADERS, 7)));
}

#[tokio::test]
async fn a_long_one_is_reset() {
    let mut peer = Peer::greeted(Limits::default()).await;
    peer.say(&refused(1)).await;
    for _ in 0..17 {
        peer.say(&data(1, 0, &[7; 16_000])).await;
    }
    let (seen, alive) = peer.settle().await;
    assert!(alive);
    assert_eq!(resets(&seen), [(1, NO_ERROR)]);
    peer.say(&data(1, 0, &[7; 16_000])).await;
    let (seen, alive) = peer.settle().await;
    assert!(alive && resets(&seen).is_empty());
}

/// Clients that stop to send when they have the answer wait for it.
#[tokio::test]
async fn one_is_reset_as_soon_as_the_peer_has_the_answer() {
    let mut peer = Peer::greeted(Limits::default()).await;
    peer.say(&refused(1)).await;
    let (seen, _) = peer.settle().await;
    let kinds: Vec<_> = seen.iter().map(|frame| (frame.kind, frame.stream)).collect();
    assert_eq!(kinds, [(HEADERS, 1), (PING, 0)]);
    peer.say(&refused(3)).await;
    assert_eq!(peer.settle().await.0.len(), 1, "one PING at a time");
    let pong = frame(PING, ACK, 0, &seen[1].payload);
    peer.say(&pong).await;
    let (seen, _) = peer.settle().await;
    let kinds: Vec<_> = seen.iter().map(|frame| (frame.kind, frame.stream)).collect();
    assert_eq!(kinds, [(RST_STREAM, 1), (PING, 0)]);
    peer.say(&pong.repeat(2)).await;
    let (seen, alive) = peer.settle().await;
    assert!(alive);
    assert_eq!((seen.len(), resets(&seen)), (1, vec![(3, NO_ERROR)]));
}

#[tokio::test(start_paused = true)]
async fn one_that_rests_is_reset_and_so_are_those_beyond_a_few() {
    let mut peer = Peer::greeted(Limits::default()).await;
    for stream in 0..66 {
        peer.say(&refused(2 * stream + 1)).await;
    }
    let (seen, alive) = peer.settle().await;
    assert!(alive);
    assert_eq!(resets(&seen), [(1, NO_ERROR), (3, NO_ERROR)]);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(resets(&peer.settle().await.0).is_empty());
    tokio::time::sleep(Duration::from_secs(7)).await;
    let (seen, _) = peer.settle().await;
    assert_eq!(resets(&seen).len(), 64, "{:?}", began.elapsed());
}

#[tokio::test]
async fn crumbs_of_one_are_noise() {
    let limits = Limits {
        control_frames: 500,
        ..Limits::default()
    };
    let mut peer = Peer::greeted(limits).await;
    peer.say(&refused(1)).await;
    peer.say(&data(1, 0, b"x").repeat(600)).await;
    let (seen, alive) = peer.settle().await;
    assert!(!alive);
    assert_eq!(seen.last().map(|frame| frame.kind), Some(GOAWAY));
}

/// What waits for the peer's windows goes out behind any PING that is out by then.
#[tokio::test]
async fn an_answer_that_waits_for_windows_has_no_reset_in_its_back() {
    let mut peer = without_window().await;
    answer_early(&mut peer, 1).await;
    // Answers whatever PING there was, behind the room for the answer.
    peer.say(&[room(1), pong()].concat()).await;
    answered_and_reset(&mut peer, 1).await;
    // The same where the PING is another stream's.
    answer_early(&mut peer, 3).await;
    peer.say(&refused(5)).await;
    peer.settle().await;
    peer.say(&[room(3), pong()].concat()).await;
    peer.until(|frame| frame.is(RST_STREAM, 5)).await.unwrap();
    let (seen, _) = peer.settle().await;
    assert!(resets(&seen).is_empty(), "{seen:?}");
    peer.say(&pong()).await;
    assert_eq!(resets(&peer.settle().await.0), [(3, NO_ERROR)]);
}

/// However long the peer takes its time, and whatever it sends meanwhile.
#[tokio::test(start_paused = true)]
async fn one_that_waits_for_windows_is_reset_when_its_answer_is_there() {
    let mut peer = without_window().await;
    answer_early(&mut peer, 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    for _ in 0..20 {
        peer.say(&data(1, 0, &[7; 16_000])).await;
    }
    let (seen, alive) = peer.settle().await;
    assert!(alive && resets(&seen).is_empty(), "{seen:?}");
    peer.say(&room(1)).await;
    answered_and_reset(&mut peer, 1).await;
}

#[tokio::test]
async fn those_beyond_a_few_are_reset_behind_their_answers() {
    let mut peer = without_window().await;
    for stream in 0..66 {
        answer_early(&mut peer, 2 * stream + 1).await;
    }
    for stream in [1, 3] {
        peer.say(&room(stream)).await;
        let (seen, alive) = peer.settle().await;
        assert!(alive);
        let ended = seen.iter().position(|frame| frame.ends()).unwrap();
        assert!(seen[ended + 1].is(RST_STREAM, stream), "{seen:?}");
        assert_eq!(echoed(&seen, stream).len(), ANSWER);
    }
    peer.say(&room(5)).await;
    answered_and_reset(&mut peer, 5).await;
}

#[tokio::test]
async fn bodies_of_those_that_were_reset_are_noise() {
    let limits = Limits {
        control_frames: 500,
        ..Limits::default()
    };
    let mut peer = Peer::greeted(limits).await;
    peer.say(&headers(1, END_HEADERS, &request_with(&[("Upper", "case")])))
        .await;
    peer.say(&data(1, 0, b"x").repeat(600)).await;
    let (seen, alive) = peer.settle().await;
    assert!(!alive);
    assert_eq!(seen.last().map(|frame| frame.kind), Some(GOAWAY));
}

/// Bytes that come to a socket that is closed would destroy the answer on its way.
#[tokio::test]
async fn a_server_that_goes_waits_for_what_still_comes() {
    let (drain, drained) = tokio::sync::oneshot::channel::<()>();
    let drained = async { drop(drained.await) };
    let peer = Peer::of_drained(Arc::new(Early), Limits::default(), drained);
    let mut peer = peer.greet().await;
    peer.say(&refused(1)).await;
    peer.until(|frame| frame.is(PING, 0)).await.unwrap();
    drain.send(()).unwrap();
    let seen = peer.until(|frame| frame.is(PING, 0)).await.unwrap();
    let ping = seen.last().unwrap();
    peer.say(&frame(PING, ACK, 0, &ping.payload)).await;
    peer.until(|frame| frame.kind == GOAWAY).await.unwrap();
    assert!(peer.settle().await.1, "the connection is still there");
    peer.say(&[data(1, 0, b"rest"), pong()].concat()).await;
    let seen = peer.until(|frame| frame.kind == RST_STREAM).await.unwrap();
    assert_eq!(resets(&seen), [(1, NO_ERROR)]);
    peer.ended().await;
}
