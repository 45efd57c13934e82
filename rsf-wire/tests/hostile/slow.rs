//! Halves for ever: prefaces, frames, blocks, bodies, and readers that do not read. Time is the test's own.

use std::time::Duration;

use rsf_wire::{Limits, Refusal};
use tokio::time::Instant;

use crate::peer::Peer;
use crate::raw::*;

/// Says a little each second; when the server ends, and with which code.
async fn dribble(peer: &mut Peer, mut say: impl FnMut(u64) -> Vec<u8>) -> (Duration, Option<u32>) {
    let began = Instant::now();
    for second in 0.. {
        peer.say(&say(second)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        while let Some(frame) = peer.try_next().await {
            match frame {
                Some(frame) if frame.kind == GOAWAY => return (began.elapsed(), Some(frame.code())),
                Some(_) => {}
                None => return (began.elapsed(), None),
            }
        }
        assert!(second < 1_000, "the server waits for ever");
    }
    unreachable!()
}

fn within(took: Duration, limit: Duration) {
    let late = limit + Duration::from_secs(7);
    assert!((limit..late).contains(&took), "{took:?}, {limit:?} is the limit");
}

#[tokio::test(start_paused = true)]
async fn half_a_preface_is_not_waited_for() {
    let limits = Limits::default();
    for (name, said) in [
        ("nothing", &b""[..]),
        ("half", &PREFACE[..10]),
        ("no SETTINGS", PREFACE),
    ] {
        let before = Refusal::SlowPreface.count();
        let mut peer = Peer::of_server(limits.clone());
        let (took, code) = dribble(&mut peer, |second| match second {
            0 => said.to_vec(),
            _ => Vec::new(),
        })
        .await;
        within(took, limits.preface_time);
        assert_eq!(code, Some(PROTOCOL_ERROR), "{name}");
        assert!(Refusal::SlowPreface.count() > before);
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_is_not_waited_for_however_it_dribbles() {
    let limits = Limits::default();
    let whole = data(1, 0, &[7; 10_000]);
    let before = Refusal::SlowFrame.count();
    let mut peer = Peer::greeted(limits.clone()).await;
    let (took, _) = dribble(&mut peer, |second| vec![whole[second as usize]]).await;
    within(took, limits.frame_time);
    // A header block in CONTINUATION, each of them whole.
    let mut peer = Peer::greeted(limits.clone()).await;
    let (took, _) = dribble(&mut peer, |second| match second {
        0 => headers(1, 0, &request("/t/now")),
        _ => continuation(1, 0, b""),
    })
    .await;
    within(took, limits.frame_time);
    assert!(Refusal::SlowFrame.count() >= before + 2);
}

/// Calls whose headers repeat are progress, though each packet ends in the middle of the next one.
#[tokio::test(start_paused = true)]
async fn repeated_calls_that_end_within_a_packet_are_waited_for() {
    let limits = Limits::default();
    let mut peer = Peer::greeted(limits.clone()).await;
    let first = REQUEST.map(|(name, value)| literal(0x40, name, value)).concat();
    peer.say(&headers(1, WHOLE, &first)).await;
    let repeated = [0xc3, 0xc2, 0xc1, 0xc0, 0xbf, 0xbe];
    for stream in [3, 5, 7] {
        peer.say(&headers(stream, WHOLE, &repeated)).await;
    }
    let mut stream = 9;
    let begun = |stream| headers(stream, WHOLE, &repeated);
    peer.say(&begun(stream)[..5]).await;
    for _ in 0..3 * limits.frame_time.as_secs() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let rest = begun(stream)[5..].to_vec();
        stream += 2;
        peer.say(&[rest, begun(stream)[..5].to_vec()].concat()).await;
    }
    peer.say(&begun(stream)[5..]).await;
    let (seen, alive) = peer.settle().await;
    assert!(alive && seen.iter().any(|frame| frame.is(HEADERS, stream)));
}

#[tokio::test(start_paused = true)]
async fn half_a_body_is_reset_and_its_neighbours_go_on() {
    let limits = Limits::default();
    let before = Refusal::SlowBody.count();
    let mut peer = Peer::greeted(limits.clone()).await;
    peer.say(&headers(1, END_HEADERS, &request("/t/now"))).await;
    peer.say(&headers(3, END_HEADERS, &request("/t/now"))).await;
    let began = Instant::now();
    let reset_at = loop {
        // The second one makes progress, slowly.
        peer.say(&data(3, 0, b"x")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (seen, alive) = peer.settle().await;
        assert!(alive, "{seen:?}");
        assert!(seen.iter().all(|frame| !frame.is(RST_STREAM, 3)), "{seen:?}");
        if seen.iter().any(|frame| frame.is(RST_STREAM, 1)) {
            break began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(1_000));
    };
    within(reset_at, limits.body_time);
    assert!(Refusal::SlowBody.count() > before);
    peer.say(&data(3, END_STREAM, b"done")).await;
    let (seen, _) = peer.settle().await;
    assert!(crate::peer::echoed(&seen, 3).ends_with(b"done"));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_long_is_waited_for() {
    let mut peer = Peer::greeted(Limits::default()).await;
    peer.say(&headers(1, WHOLE, &request("/t/never"))).await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let (seen, alive) = peer.settle().await;
    assert!(alive && seen.is_empty(), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept() {
    let mut peer = Peer::greeted(Limits::default()).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(peer.settle().await.1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_opens_no_window_is_not_waited_for() {
    let limits = Limits::default();
    let before = Refusal::SlowReader.count();
    let mut peer = Peer::greeted(limits.clone()).await;
    peer.say(&settings(&[(4, 0)])).await;
    peer.say(&headers(1, END_HEADERS, &request("/t/now"))).await;
    peer.say(&data(1, END_STREAM, &[7; 10_000])).await;
    let (took, code) = dribble(&mut peer, |_| window_update(1, 1)).await;
    within(took, limits.read_time);
    assert_eq!(code, Some(11));
    assert!(Refusal::SlowReader.count() > before);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_not_waited_for() {
    let limits = Limits::default();
    let before = Refusal::SlowReader.count();
    let mut peer = Peer::greeted(limits.clone()).await;
    peer.say(&settings(&[(4, 0x7fff_ffff)])).await;
    peer.say(&window_update(0, 0x7000_0000)).await;
    // More than the pipe holds.
    for i in 0..20 {
        peer.say(&headers(2 * i + 1, END_HEADERS, &request("/t/now")))
            .await;
        for _ in 0..9 {
            peer.say(&data(2 * i + 1, 0, &[7; 16_000])).await;
        }
        peer.say(&data(2 * i + 1, END_STREAM, b"")).await;
    }
    let began = Instant::now();
    peer.ended().await;
    within(began.elapsed(), limits.read_time);
    assert!(Refusal::SlowReader.count() > before);
}
