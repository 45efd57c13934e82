//! h2spec's `http2` section, 3 to 6.8: frames that a server refuses.

use rsf_wire::Limits;

use crate::case::{Case, Expect, case, run};
use crate::peer::Peer;
use crate::raw::*;

const PROTOCOL: Expect = Expect::GoAway(&[PROTOCOL_ERROR]);
const SIZE: Expect = Expect::GoAway(&[FRAME_SIZE_ERROR]);

fn whole() -> Vec<u8> {
    headers(1, WHOLE, &request("/t/now"))
}

fn begun() -> Vec<u8> {
    headers(1, END_HEADERS, &request("/t/now"))
}

/// A block whose CONTINUATION is still to come.
fn unfinished() -> Vec<u8> {
    headers(1, END_STREAM, &request("/t/now"))
}

#[rustfmt::skip]
fn frames() -> Vec<Case> {
    use Expect::{Alive, Answer};
    let unknown = || frame(0xff, 0xff, 0, &[0; 8]);
    let large = vec![0; 16_385];
    let large_block: Vec<u8> = (0..200).flat_map(|_| field("x-dummy", &"x".repeat(100))).collect();
    let prio = |stream| frame(PRIORITY, 0, stream, &dependency(0, 9));
    vec![
        case("http2/4.1/1", "an unknown kind", &[unknown()], Alive),
        case("http2/4.1/2", "undefined flags", &[frame(PING, 0xfe, 0, &[7; 8])], Alive),
        case("http2/4.1/3", "the reserved bit", &[frame(PING, 0, 1 << 31, &[7; 8])], Alive),
        case("http2/4.2/1", "DATA of 2^14 bytes", &[begun(), data(1, END_STREAM, &large[1..])], Answer(1)),
        case("http2/4.2/2", "DATA over the frame's size", &[begun(), data(1, END_STREAM, &large)], SIZE),
        case("http2/4.2/3", "HEADERS over the frame's size", &[headers(1, WHOLE, &large_block)], SIZE),
        case("http2/4.3/1", "a broken block", &[headers(1, WHOLE, &[0x40, 0x41, b'x'])], Expect::GoAway(&[COMPRESSION_ERROR])),
        case("http2/4.3/2", "PRIORITY within a block", &[unfinished(), prio(1)], PROTOCOL),
        case("http2/4.3/3", "other HEADERS within a block", &[unfinished(), headers(3, WHOLE, &request("/t/now"))], PROTOCOL),
        case("http2/5.5/1", "an extension", &[unknown()], Alive),
        case("http2/5.5/2", "an extension within a block", &[unfinished(), unknown()], PROTOCOL),
        case("http2/6.1/1", "DATA on stream 0", &[data(0, END_STREAM, b"test")], PROTOCOL),
        case("http2/6.1/3", "DATA with too much padding", &[begun(), data(1, END_STREAM | PADDED, b"\x05test")], PROTOCOL),
        case("http2/6.2/1", "PRIORITY within a block", &[unfinished(), prio(3)], PROTOCOL),
        case("http2/6.2/2", "HEADERS within a block", &[unfinished(), headers(3, END_STREAM, b"")], PROTOCOL),
        case("http2/6.2/3", "HEADERS on stream 0", &[headers(0, WHOLE, &request("/t/now"))], PROTOCOL),
        case("http2/6.2/4", "HEADERS with too much padding", &[headers(1, WHOLE | PADDED, &[200, 0x82])], PROTOCOL),
        case("http2/6.3/1", "PRIORITY on stream 0", &[prio(0)], PROTOCOL),
        case("http2/6.3/2", "PRIORITY that is no five bytes", &[begun(), frame(PRIORITY, 0, 1, &[0; 4])], SIZE),
        case("http2/6.4/1", "RST_STREAM on stream 0", &[reset(0, CANCEL)], PROTOCOL),
        case("http2/6.4/2", "RST_STREAM on an idle stream", &[reset(1, CANCEL)], PROTOCOL),
        case("http2/6.4/3", "RST_STREAM that is no four bytes", &[begun(), frame(RST_STREAM, 0, 1, &[0; 3])], SIZE),
        case("http2/6.5/1", "SETTINGS' ACK with a payload", &[frame(SETTINGS, ACK, 0, &[0; 6])], SIZE),
        case("http2/6.5/2", "SETTINGS on a stream", &[frame(SETTINGS, 0, 1, &[])], PROTOCOL),
        case("http2/6.5/3", "SETTINGS of no multiple of six", &[frame(SETTINGS, 0, 0, &[0; 3])], SIZE),
        case("http2/6.5.2/1", "ENABLE_PUSH of 2", &[settings(&[(2, 2)])], PROTOCOL),
        case("http2/6.5.2/2", "INITIAL_WINDOW_SIZE of 2^31", &[settings(&[(4, 1 << 31)])], Expect::GoAway(&[FLOW_CONTROL_ERROR])),
        case("http2/6.5.2/3", "MAX_FRAME_SIZE of 16 383", &[settings(&[(5, 16_383)])], PROTOCOL),
        case("http2/6.5.2/4", "MAX_FRAME_SIZE of 2^24", &[settings(&[(5, 1 << 24)])], PROTOCOL),
        case("http2/6.5.2/5", "an unknown setting", &[settings(&[(0xff, 1)])], Alive),
        case("-", "every setting at its least", &[settings(&[(1, 0), (2, 0), (3, 0), (5, 16_384), (6, 0)]), whole()], Answer(1)),
        case("-", "every setting at its most", &[settings(&[(1, u32::MAX), (2, 1), (3, u32::MAX), (4, 0x7fff_ffff), (5, 0xff_ffff), (6, u32::MAX)]), whole()], Answer(1)),
        case("http2/6.7/3", "PING on a stream", &[frame(PING, 0, 1, &[0; 8])], PROTOCOL),
        case("http2/6.7/4", "PING that is no eight bytes", &[frame(PING, 0, 0, &[0; 6])], SIZE),
        case("http2/6.8/1", "GOAWAY on a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], PROTOCOL),
        case("-", "GOAWAY that is too short", &[frame(GOAWAY, 0, 0, &[0; 7])], SIZE),
        case("http2/6.10/2", "DATA within a block", &[unfinished(), continuation(1, 0, b""), data(1, END_STREAM, b"test")], PROTOCOL),
        case("http2/6.10/3", "CONTINUATION on stream 0", &[unfinished(), continuation(0, END_HEADERS, b"")], PROTOCOL),
        case("http2/6.10/4", "CONTINUATION of whole HEADERS", &[begun(), continuation(1, END_HEADERS, b"")], PROTOCOL),
        case("http2/6.10/5", "CONTINUATION of a whole block", &[unfinished(), continuation(1, END_HEADERS, b""), continuation(1, END_HEADERS, b"")], PROTOCOL),
        case("http2/6.10/6", "CONTINUATION behind DATA", &[begun(), data(1, END_STREAM, b"test"), continuation(1, END_HEADERS, b"")], PROTOCOL),
        case("-", "CONTINUATION of another stream", &[unfinished(), continuation(3, END_HEADERS, b"")], PROTOCOL),
        case("http2/7/1", "GOAWAY with an unknown code", &[go_away(0, 0xff)], Alive),
        case("http2/7/2", "RST_STREAM with an unknown code", &[begun(), reset(1, 0xff)], Alive),
        case("http2/8.2/1", "PUSH_PROMISE", &[begun(), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 3])], PROTOCOL),
    ]
}

