//! Input that is nearly HTTP/2: real frames and header blocks in any order, some of them broken by a few bytes.

use fastrand::Rng;

use crate::raw::*;

/// A connection's worth of frames.
pub(crate) fn frames(rng: &mut Rng, client: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if client && rng.u8(..) > 4 {
        out.extend(PREFACE);
    }
    if rng.u8(..) > 4 {
        out.extend(settings(&[]));
    }
    for _ in 0..rng.usize(1..60) {
        out.extend(one(rng));
    }
    if rng.u8(..) < 40 {
        for _ in 0..rng.usize(1..6) {
            spoil(rng, &mut out);
        }
    }
    out
}

fn one(rng: &mut Rng) -> Vec<u8> {
    let stream = match rng.u8(..) {
        0..200 => rng.u32(0..12),
        200..230 => 2 * rng.u32(0..200) + 1,
        _ => rng.u32(..),
    };
    let flags = [
        END_HEADERS,
        WHOLE,
        WHOLE,
        0,
        END_STREAM,
        PADDED | WHOLE,
        PRIORITIZED | WHOLE,
    ][rng.usize(..7)];
    match rng.u8(..20) {
        0..6 => headers(stream, flags, &block(rng)),
        6..10 => {
            let length = [0, 1, 5, 100, 9_000][rng.usize(..5)];
            data(stream, flags & !END_HEADERS, &vec![rng.u8(..2); length])
        }
        10 => frame(PRIORITY, 0, stream, &dependency(rng.u32(0..12), rng.u8(..))),
        11 => reset(stream, rng.u32(0..20)),
        12 => {
            let value = [0, 1, 100, 16_384, 65_535, 1 << 20, 0x7fff_ffff, u32::MAX][rng.usize(..8)];
            settings(&[(rng.u16(0..8), value)])
        }
        13 => frame(SETTINGS, ACK, 0, &[]),
        14 => frame(PING, rng.u8(..2), 0, &[rng.u8(..); 8]),
        15 => go_away(stream, rng.u32(0..15)),
        16 => window_update(stream, [0, 1, 1_000, 65_535, 0x7fff_ffff][rng.usize(..5)]),
        17 => continuation(stream, rng.u8(..) & END_HEADERS, &block(rng)),
        18 => window_update(0, [1, 1_000, 1 << 20][rng.usize(..3)]),
        _ => {
            let payload: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
            frame(rng.u8(..16), rng.u8(..), stream, &payload)
        }
    }
}

/// A header block: a request's or reply's most of the time, with odd fields.
pub(crate) fn block(rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    if rng.u8(..) < 20 {
        out.extend([0x20 | rng.u8(..31)]);
    }
    match rng.u8(..8) {
        0..4 => out.extend(request(["/t/now", "/t/never", "/t/late", ""][rng.usize(..4)])),
        4 => out.extend([0x83, 0x86]),
        5 | 6 => out.push(0x88),
        _ => {}
    }
    for _ in 0..rng.usize(..5) {
        let pattern = [0, 0x10, 0x40][rng.usize(..3)];
        let names = [
            "x-a",
            "grpc-status",
            "content-length",
            "te",
            "connection",
            ":path",
            ":status",
            "X",
            "",
        ];
        let values = ["", "0", "5", "trailers", "a longer value than the others", "\r\n"];
        match rng.u8(..6) {
            0 => out.push(0x80 | rng.u8(..)),
            1 => out.extend([0xff, rng.u8(..), rng.u8(..)]),
            2 => out.extend([pattern, 1, b'h', 0x80 | 3, rng.u8(..), rng.u8(..), rng.u8(..)]),
            _ => out.extend(literal(pattern, names[rng.usize(..9)], values[rng.usize(..6)])),
        }
    }
    out
}

/// Changes, takes away or adds a byte.
pub(crate) fn spoil(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.usize(..bytes.len());
    match rng.u8(..4) {
        0 => bytes[at] ^= 1 << rng.u8(..8),
        1 => bytes[at] = rng.u8(..),
        2 => drop(bytes.remove(at)),
        _ => bytes.insert(at, rng.u8(..)),
    }
}
