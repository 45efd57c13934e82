//! What attackers of a server say, in batches; for benchmarks, which include this file and `raw.rs` beside it.

use crate::raw::*;

/// Frames that are said at once.
const BATCH: u32 = 500;
/// What is called.
pub(crate) const PATH: &str = "/bench.v1.Echo/Echo";

macro_rules! attacks {
    ($($name:ident = $text:literal,)*) => {
        /// An attack.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Attack {
            $($name,)*
        }

        impl Attack {
            pub(crate) const ALL: &'static [Attack] = &[$(Attack::$name,)*];

            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Attack::$name => $text,)*
                }
            }
        }
    };
}

attacks! {
    RapidReset = "rapid reset",
    Continuations = "CONTINUATION without end",
    Settings = "SETTINGS flood",
    Pings = "PING flood",
    EmptyData = "empty DATA flood",
    Crumbs = "windows in crumbs",
    ClosedWindow = "replies under a closed window",
    Overflow = "windows that overflow",
    TableBomb = "header bomb by table",
    HuffmanBomb = "header bomb by Huffman",
    Memo = "blocks that fill the memo",
    Dribble = "slow-loris",
    Halves = "half frames, left",
    GoAways = "GOAWAY and on",
    Ids = "stream ids abused",
    NeverReads = "never reads",
    Refused = "streams beyond the limit",
    Honest = "as many honest calls, for comparison",
}

impl Attack {
    /// The frames of one batch; `i` counts batches of a connection.
    pub(crate) fn batch(self, i: u32) -> Vec<u8> {
        let numbers = i * BATCH..(i + 1) * BATCH;
        let stream = |number: u32| 2 * number + 1;
        let opened = match i {
            0 => headers(1, END_HEADERS, &request(PATH)),
            _ => Vec::new(),
        };
        let flood = |frame: Vec<u8>| [opened.clone(), frame.repeat(BATCH as usize)].concat();
        match self {
            Attack::RapidReset => numbers
                .flat_map(|n| {
                    [
                        headers(stream(n), END_HEADERS, &request(PATH)),
                        reset(stream(n), CANCEL),
                    ]
                    .concat()
                })
                .collect(),
            Attack::Continuations => match i {
                0 => [
                    headers(1, 0, &request(PATH)),
                    continuation(1, 0, b"").repeat(BATCH as usize),
                ]
                .concat(),
                _ => continuation(1, 0, b"").repeat(BATCH as usize),
            },
            Attack::Settings => flood(settings(&[(4, 65_535 + i)])),
            Attack::Pings => flood(frame(PING, 0, 0, &[7; 8])),
            Attack::EmptyData => flood(data(1, 0, b"")),
            Attack::Crumbs => flood(window_update(1, 1)),
            Attack::ClosedWindow | Attack::NeverReads => {
                let closed = match (self, i) {
                    (Attack::ClosedWindow, 0) => settings(&[(4, 0)]),
                    _ => Vec::new(),
                };
                numbers.fold(closed, |mut all, n| {
                    all.extend(call(stream(n), &[7; 1_000]));
                    all
                })
            }
            Attack::Overflow => numbers
                .flat_map(|n| {
                    [
                        headers(stream(n), END_HEADERS, &request(PATH)),
                        window_update(stream(n), 0x7fff_ffff),
                    ]
                    .concat()
                })
                .collect(),
            Attack::TableBomb => {
                let mut field = vec![0x40, 1, b'x', 0x7f];
                field.extend([0x80 | ((3_000 - 127) & 0x7f) as u8, ((3_000 - 127) >> 7) as u8]);
                field.extend([b'y'; 3_000]);
                let bomb = [request(PATH), field, vec![0xbe; 10_000]].concat();
                numbers
                    .take(20)
                    .flat_map(|n| headers(stream(n), WHOLE, &bomb))
                    .collect()
            }
            Attack::HuffmanBomb => {
                let mut packed = request(PATH);
                packed.extend([
                    0,
                    1,
                    b'x',
                    0xff,
                    0x80 | ((15_000 - 127) & 0x7f) as u8,
                    ((15_000 - 127) >> 7) as u8,
                ]);
                packed.extend([0; 15_000]);
                numbers
                    .take(20)
                    .flat_map(|n| headers(stream(n), WHOLE, &packed))
                    .collect()
            }
            Attack::Memo => numbers
                .flat_map(|n| {
                    let odd = 0x80 | (1 + n % 61) as u8;
                    let block = [&[0x83, 0x86, 0x84, odd][..], &block(&REQUEST[3..])].concat();
                    headers(stream(n), WHOLE, &block)
                })
                .collect(),
            Attack::GoAways => [opened.clone(), go_away(0, 0).repeat(BATCH as usize)].concat(),
            Attack::Ids => flood(data(1, END_STREAM, b"x")),
            Attack::Refused => numbers
                .flat_map(|n| headers(stream(n), END_HEADERS, &request(PATH)))
                .collect(),
            Attack::Honest => numbers.flat_map(|n| call(stream(n), &[7; 128])).collect(),
            Attack::Dribble | Attack::Halves => Vec::new(),
        }
    }

    /// Frames of a batch, as far as each costs the server something.
    pub(crate) fn frames(self) -> u64 {
        let each = match self {
            Attack::RapidReset
            | Attack::Overflow
            | Attack::ClosedWindow
            | Attack::NeverReads
            | Attack::Honest => 2,
            Attack::TableBomb | Attack::HuffmanBomb => return 20,
            _ => 1,
        };
        each * u64::from(BATCH)
    }

    /// Whether it lives by the number of its connections, and says next to nothing.
    pub(crate) fn is_slow(self) -> bool {
        matches!(self, Attack::Dribble | Attack::Halves)
    }

    /// Whether it takes what the server answers.
    pub(crate) fn reads(self) -> bool {
        !matches!(self, Attack::NeverReads)
    }
}

/// A whole call of the echo service.
fn call(stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut message = vec![0x0a];
    match length {
        0..=127 => message.push(length as u8),
        _ => message.extend([0x80 | (length & 0x7f) as u8, (length >> 7) as u8]),
    }
    message.extend_from_slice(payload);
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    [
        headers(stream, END_HEADERS, &request(PATH)),
        data(stream, END_STREAM, &body),
    ]
    .concat()
}