#[rustfmt::skip]
fn states() -> Vec<Case> {
    use Expect::{Alive, GoAway, Reset};
    let never = || headers(1, WHOLE, &request("/t/never"));
    let closed_on_it = Reset(1, &[STREAM_CLOSED]);
    let closed = GoAway(&[STREAM_CLOSED]);
    let on_itself = [dependency(1, 9), request("/t/now")].concat();
    vec![
        case("http2/5.1/1", "idle: DATA", &[data(1, END_STREAM, b"test")], PROTOCOL),
        case("http2/5.1/2", "idle: RST_STREAM", &[reset(1, CANCEL)], PROTOCOL),
        case("http2/5.1/3", "idle: WINDOW_UPDATE", &[window_update(1, 100)], PROTOCOL),
        case("http2/5.1/4", "idle: CONTINUATION", &[continuation(1, END_HEADERS, b"")], PROTOCOL),
        case("http2/5.1/5", "half-closed: DATA", &[never(), data(1, END_STREAM, b"test")], closed_on_it),
        case("http2/5.1/6", "half-closed: HEADERS", &[never(), headers(1, WHOLE, &request("/t/now"))], closed_on_it),
        case("http2/5.1/7", "half-closed: CONTINUATION", &[never(), continuation(1, END_HEADERS, b"")], PROTOCOL),
        case("http2/5.1/8", "closed by RST_STREAM: DATA", &[begun(), reset(1, CANCEL), data(1, END_STREAM, b"test")], closed_on_it),
        case("http2/5.1/9", "closed by RST_STREAM: HEADERS", &[begun(), reset(1, CANCEL), headers(1, WHOLE, &request("/t/now"))], closed),
        case("http2/5.1/10", "closed by RST_STREAM: CONTINUATION", &[begun(), reset(1, CANCEL), continuation(1, END_HEADERS, b"")], PROTOCOL),
        case("http2/5.1/11", "closed: DATA", &[whole(), data(1, END_STREAM, b"test")], closed_on_it),
        case("http2/5.1/12", "closed: HEADERS", &[whole(), headers(1, WHOLE, &request("/t/now"))], closed),
        case("http2/5.1/13", "closed: CONTINUATION", &[whole(), continuation(1, END_HEADERS, b"")], PROTOCOL),
        case("http2/6.1/2", "DATA on a stream that has ended", &[never(), data(1, END_STREAM, b"test")], closed_on_it),
        case("http2/5.1.1/1", "an even stream", &[headers(2, WHOLE, &request("/t/now"))], PROTOCOL),
        case("http2/5.1.1/2", "a stream below the last", &[headers(5, WHOLE, &request("/t/now")), headers(3, WHOLE, &request("/t/now"))], PROTOCOL),
        case("-", "DATA on a stream that was passed over", &[headers(5, WHOLE, &request("/t/now")), data(3, 0, b"x")], closed_on(3)),
        case("http2/5.3.1/1", "HEADERS that depend on themselves", &[headers(1, WHOLE | PRIORITIZED, &on_itself)], PROTOCOL),
        case("http2/5.3.1/2", "PRIORITY that depends on itself", &[frame(PRIORITY, 0, 3, &dependency(3, 9))], PROTOCOL),
        // Behind our own RST_STREAM the peer may have been sending still.
        case("-", "the rest of a stream that we reset", &[headers(1, END_HEADERS, &request_without(":path")), data(1, 0, b"x"), headers(1, WHOLE, &field("x", "y"))], Reset(1, &[PROTOCOL_ERROR])),
        case("-", "the greatest stream id, then one more", &[headers(0x7fff_ffff, WHOLE, &request("/t/now")), frame(PING, ACK, 0, &[0; 8])], Alive),
    ]
}

