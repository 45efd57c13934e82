//! HPACK's integers: as many bits as a byte has left, then seven a byte.

/// Writes `value` after the bits of `pattern`, whose low `bits` bits are free.
#[inline]
pub(super) fn write(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let full = (1usize << bits) - 1;
    if value < full {
        return out.push(pattern | value as u8);
    }
    write_long(out, pattern, full, value);
}

fn write_long(out: &mut Vec<u8>, pattern: u8, full: usize, value: usize) {
    out.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Reads from `at`, which moves on. `None` where the bytes end, or the number passes 2²⁸: no index or length does.
pub(super) fn read(bytes: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let full = (1usize << bits) - 1;
    let first = usize::from(*bytes.get(*at)?) & full;
    *at += 1;
    if first < full {
        return Some(first);
    }
    let mut value = full;
    for shift in [0, 7, 14, 21] {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_rfc_7541_c_1() {
        for (bits, value, bytes) in [(5, 10, &[10][..]), (5, 1337, &[31, 154, 10]), (8, 42, &[42])] {
            let mut out = Vec::new();
            write(&mut out, 0, bits, value);
            assert_eq!(out, bytes);
            assert_eq!(read(bytes, &mut 0, bits), Some(value));
        }
    }

    #[test]
    fn endless_numbers_are_refused() {
        assert_eq!(read(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0x01], &mut 0, 7), None);
        assert_eq!(read(&[0x7f, 0x80], &mut 0, 7), None);
        assert_eq!(read(&[], &mut 0, 7), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in 0usize..1 << 28, bits in 4u32..=7) {
            let mut out = Vec::new();
            write(&mut out, 0, bits, value);
            let mut at = 0;
            prop_assert_eq!(read(&out, &mut at, bits), Some(value));
            prop_assert_eq!(at, out.len());
        }
    }
}
