//! h2spec's `client` section: frames that a client refuses, and what its call comes to.

use rsf_wire::Fate;

use crate::case::Expect;
use crate::client::{ClientCase, MESSAGE, Outcome, begun, body, case, reply_block, run, trailers, whole};
use crate::raw::*;

const PROTOCOL: Expect = Expect::GoAway(&[PROTOCOL_ERROR]);
const SIZE: Expect = Expect::GoAway(&[FRAME_SIZE_ERROR]);
const FAILED: Outcome = Outcome::Failed(Fate::Written);

#[rustfmt::skip]
fn frames() -> Vec<ClientCase> {
    use Expect::Alive;
    use Outcome::{Answered, Pending};
    let unknown = || frame(0xff, 0xff, 0, &[0; 8]);
    let large = vec![0; 16_385];
    let unfinished = || headers(1, 0, &reply_block());
    let prio = |stream, on| frame(PRIORITY, 0, stream, &dependency(on, 9));
    let compression = Expect::GoAway(&[COMPRESSION_ERROR]);
    let flow = Expect::GoAway(&[FLOW_CONTROL_ERROR]);
    vec![
        case("client/4.1/1", "an unknown kind", &[unknown(), whole()], Alive, Answered),
        case("client/4.1/2", "undefined flags", &[frame(PING, 0xfe, 0, &[7; 8]), whole()], Alive, Answered),
        case("client/4.1/3", "the reserved bit", &[frame(PING, 0, 1 << 31, &[7; 8]), whole()], Alive, Answered),
        case("client/4.2/1", "DATA of 2^14 bytes", &[begun(), data(1, 0, &large[1..])], Alive, Pending),
        case("client/4.2/2", "DATA over the frame's size", &[begun(), data(1, 0, &large)], SIZE, FAILED),
        case("client/4.2/3", "HEADERS over the frame's size", &[headers(1, END_HEADERS, &large)], SIZE, FAILED),
        case("client/4.3/1", "a broken block", &[headers(1, WHOLE, &[0x40, 0x41, b'x'])], compression, FAILED),
        case("client/5.1.1/1", "a stream that nobody opened", &[headers(101, WHOLE, &reply_block())], PROTOCOL, FAILED),
        case("-", "an even stream", &[headers(2, WHOLE, &reply_block())], PROTOCOL, FAILED),
        case("client/5.1/1", "idle: DATA", &[data(2, END_STREAM, b"test")], PROTOCOL, FAILED),
        case("client/5.1/2", "idle: RST_STREAM", &[reset(2, CANCEL)], PROTOCOL, FAILED),
        case("client/5.1/3", "idle: WINDOW_UPDATE", &[window_update(2, 100)], PROTOCOL, FAILED),
        case("-", "idle: WINDOW_UPDATE, odd", &[window_update(3, 100)], PROTOCOL, FAILED),
        case("client/5.1/4", "idle: CONTINUATION", &[continuation(2, END_HEADERS, b"")], PROTOCOL, FAILED),
        case("client/5.5/1", "an extension", &[unknown(), whole()], Alive, Answered),
        case("-", "an extension within a block", &[unfinished(), unknown()], PROTOCOL, FAILED),
        case("client/6.1/1", "DATA on stream 0", &[data(0, END_STREAM, b"test")], PROTOCOL, FAILED),
        case("client/6.1/3", "DATA with too much padding", &[begun(), data(1, PADDED, b"\x05test")], PROTOCOL, FAILED),
        case("client/6.2/1", "PRIORITY within a block", &[unfinished(), prio(1, 0)], PROTOCOL, FAILED),
        case("client/6.2/2", "HEADERS on stream 0", &[headers(0, WHOLE, &reply_block())], PROTOCOL, FAILED),
        case("client/6.2/3", "HEADERS with too much padding", &[headers(1, END_HEADERS | PADDED, &[200, 0x88])], PROTOCOL, FAILED),
        case("client/6.3/1", "PRIORITY on stream 0", &[prio(0, 0)], PROTOCOL, FAILED),
        case("client/6.3/2", "PRIORITY that is no five bytes", &[frame(PRIORITY, 0, 1, &[0; 4])], SIZE, FAILED),
        case("-", "PRIORITY", &[prio(1, 0), whole()], Alive, Answered),
        case("client/6.4/1", "RST_STREAM on stream 0", &[reset(0, CANCEL)], PROTOCOL, FAILED),
        case("client/6.4/2", "RST_STREAM on an idle stream", &[reset(3, CANCEL)], PROTOCOL, FAILED),
        case("client/6.4/3", "RST_STREAM that is no four bytes", &[frame(RST_STREAM, 0, 1, &[0; 3])], SIZE, FAILED),
        case("client/6.5/1", "SETTINGS' ACK with a payload", &[frame(SETTINGS, ACK, 0, &[0; 6])], SIZE, FAILED),
        case("client/6.5/2", "SETTINGS on a stream", &[frame(SETTINGS, 0, 1, &[])], PROTOCOL, FAILED),
        case("client/6.5/3", "SETTINGS of no multiple of six", &[frame(SETTINGS, 0, 0, &[0; 3])], SIZE, FAILED),
        case("-", "ENABLE_PUSH of 1, which a server must not say", &[settings(&[(2, 1)])], PROTOCOL, FAILED),
        case("-", "ENABLE_PUSH of 0", &[settings(&[(2, 0)]), whole()], Alive, Answered),
        case("client/6.5.2/1", "INITIAL_WINDOW_SIZE of 2^31", &[settings(&[(4, 1 << 31)])], flow, FAILED),
        case("client/6.5.2/2", "MAX_FRAME_SIZE of 16 383", &[settings(&[(5, 16_383)])], PROTOCOL, FAILED),
        case("client/6.5.2/3", "MAX_FRAME_SIZE of 2^24", &[settings(&[(5, 1 << 24)])], PROTOCOL, FAILED),
        case("client/6.5.2/4", "an unknown setting", &[settings(&[(0xff, 1)]), whole()], Alive, Answered),
        case("-", "every setting at its least", &[settings(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 16_384), (6, 0)]), whole()], Alive, Answered),
        case("client/6.7/3", "PING on a stream", &[frame(PING, 0, 1, &[0; 8])], PROTOCOL, FAILED),
        case("client/6.7/4", "PING that is no eight bytes", &[frame(PING, 0, 0, &[0; 6])], SIZE, FAILED),
        case("client/6.8/1", "GOAWAY on a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], PROTOCOL, FAILED),
        case("client/6.9/1", "an increment of 0 for the connection", &[window_update(0, 0)], PROTOCOL, FAILED),
        case("client/6.9/2", "an increment of 0 for a stream", &[window_update(1, 0)], Expect::Reset(1, &[PROTOCOL_ERROR]), FAILED),
        case("client/6.9/3", "WINDOW_UPDATE that is no four bytes", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], SIZE, FAILED),
        case("client/6.9.1/1", "the connection's window above 2^31-1", &[window_update(0, 0x7fff_ffff)], flow, FAILED),
        case("client/6.10/1", "several CONTINUATION", &[headers(1, 0, b""), continuation(1, 0, b""), continuation(1, END_HEADERS, &reply_block()), body(), trailers()], Alive, Answered),
        case("client/6.10/2", "DATA within a block", &[unfinished(), data(1, 0, MESSAGE)], PROTOCOL, FAILED),
        case("client/6.10/3", "CONTINUATION on stream 0", &[unfinished(), continuation(0, END_HEADERS, b"")], PROTOCOL, FAILED),
        case("client/6.10/4", "CONTINUATION of whole HEADERS", &[begun(), continuation(1, END_HEADERS, b"")], PROTOCOL, FAILED),
        case("client/6.10/5", "CONTINUATION of a whole block", &[unfinished(), continuation(1, END_HEADERS, b""), continuation(1, END_HEADERS, b"")], PROTOCOL, FAILED),
        case("client/6.10/6", "CONTINUATION behind DATA", &[begun(), body(), continuation(1, END_HEADERS, b"")], PROTOCOL, FAILED),
        case("-", "PUSH_PROMISE", &[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])], PROTOCOL, FAILED),
        case("-", "a preface of its own", &[PREFACE.to_vec()], SIZE, FAILED),
    ]
}

#[tokio::test]
async fn broken_frames_fail_the_connection_and_its_calls() {
    run(frames()).await;
}
