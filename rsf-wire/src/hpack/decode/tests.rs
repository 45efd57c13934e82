//! The examples of RFC 7541 Appendix C, the memo, hostile blocks, and what the encoder writes.

use proptest::prelude::*;

use super::*;
use crate::hpack::rules::OF_CONNECTIONS;
use crate::hpack::{Constants, Encoder, Literals};

fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(|b| b.is_ascii_hexdigit()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn pairs(headers: &Headers) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    headers
        .iter()
        .map(|field| (text(&field.name), text(&field.value)))
        .collect()
}

fn owned(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect()
}

/// A block, its fields, and the table's size after it.
type Step<'a> = (&'a str, &'a [(&'a str, &'a str)], usize);

/// Decodes a series of blocks with one decoder; after each the table has the given size.
fn series(max_table: u32, blocks: &[Step<'_>]) {
    let mut decoder = Decoder::new(max_table, 16_384);
    for (block, fields, size) in blocks {
        assert_eq!(pairs(&decoder.decode(&hex(block)).unwrap()), owned(fields));
        assert_eq!(decoder.table.size(), *size);
    }
}

const FIRST: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
];
const SECOND: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const THIRD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];
const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const PRIVATE: (&str, &str) = ("cache-control", "private");

#[test]
fn representations_c_2() {
    series(
        4096,
        &[
            (
                "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                &[("custom-key", "custom-header")],
                55,
            ),
            (
                "040c 2f73 616d 706c 652f 7061 7468",
                &[(":path", "/sample/path")],
                55,
            ),
            (
                "1008 7061 7373 776f 7264 0673 6563 7265 74",
                &[("password", "secret")],
                55,
            ),
            ("82", &[(":method", "GET")], 55),
        ],
    );
}

#[test]
fn requests_c_3_and_c_4_plain_and_huffman() {
    series(
        4096,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST, 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND, 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                THIRD,
                164,
            ),
        ],
    );
    series(
        4096,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", SECOND, 110),
            (
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                THIRD,
                164,
            ),
        ],
    );
}

#[test]
fn responses_c_5_and_c_6_with_eviction() {
    let first = [(":status", "302"), PRIVATE, DATE, LOCATION];
    let second = [(":status", "307"), PRIVATE, DATE, LOCATION];
    let late = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
    let cookie = (
        "set-cookie",
        "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    );
    let third = [
        (":status", "200"),
        PRIVATE,
        late,
        LOCATION,
        ("content-encoding", "gzip"),
        cookie,
    ];
    series(256, &[
        (
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120
             474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            &first,
            222,
        ),
        ("4803 3330 37c1 c0bf", &second, 222),
        (
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738
             666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33
             3630 303b 2076 6572 7369 6f6e 3d31",
            &third,
            215,
        ),
    ]);
    series(256, &[
        (
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718
             63c7 8f0b 97c8 e9ae 82ae 43d3",
            &first,
            222,
        ),
        ("4883 640e ffc1 c0bf", &second, 222),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7
             b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            &third,
            215,
        ),
    ]);
}

#[test]
fn hostile_blocks_are_refused() {
    for (block, error) in [
        ("80", DecodeError::NoSuchIndex(0)),
        ("be", DecodeError::NoSuchIndex(62)),
        ("ff", DecodeError::Truncated),
        ("ffff ffff ffff 01", DecodeError::Truncated),
        ("4005 6162", DecodeError::Truncated),
        ("0081 ff01 61", DecodeError::Huffman),
        ("3fe2 1f", DecodeError::TableSize),
        ("8220", DecodeError::TableSize),
    ] {
        assert_eq!(
            Decoder::new(4096, 16_384).decode(&hex(block)).unwrap_err(),
            error,
            "{block}"
        );
    }
}

#[test]
fn a_list_over_its_limit_is_not_stored_and_the_table_stays_in_step() {
    let mut decoder = Decoder::new(4096, 200);
    let mut block = vec![0x40, 1, b'a', 100];
    block.extend_from_slice(&[b'x'; 100]);
    block.extend_from_slice(&[0xbe; 5000]);
    let headers = decoder.decode(&Bytes::from(block)).unwrap();
    assert_eq!(headers.fault(), Some(Fault::TooLarge));
    assert_eq!(headers.iter().count(), 1);
    assert_eq!(
        decoder.decode(&hex("be")).unwrap().get("a"),
        Some(&[b'x'; 100][..])
    );
}

#[test]
fn names_and_values_that_http_forbids_are_a_fault() {
    for block in ["0001 4101 61", "0001 6101 0a", "0000 0161"] {
        let headers = Decoder::new(4096, 16_384).decode(&hex(block)).unwrap();
        assert_eq!(headers.fault(), Some(Fault::Malformed), "{block}");
    }
}

