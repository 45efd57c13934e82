//! HPACK's Huffman code, read. The code is canonical, so that the lengths of RFC 7541 Appendix B say it all.

/// Bits of each byte's code.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const LONGEST: usize = 30;
/// Codes of up to this many bits are looked up directly; they cover what header values are made of.
const QUICK: u32 = 8;

struct Code {
    /// The bytes by rising code.
    symbols: [u8; 256],
    /// For each length: the first code, how many there are, and where their bytes begin in `symbols`.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [usize; LONGEST + 1],
    /// For each beginning of eight bits: byte and length of the code that it starts with; length 0 where it is longer.
    quick: [(u8, u8); 1 << QUICK],
}

static CODE: Code = build();

const fn build() -> Code {
    let mut code = Code {
        symbols: [0; 256],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        quick: [(0, 0); 1 << QUICK],
    };
    let (mut next, mut filled, mut length) = (0u32, 0usize, 1usize);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.start[length] = filled;
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                code.symbols[filled] = symbol as u8;
                if length <= QUICK as usize {
                    let spare = QUICK - length as u32;
                    let mut low = 0;
                    while low < 1 << spare {
                        code.quick[((next << spare) + low) as usize] = (symbol as u8, length as u8);
                        low += 1;
                    }
                }
                filled += 1;
                next += 1;
                code.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
}

/// Decodes all of `bytes`. `None` where they hold the end-of-string code, or padding that is not its beginning.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() * 8 / 5);
    // The bits that wait stand at the top of `bits`; fewer than 64.
    let (mut bits, mut have) = (0u64, 0u32);
    let mut rest = bytes.iter();
    loop {
        while have <= 56
            && let Some(&byte) = rest.next()
        {
            bits |= u64::from(byte) << (56 - have);
            have += 8;
        }
        if have == 0 {
            return Some(out);
        }
        match next(bits) {
            Some((symbol, length)) if length <= have => {
                out.push(symbol);
                bits <<= length;
                have -= length;
            }
            // Nothing fits any more: what is left must be padding, under eight bits of ones.
            _ => return (have < 8 && bits.leading_ones() >= have).then_some(out),
        }
    }
}

/// The byte that the top of `bits` encodes, and how many bits that takes.
fn next(bits: u64) -> Option<(u8, u32)> {
    let (symbol, length) = CODE.quick[(bits >> (64 - QUICK)) as usize];
    if length > 0 {
        return Some((symbol, u32::from(length)));
    }
    (QUICK as usize + 1..=LONGEST).find_map(|length| {
        let offset = ((bits >> (64 - length)) as u32).checked_sub(CODE.first[length])?;
        (offset < CODE.count[length])
            .then(|| (CODE.symbols[CODE.start[length] + offset as usize], length as u32))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(bytes: &[u8]) -> Vec<u8> {
        let (mut out, mut bits, mut have) = (Vec::new(), 0u64, 0u32);
        for byte in bytes {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let place = (0..).find(|i| CODE.symbols[*i] == *byte).unwrap() - CODE.start[length];
            bits = (bits << length) | u64::from(CODE.first[length] + place as u32);
            have += length as u32;
            while have >= 8 {
                have -= 8;
                out.push((bits >> have) as u8);
            }
        }
        if have > 0 {
            out.push(((bits << (8 - have)) as u8) | (0xff >> have));
        }
        out
    }

    #[test]
    fn the_code_is_the_one_of_rfc_7541() {
        assert_eq!(CODE.first[30], 0x3fff_fffc);
        assert_eq!(
            encode(b"www.example.com"),
            *b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"
        );
        assert_eq!(
            decode(b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff").unwrap(),
            b"www.example.com"
        );
    }

    #[test]
    fn bad_endings_are_refused() {
        // Eight ones of padding; the end-of-string code; padding with a zero.
        for bytes in [&[0xff][..], &[0xff, 0xff, 0xff, 0xff], &[0x00, 0b0000_0110]] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
