//! Requests that go on after their answer: their rest passes by, for a while.

use std::time::Duration;

use rsf_wire::Limits;
use tokio::time::Instant;

use crate::peer::{Peer, Seen};
use crate::raw::*;

const NO_ERROR: u32 = 0;

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
    // Its end was heard: what comes behind it is no part of it.
    peer.say(&data(1, 0, b"more")).await;
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