#[test]
fn a_beginning_is_remembered_until_the_table_moves() {
    let mut decoder = Decoder::new(4096, 16_384);
    let varied = hex("8286 8400 0161 0162");
    for _ in 0..3 {
        assert_eq!(decoder.decode(&varied).unwrap().get("a"), Some(&b"b"[..]));
    }
    assert_eq!(decoder.memo.len(), 1);
    // The same byte comes to mean another field.
    decoder.decode(&hex("4001 6b01 31")).unwrap();
    for _ in 0..3 {
        assert_eq!(decoder.decode(&hex("be")).unwrap().get("k"), Some(&b"1"[..]));
    }
    decoder.decode(&hex("4001 6b01 32")).unwrap();
    for _ in 0..3 {
        assert_eq!(decoder.decode(&hex("be")).unwrap().get("k"), Some(&b"2"[..]));
    }
    assert_eq!(decoder.memo.len(), 1);
}

#[test]
fn what_is_noted_of_a_beginning_is_forgotten_with_it() {
    let mut decoder = Decoder::new(4096, 16_384);
    let block = hex("8286 8400 0161 0162");
    let first = decoder.decode(&block).unwrap();
    let beginning = first.beginning().unwrap();
    assert_eq!(beginning.get(":path"), Some(&b"/"[..]));
    assert_eq!(
        (beginning.get("a"), first.get_behind("a")),
        (None, Some(&b"b"[..]))
    );
    beginning.note().set(7).unwrap();
    let noted = |headers: Headers| {
        headers
            .beginning()
            .and_then(|beginning| beginning.note().get().copied())
    };
    assert_eq!(noted(decoder.decode(&block).unwrap()), Some(7));
    assert_eq!(noted(decoder.decode(&hex("8287 8400 0161 0162")).unwrap()), None);
    decoder.decode(&hex("4001 6b01 31")).unwrap();
    assert_eq!(noted(decoder.decode(&block).unwrap()), None);
}

/// Otherwise each request would be searched for what it does not have.
#[test]
fn what_calls_may_have_is_told_apart_from_what_they_have() {
    let mut usual = Names::default();
    let names = ":method :scheme :path :authority te content-type user-agent grpc-timeout grpc-encoding \
                 grpc-accept-encoding rsf-caller rsf-request-id traceparent tracestate :status grpc-status grpc-message";
    names
        .split_whitespace()
        .for_each(|name| usual.add(name.as_bytes()));
    let names = "rsf-target rsf-shard rsf-implementation rsf-token rsf-priority rsf-routing-key rsf-dye baggage rsf-retried \
                 rsf-repeated grpc-previous-rpc-attempts";
    for name in names.split_whitespace().chain(OF_CONNECTIONS) {
        assert!(!usual.may_have(name.as_bytes()), "{name}");
    }
}

fn name() -> impl Strategy<Value = String> {
    // `te` has a value of its own, and HTTP/1.1's names have none.
    "[a-z][a-z0-9._-]{0,20}".prop_filter("a name that HTTP/2 leaves to peers", |name| {
        name != "te" && !OF_CONNECTIONS.contains(&name.as_str())
    })
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec((name(), "[ -~]{0,60}"), 0..12)
}

proptest! {
    // Each case is many blocks.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_encoded_is_decoded(
        constants in proptest::collection::vec(fields(), 4),
        blocks in proptest::collection::vec((0usize..4, fields()), 1..24),
        table in prop_oneof![Just(0u32), Just(100), Just(4096)],
    ) {
        let mut encoder = Encoder::new(4096);
        encoder.set_table_size(table);
        let mut decoder = Decoder::new(4096, 1 << 20);
        for (place, varying) in &blocks {
            // Few sets that come again and again, as in life: memories are made, used and must be forgotten in time.
            let constant = &constants[*place];
            let borrowed: Vec<(&str, &[u8])> = constant.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
            let mut literals = Literals::new();
            for (name, value) in varying {
                literals.push(name, value.as_bytes()).unwrap();
            }
            let mut block = Vec::new();
            let constants = Constants { own: &borrowed, ..Constants::default() };
            encoder.encode(constants, &literals, &mut block);
            let decoded = decoder.decode(&Bytes::from(block)).unwrap();
            prop_assert_eq!(decoded.fault(), None);
            let all = [constant.clone(), varying.clone()].concat();
            prop_assert_eq!(&pairs(&decoded), &all);
            for name in all.iter().map(|(name, _)| name.as_str()).chain(["rsf-target", "a", ""]) {
                let first = all.iter().find(|(other, _)| other == name);
                prop_assert_eq!(decoded.get(name), first.map(|(_, value)| value.as_bytes()));
            }
        }
    }

    #[test]
    fn random_blocks_never_panic_and_stay_bounded(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let mut decoder = Decoder::new(256, 512);
        for block in blocks {
            if let Ok(headers) = decoder.decode(&Bytes::from(block)) {
                prop_assert!(headers.iter().map(|field| field.size()).sum::<usize>() <= 512);
            }
            prop_assert!(decoder.table.size() <= 256);
        }
    }
}
