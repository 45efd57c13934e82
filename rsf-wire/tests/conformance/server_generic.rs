//! h2spec's `generic` section: what a server has to take.

use rsf_wire::Limits;

use crate::case::{Case, Expect, case, run};
use crate::peer::Peer;
use crate::raw::*;

fn whole() -> Vec<u8> {
    headers(1, WHOLE, &request("/t/now"))
}

fn begun() -> Vec<u8> {
    headers(1, END_HEADERS, &request("/t/now"))
}

fn prioritized(on: u32, weight: u8) -> Vec<u8> {
    frame(PRIORITY, 0, 1, &dependency(on, weight))
}

#[rustfmt::skip]
fn streams_and_frames() -> Vec<Case> {
    use Expect::{Alive, Answer};
    let never = || headers(1, WHOLE, &request("/t/never"));
    let padded = [&[3][..], &request("/t/now"), &[0, 0, 0]].concat();
    let with_priority = [dependency(0, 15), request("/t/now")].concat();
    let whole_block = request("/t/now");
    let (one, rest) = whole_block.split_at(10);
    let (two, three) = rest.split_at(10);
    vec![
        case("generic/2/1", "PRIORITY on an idle stream", &[prioritized(0, 15)], Alive),
        case("generic/2/2", "WINDOW_UPDATE on a half-closed stream", &[never(), window_update(1, 100)], Alive),
        case("generic/2/3", "PRIORITY on a half-closed stream", &[never(), prioritized(0, 15)], Alive),
        case("generic/2/4", "RST_STREAM on a half-closed stream", &[never(), reset(1, CANCEL)], Alive),
        case("generic/2/5", "PRIORITY on a closed stream", &[whole(), prioritized(0, 15)], Answer(1)),
        case("-", "WINDOW_UPDATE on a closed stream", &[whole(), window_update(1, 100)], Answer(1)),
        case("-", "RST_STREAM on a closed stream", &[whole(), reset(1, CANCEL)], Answer(1)),
        case("generic/3.1/1", "DATA", &[begun(), data(1, END_STREAM, b"test")], Answer(1)),
        case("generic/3.1/2", "several DATA", &[begun(), data(1, 0, b"test"), data(1, END_STREAM, b"test")], Answer(1)),
        case("generic/3.1/3", "padded DATA", &[begun(), data(1, END_STREAM | PADDED, b"\x05test\0\0\0\0\0")], Answer(1)),
        case("-", "DATA that is padding alone", &[begun(), data(1, END_STREAM | PADDED, b"\x03\0\0\0")], Answer(1)),
        case("-", "empty DATA that ends", &[begun(), data(1, END_STREAM, b"")], Answer(1)),
        case("generic/3.2/1", "HEADERS", &[whole()], Answer(1)),
        case("generic/3.2/2", "padded HEADERS", &[headers(1, WHOLE | PADDED, &padded)], Answer(1)),
        case("generic/3.2/3", "HEADERS with priority", &[headers(1, WHOLE | PRIORITIZED, &with_priority)], Answer(1)),
        case("generic/3.3/1", "PRIORITY of 1", &[prioritized(0, 0), whole()], Answer(1)),
        case("generic/3.3/2", "PRIORITY of 256", &[prioritized(0, 255), whole()], Answer(1)),
        case("generic/3.3/3", "PRIORITY with a dependency", &[prioritized(5, 255), whole()], Answer(1)),
        case("generic/3.3/4", "PRIORITY, exclusive", &[prioritized(1 << 31, 255), whole()], Answer(1)),
        case("generic/3.3/5", "PRIORITY of an idle stream, then a lower one", &[frame(PRIORITY, 0, 9, &dependency(0, 9)), whole()], Answer(1)),
        case("generic/3.4/1", "RST_STREAM", &[begun(), reset(1, CANCEL)], Alive),
        case("generic/3.5/1", "SETTINGS", &[settings(&[(3, 7), (1, 0), (4, 1 << 20), (5, 1 << 20)])], Alive),
        case("generic/3.8/1", "GOAWAY", &[go_away(0, 0)], Alive),
        case("generic/3.9/1", "WINDOW_UPDATE of the connection", &[window_update(0, 1)], Alive),
        case("generic/3.9/2", "WINDOW_UPDATE of a stream", &[begun(), window_update(1, 1), data(1, END_STREAM, b"x")], Answer(1)),
        case("generic/3.10/1", "CONTINUATION", &[headers(1, END_STREAM, one), continuation(1, END_HEADERS, rest)], Answer(1)),
        case(
            "generic/3.10/2",
            "several CONTINUATION",
            &[headers(1, END_STREAM, one), continuation(1, 0, two), continuation(1, END_HEADERS, three)],
            Answer(1),
        ),
        case(
            "-",
            "empty HEADERS and CONTINUATION in between",
            &[headers(1, END_STREAM, b""), continuation(1, 0, one), continuation(1, 0, b""), continuation(1, END_HEADERS, rest)],
            Answer(1),
        ),
    ]
}

