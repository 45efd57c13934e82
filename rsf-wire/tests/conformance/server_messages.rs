//! h2spec's `http2` section, 8: requests that are malformed in HTTP's own terms.

use rsf_wire::Limits;

use crate::case::{Case, Expect, case, run};
use crate::raw::*;

const MALFORMED: Expect = Expect::Reset(1, &[PROTOCOL_ERROR]);

fn whole(block: &[u8]) -> Vec<u8> {
    headers(1, WHOLE, block)
}

fn begun(block: &[u8]) -> Vec<u8> {
    headers(1, END_HEADERS, block)
}

#[rustfmt::skip]
fn fields() -> Vec<Case> {
    use Expect::Answer;
    let with = |name, value| whole(&request_with(&[(name, value)]));
    let begun_plain = || begun(&request("/t/now"));
    let regular_first = || [field("x-test", "ok"), request("/t/now")].concat();
    let indexed_name = |index: u8, value: &str| {
        let mut block = request("/t/now");
        block.extend([index, value.len() as u8]);
        block.extend(value.as_bytes());
        whole(&block)
    };
    vec![
        case("http2/8.1/1", "a second HEADERS that does not end", &[begun_plain(), data(1, 0, b"test"), headers(1, END_HEADERS, &field("x-test", "ok"))], MALFORMED),
        case("http2/8.1.2/1", "an upper-case name", &[with("X-TEST", "ok")], MALFORMED),
        case("http2/8.1.2.1/1", "an unknown pseudo-header", &[with(":test", "ok")], MALFORMED),
        case("http2/8.1.2.1/2", "a reply's pseudo-header", &[with(":status", "200")], MALFORMED),
        case("-", "a reply's pseudo-header by index", &[whole(&[&[0x88][..], &request("/t/now")].concat())], MALFORMED),
        case("http2/8.1.2.1/3", "a pseudo-header in trailers", &[begun_plain(), data(1, 0, b"test"), whole(&field(":method", "POST"))], MALFORMED),
        case("-", "an upper-case name in trailers", &[begun_plain(), data(1, 0, b"test"), whole(&field("X-TEST", "ok"))], MALFORMED),
        case("http2/8.1.2.1/4", "a pseudo-header behind a field", &[whole(&regular_first())], MALFORMED),
        case("http2/8.1.2.2/1", "connection", &[with("connection", "keep-alive")], MALFORMED),
        case("-", "keep-alive", &[with("keep-alive", "timeout=5")], MALFORMED),
        case("-", "proxy-connection", &[with("proxy-connection", "keep-alive")], MALFORMED),
        case("-", "transfer-encoding", &[with("transfer-encoding", "chunked")], MALFORMED),
        case("-", "transfer-encoding by index", &[indexed_name(0x79, "chunked")], MALFORMED),
        case("-", "upgrade", &[with("upgrade", "h2c")], MALFORMED),
        case("http2/8.1.2.2/2", "te beyond trailers", &[whole(&[request_without("te"), field("te", "trailers, deflate")].concat())], MALFORMED),
        case("http2/8.1.2.3/1", "an empty :path", &[whole(&request(""))], MALFORMED),
        case("http2/8.1.2.3/2", "no :method", &[whole(&request_without(":method"))], MALFORMED),
        case("http2/8.1.2.3/3", "no :scheme", &[whole(&request_without(":scheme"))], MALFORMED),
        case("http2/8.1.2.3/4", "no :path", &[whole(&request_without(":path"))], MALFORMED),
        case("http2/8.1.2.3/5", "two :method", &[whole(&[field(":method", "POST"), request("/t/now")].concat())], MALFORMED),
        case("http2/8.1.2.3/6", "two :scheme", &[whole(&[field(":scheme", "http"), request("/t/now")].concat())], MALFORMED),
        case("http2/8.1.2.3/7", "two :path", &[whole(&[field(":path", "/t/now"), request("/t/now")].concat())], MALFORMED),
        case("-", "two :authority", &[whole(&[field(":authority", "test"), request("/t/now")].concat())], MALFORMED),
        case("-", "no :authority, which HTTP allows", &[whole(&request_without(":authority"))], Answer(1)),
        case("-", "no te, which proxies take away", &[whole(&request_without("te"))], Answer(1)),
        case("-", "a line feed in a value", &[with("x-test", "a\nb")], MALFORMED),
        case("-", "a NUL in a value", &[with("x-test", "a\0b")], MALFORMED),
        case("-", "an empty name", &[with("", "x")], MALFORMED),
        case("-", "a space in a name", &[with("x test", "x")], MALFORMED),
        case("-", "bytes beyond ASCII in a value, which gRPC peers send", &[with("x-test", "Grüße")], Answer(1)),
    ]
}

#[rustfmt::skip]
fn lengths() -> Vec<Case> {
    use Expect::Answer;
    let announced = |length| begun(&request_with(&[("content-length", length)]));
    let at_once = |length| whole(&request_with(&[("content-length", length)]));
    vec![
        case("http2/8.1.2.6/1", "content-length against one DATA", &[announced("1"), data(1, END_STREAM, b"test")], MALFORMED),
        case("http2/8.1.2.6/2", "content-length against several DATA", &[announced("1"), data(1, 0, b"test"), data(1, END_STREAM, b"test")], MALFORMED),
        case("-", "content-length that is not reached", &[announced("9"), data(1, 0, b"test"), data(1, END_STREAM, b"test")], MALFORMED),
        case("-", "content-length that is not reached, with trailers", &[announced("9"), data(1, 0, b"test"), whole(&field("x", "y"))], MALFORMED),
        case("-", "content-length without a body", &[at_once("1")], MALFORMED),
        case("-", "content-length that holds", &[announced("8"), data(1, 0, b"test"), data(1, END_STREAM, b"test")], Answer(1)),
        case("-", "content-length of 0 that holds", &[at_once("0")], Answer(1)),
        case("-", "content-length that does not count padding", &[announced("4"), data(1, END_STREAM | PADDED, b"\x01test\0")], Answer(1)),
        case("-", "content-length that is no number", &[announced("four"), data(1, END_STREAM, b"test")], MALFORMED),
    ]
}

#[tokio::test]
async fn malformed_requests_are_reset_and_the_connection_goes_on() {
    run(Limits::default(), fields()).await;
    run(Limits::default(), lengths()).await;
}
