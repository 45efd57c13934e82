//! h2spec's `hpack` section: header blocks that end the connection.

use rsf_wire::Limits;

use crate::case::{Case, Expect, case, run};
use crate::peer::Peer;
use crate::raw::*;

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let broken = Expect::GoAway(&[COMPRESSION_ERROR]);
    let with = |field: &[u8]| headers(1, WHOLE, &[&request("/t/now"), field].concat());
    // `x: ` and a string of one Huffman code, broken in its own way.
    let huffman = |code: &[u8]| with(&[&[0, 1, b'x', 0x80 | code.len() as u8], code].concat());
    vec![
        case("hpack/2.3.3/1", "an index that no table has", &[with(&[0xc6])], broken),
        case("hpack/2.3.3/2", "a name's index that no table has", &[with(&[0x7f, 0x20, 1, b'x'])], broken),
        case("hpack/4.2/1", "a table size at the block's end", &[with(&[0x3f, 0x01])], broken),
        case("hpack/5.2/1", "Huffman padding of more than 7 bits", &[huffman(&[0x1f, 0xff])], broken),
        case("hpack/5.2/2", "Huffman padding with a zero", &[huffman(&[0x18])], broken),
        case("hpack/5.2/3", "Huffman's end of string", &[huffman(&[0xff, 0xff, 0xff, 0xff])], broken),
        case("hpack/6.1/1", "index 0", &[with(&[0x80])], broken),
        case("hpack/6.3/1", "a table larger than announced", &[headers(1, WHOLE, &[&[0x3f, 0xe2, 0x1f][..], &request("/t/now")].concat())], broken),
        case("-", "a string longer than its block", &[with(&[0, 1, b'x', 9, b'y'])], broken),
        case("-", "a number without end", &[with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], broken),
        case("-", "a block that ends within a field", &[with(&[0x40])], broken),
    ]
}

/// What a block may not say, it may not leave in the table for the next block to say either.
#[tokio::test]
async fn a_malformed_field_is_malformed_when_the_table_repeats_it() {
    let smuggled: [(&[u8], &[u8]); 4] = [
        (b"\x40\x01a\x04a\r\nb", b"\xbe"),
        (b"\x40\x01A\x01b", b"\xbe"),
        // By the name alone.
        (b"\x40\x01A\x01b", b"\x0f\x2f\x01c"),
        (b"\x41\x01\0", b"\xbe"),
    ];
    for (first, second) in smuggled {
        let mut peer = Peer::greeted(Limits::default()).await;
        let mut block = request("/t/now");
        if first[0] == 0x41 {
            block = request_without(":authority");
        }
        let begun = if first[0] == 0x41 {
            [first, &block]
        } else {
            [&block, first]
        };
        peer.say(&headers(1, WHOLE, &begun.concat())).await;
        for stream in [3, 5, 7] {
            let again = if first[0] == 0x41 {
                [second, &block]
            } else {
                [&block[..], second]
            };
            peer.say(&headers(stream, WHOLE, &again.concat())).await;
            let (seen, alive) = peer.settle().await;
            let reset = seen.iter().any(|frame| frame.is(RST_STREAM, stream));
            assert!(alive && reset, "{second:?} on {stream}: {seen:?}");
        }
    }
}

/// RFC 7541, 4.2: the least size between two blocks is signalled before the last. nghttp2 ends the connection otherwise.
#[tokio::test]
async fn a_table_that_shrinks_and_grows_within_one_frame_is_signalled_empty() {
    const HEADER_TABLE_SIZE: u16 = 1;
    let mut peer = Peer::greeted(Limits::default()).await;
    for (sizes, signalled) in [
        (&[(HEADER_TABLE_SIZE, 0), (HEADER_TABLE_SIZE, 8_192)][..], true),
        (&[(HEADER_TABLE_SIZE, 4_096), (HEADER_TABLE_SIZE, 8_192)], false),
    ] {
        let stream = if signalled { 1 } else { 3 };
        peer.say(&settings(sizes)).await;
        peer.say(&headers(stream, WHOLE, &request("/t/now"))).await;
        let (seen, _) = peer.settle().await;
        let reply = seen.iter().find(|frame| frame.is(HEADERS, stream)).unwrap();
        // Size 0, then 4 096, which is all that the engine uses.
        let updates = reply.payload.starts_with(&[0x20, 0x3f, 0xe1, 0x1f]);
        assert_eq!(updates, signalled, "{reply:?}");
    }
}

#[tokio::test]
async fn broken_header_blocks_end_the_connection() {
    run(Limits::default(), cases()).await;
}