fn messages() -> Vec<Case> {
    use Expect::Answer;
    let method = |method| {
        let mut fields = REQUEST;
        fields[0].1 = method;
        headers(1, WHOLE, &block(&fields))
    };
    let trailers = headers(1, WHOLE, &field("x-test", "ok"));
    vec![
        case("generic/4/1", "GET", &[method("GET")], Answer(1)),
        case("generic/4/2", "HEAD", &[method("HEAD")], Answer(1)),
        case(
            "generic/4/3",
            "POST",
            &[begun(), data(1, END_STREAM, b"test")],
            Answer(1),
        ),
        case(
            "generic/4/4",
            "POST with trailers",
            &[begun(), data(1, 0, b"test"), trailers],
            Answer(1),
        ),
    ]
}

#[rustfmt::skip]
fn header_coding() -> Vec<Case> {
    use Expect::Answer;
    // `user-agent` is index 58; `no-cache` and `custom-key` in Huffman code are RFC 7541's own.
    let huffman = b"\x86\xa8\xeb\x10\x64\x9c\xbf";
    let name = b"\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f";
    let with = |field: &[u8]| headers(1, WHOLE, &[&request("/t/now"), field].concat());
    let coded = |first: &[u8], value: &[u8]| with(&[first, value].concat());
    let sized = |updates: &[u8]| headers(1, WHOLE, &[updates, &request("/t/now")].concat());
    // :method POST, :scheme http by index.
    let mut short = vec![0x83, 0x86];
    short.extend(block(&REQUEST[2..]));
    vec![
        case("generic/5/1", "indexed", &[headers(1, WHOLE, &short)], Answer(1)),
        case("generic/5/2", "incremental, indexed name", &[coded(&[0x7a], b"\x04test")], Answer(1)),
        case("generic/5/3", "incremental, indexed name, Huffman", &[coded(&[0x7a], huffman)], Answer(1)),
        case("generic/5/4", "incremental, new name", &[with(&literal(0x40, "x-test", "ok"))], Answer(1)),
        case("generic/5/5", "incremental, new name, Huffman", &[coded(&[&[0x40], &name[..]].concat(), huffman)], Answer(1)),
        case("generic/5/6", "not indexed, indexed name", &[coded(&[0x0f, 43], b"\x04test")], Answer(1)),
        case("generic/5/7", "not indexed, indexed name, Huffman", &[coded(&[0x0f, 43], huffman)], Answer(1)),
        case("generic/5/8", "not indexed, new name", &[with(&literal(0, "x-test", "ok"))], Answer(1)),
        case("generic/5/9", "not indexed, new name, Huffman", &[coded(&[&[0], &name[..]].concat(), huffman)], Answer(1)),
        case("generic/5/10", "never indexed, indexed name", &[coded(&[0x1f, 43], b"\x04test")], Answer(1)),
        case("generic/5/11", "never indexed, indexed name, Huffman", &[coded(&[0x1f, 43], huffman)], Answer(1)),
        case("generic/5/12", "never indexed, new name", &[with(&literal(0x10, "x-test", "ok"))], Answer(1)),
        case("generic/5/13", "never indexed, new name, Huffman", &[coded(&[&[0x10], &name[..]].concat(), huffman)], Answer(1)),
        case("generic/5/14", "a table size", &[sized(&[0x3f, 0x01])], Answer(1)),
        case("generic/5/15", "several table sizes", &[sized(&[0x20, 0x3f, 0x81, 0x1f])], Answer(1)),
    ]
}

#[tokio::test]
async fn whatever_http2_allows_is_taken() {
    run(Limits::default(), streams_and_frames()).await;
    run(Limits::default(), messages()).await;
    run(Limits::default(), header_coding()).await;
}

#[tokio::test]
async fn generic_1_and_3_7_prefaces_and_pings_are_answered() {
    let mut peer = Peer::of_server(Limits::default());
    // In two pieces: nothing says that a preface comes at once.
    peer.say(&PREFACE[..5]).await;
    peer.say(&PREFACE[5..]).await;
    peer.say(&settings(&[])).await;
    let greeting = peer
        .until(|frame| frame.is(SETTINGS, 0) && frame.flags == ACK)
        .await
        .unwrap();
    assert!(
        greeting[0].is(SETTINGS, 0) && greeting[0].flags == 0,
        "{greeting:?}"
    );
    peer.say(&frame(PING, 0, 0, b"h2spec\0\0")).await;
    let pong = peer
        .until(|frame| frame.kind == PING)
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!((pong.flags, &*pong.payload), (ACK, &b"h2spec\0\0"[..]));
}
