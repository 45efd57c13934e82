//! h2spec's `hpack` section: header blocks that end the connection.

use rsf_wire::Limits;

use crate::case::{Case, Expect, case, run};
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

#[tokio::test]
async fn broken_header_blocks_end_the_connection() {
    run(Limits::default(), cases()).await;
}
