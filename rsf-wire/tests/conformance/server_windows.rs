//! h2spec's `http2` section, 6.9: windows that a server respects, and such as it refuses.

use rsf_wire::Limits;

use crate::case::{Case, Expect, case, run};
use crate::peer::{Peer, echoed};
use crate::raw::*;

const INITIAL_WINDOW_SIZE: u16 = 4;

fn asks(path: &str, text: &[u8]) -> Vec<u8> {
    [headers(1, END_HEADERS, &request(path)), data(1, END_STREAM, text)].concat()
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use Expect::{GoAway, Reset};
    let shut = || settings(&[(INITIAL_WINDOW_SIZE, 0)]);
    let most = 0x7fff_ffff;
    let begun = || headers(1, END_HEADERS, &request("/t/now"));
    vec![
        case("http2/6.9/1", "an increment of 0 for the connection", &[window_update(0, 0)], GoAway(&[PROTOCOL_ERROR])),
        case("http2/6.9/2", "an increment of 0 for a stream", &[begun(), window_update(1, 0)], Reset(1, &[PROTOCOL_ERROR])),
        case("-", "an increment of 0 for a reply that waits", &[shut(), asks("/t/now", b"test"), window_update(1, 0)], Reset(1, &[PROTOCOL_ERROR])),
        case("http2/6.9/3", "WINDOW_UPDATE that is no four bytes", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], GoAway(&[FRAME_SIZE_ERROR])),
        case("http2/6.9.1/2", "the connection's window above 2^31-1", &[window_update(0, most), window_update(0, most)], GoAway(&[FLOW_CONTROL_ERROR])),
        case("http2/6.9.1/3", "a stream's window above 2^31-1", &[begun(), window_update(1, most), window_update(1, most)], Reset(1, &[FLOW_CONTROL_ERROR])),
        case("-", "a waiting reply's window above 2^31-1", &[shut(), asks("/t/now", b"test"), settings(&[(INITIAL_WINDOW_SIZE, 0)]), window_update(1, 1), window_update(1, most)], Expect::Answer(1)),
        case("http2/6.9.2/3", "INITIAL_WINDOW_SIZE of 2^31", &[settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)])], GoAway(&[FLOW_CONTROL_ERROR])),
        case("-", "a window below 0 that overflows with SETTINGS", &[begun(), window_update(1, most - 65_535), settings(&[(INITIAL_WINDOW_SIZE, most)])], GoAway(&[FLOW_CONTROL_ERROR])),
    ]
}

#[tokio::test]
async fn windows_beyond_reason_are_refused() {
    run(Limits::default(), cases()).await;
}

#[tokio::test]
async fn http2_6_9_1_1_a_window_of_one_byte_lets_one_byte_through() {
    let mut peer = Peer::greeted(Limits::default()).await;
    peer.say(&settings(&[(INITIAL_WINDOW_SIZE, 1)])).await;
    peer.say(&asks("/t/now", b"test")).await;
    let (seen, alive) = peer.settle().await;
    assert!(alive);
    assert_eq!(echoed(&seen, 1), "t");
    for letter in ["e", "s", "t"] {
        peer.say(&window_update(1, 1)).await;
        let (seen, _) = peer.settle().await;
        assert_eq!(echoed(&seen, 1), letter);
    }
}

#[tokio::test]
async fn http2_6_9_2_1_a_window_raised_by_settings_lets_a_waiting_reply_through() {
    let mut peer = Peer::greeted(Limits::default()).await;
    peer.say(&settings(&[(INITIAL_WINDOW_SIZE, 0)])).await;
    peer.say(&asks("/t/now", b"test")).await;
    let (seen, _) = peer.settle().await;
    assert_eq!(echoed(&seen, 1), "");
    peer.say(&settings(&[(INITIAL_WINDOW_SIZE, 1)])).await;
    let (seen, _) = peer.settle().await;
    assert_eq!(echoed(&seen, 1), "t");
}

#[tokio::test]
async fn http2_6_9_2_2_a_window_below_zero_is_counted_up_again() {
    let mut peer = Peer::greeted(Limits::default()).await;
    peer.say(&settings(&[(INITIAL_WINDOW_SIZE, 3)])).await;
    peer.say(&asks("/t/now", b"a reply")).await;
    let (seen, _) = peer.settle().await;
    assert_eq!(echoed(&seen, 1), "a r");
    // 3 were sent; with 2 allowed in all the window stands at -1.
    peer.say(&settings(&[(INITIAL_WINDOW_SIZE, 2)])).await;
    peer.say(&window_update(1, 1)).await;
    let (seen, _) = peer.settle().await;
    assert_eq!(echoed(&seen, 1), "");
    peer.say(&window_update(1, 2)).await;
    let (seen, _) = peer.settle().await;
    assert_eq!(echoed(&seen, 1), "ep");
}

#[tokio::test]
async fn the_connections_window_holds_for_all_streams() {
    let mut peer = Peer::greeted(Limits::default()).await;
    peer.say(&settings(&[(INITIAL_WINDOW_SIZE, 1 << 20)])).await;
    let mut left = 65_535;
    for stream in [1, 3, 5, 7, 9] {
        peer.say(&headers(stream, END_HEADERS, &request("/t/now"))).await;
        peer.say(&data(stream, END_STREAM, &[7; 15_000])).await;
        let (seen, _) = peer.settle().await;
        let came: usize = [1, 3, 5, 7, 9].iter().map(|s| echoed(&seen, *s).len()).sum();
        assert_eq!(came, left.min(15_000), "stream {stream}");
        left -= came;
    }
    assert_eq!(left, 0);
    peer.say(&window_update(0, 9_465)).await;
    let (seen, _) = peer.settle().await;
    assert_eq!(echoed(&seen, 9).len(), 9_465);
    assert!(seen.last().unwrap().ends(), "{seen:?}");
}

#[tokio::test]
async fn a_body_larger_than_the_windows_is_let_in_as_it_is_read() {
    let limits = Limits {
        stream_window: 65_535,
        connection_window: 100_000,
        ..Limits::default()
    };
    // 112 000 bytes: more than either window, which are raised as the body gathers.
    let mut peer = Peer::greeted(limits.clone()).await;
    let mut flood = headers(1, END_HEADERS, &request("/t/never"));
    for _ in 0..7 {
        flood.extend(data(1, 0, &[0; 16_000]));
    }
    peer.say(&flood).await;
    let (seen, alive) = peer.settle().await;
    let raised = seen.iter().filter(|frame| frame.kind == WINDOW_UPDATE);
    assert!(alive && raised.count() > 0, "{seen:?}");
}