fn closed_on(stream: u32) -> Expect {
    Expect::Reset(stream, &[STREAM_CLOSED])
}

#[tokio::test]
async fn broken_frames_are_refused() {
    run(Limits::default(), frames()).await;
}

#[tokio::test]
async fn frames_in_the_wrong_state_are_refused() {
    run(Limits::default(), states()).await;
}

#[tokio::test]
async fn http2_3_5_an_invalid_preface_ends_the_connection() {
    for said in [
        &b"INVALID CONNECTION PREFACE\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nhost: test\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ] {
        let mut peer = Peer::of_server(Limits::default());
        peer.say(said).await;
        let frames = peer.until(|frame| frame.kind == GOAWAY).await.expect("GOAWAY");
        assert_eq!(frames.last().unwrap().code(), PROTOCOL_ERROR);
        assert_eq!(peer.next().await, None);
    }
}

#[tokio::test]
async fn the_first_frame_must_be_settings() {
    for first in [frame(PING, 0, 0, &[0; 8]), whole(), frame(SETTINGS, ACK, 0, &[])] {
        let mut peer = Peer::of_server(Limits::default());
        peer.say(PREFACE).await;
        peer.say(&first).await;
        let frames = peer.until(|frame| frame.kind == GOAWAY).await.expect("GOAWAY");
        assert_eq!(frames.last().unwrap().code(), PROTOCOL_ERROR);
    }
}

#[tokio::test]
async fn http2_5_1_2_streams_beyond_the_limit_are_refused() {
    let limits = Limits {
        concurrent_streams: 10,
        ..Limits::default()
    };
    let mut peer = Peer::greeted(limits).await;
    for i in 0..11 {
        peer.say(&headers(2 * i + 1, WHOLE, &request("/t/never"))).await;
    }
    let (seen, alive) = peer.settle().await;
    crate::case::judge(Expect::Reset(21, &[REFUSED_STREAM]), &seen, alive).unwrap();
    // A place that is free again is given away again.
    peer.say(&reset(1, CANCEL)).await;
    peer.say(&headers(23, WHOLE, &request("/t/now"))).await;
    let (seen, alive) = peer.settle().await;
    crate::case::judge(Expect::Answer(23), &seen, alive).unwrap();
}

#[tokio::test]
async fn http2_6_5_3_and_6_7_settings_and_pings_are_acknowledged_in_order() {
    let mut peer = Peer::greeted(Limits::default()).await;
    peer.say(&settings(&[(4, 100), (4, 1)])).await;
    peer.say(&settings(&[])).await;
    peer.say(&frame(PING, ACK, 0, b"unasked!")).await;
    peer.say(&frame(PING, 0, 0, b"whatever")).await;
    let seen = peer.until(|frame| frame.kind == PING).await.unwrap();
    let acks = seen
        .iter()
        .filter(|frame| frame.is(SETTINGS, 0) && frame.flags == ACK);
    assert_eq!(acks.count(), 2);
    assert_eq!(seen.last().unwrap().payload, b"whatever");
    // Of two values the last one counts: one byte at first.
    peer.say(&begun()).await;
    peer.say(&data(1, END_STREAM, b"test")).await;
    let first = peer
        .until(|frame| frame.kind == DATA)
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(first.payload, b"t");
}
