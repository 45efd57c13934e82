//! Which bytes names and values may hold, looked at eight at a time: every call's own headers pass through here, at both ends.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// What HTTP/2 allows in a name: visible ASCII without upper case, and `:` only in front.
#[inline]
pub(super) fn is_name(name: &[u8]) -> bool {
    let rest = name.strip_prefix(b":").unwrap_or(name);
    !rest.is_empty() && all(rest, is_name_word, is_name_byte)
}

/// What HTTP/2 allows in a value.
#[inline]
pub(super) fn is_value(value: &[u8]) -> bool {
    all(value, is_value_word, is_value_byte)
}

/// Whether all bytes are allowed. `word` may say no though they are; then each is asked.
#[inline]
fn all(text: &[u8], word: impl Fn(u64) -> bool, byte: impl Fn(u8) -> bool) -> bool {
    let each = |text: &[u8]| text.iter().all(|b| byte(*b));
    let Some(last) = text.last_chunk::<8>() else {
        return each(text);
    };
    // The last word overlaps the one before it, so that no odd bytes are left.
    let (words, _) = text.as_chunks::<8>();
    let fine = words.iter().all(|w| word(u64::from_ne_bytes(*w)));
    (fine && word(u64::from_ne_bytes(*last))) || each(text)
}

fn is_name_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !byte.is_ascii_uppercase() && byte != b':'
}

/// Lower-case letters, digits, `-` and `.`: from `-` to `z`, without what stands between `9` and `a`.
#[inline]
fn is_name_word(word: u64) -> bool {
    if word & HIGH != 0 {
        return false;
    }
    // With no high bit set no sum carries into its neighbour, and a high bit says "at least".
    let at_least = |least: u8| word + ONES * u64::from(0x80 - least);
    let letters = at_least(b'a') & !at_least(b'z' + 1);
    let digits = at_least(b'-') & !at_least(b'9' + 1);
    (letters | digits) & HIGH == HIGH
}

fn is_value_byte(byte: u8) -> bool {
    !matches!(byte, 0 | b'\r' | b'\n')
}

/// No control character.
#[inline]
fn is_value_word(word: u64) -> bool {
    word.wrapping_sub(ONES * 0x20) & !word & HIGH == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_judged_alike_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for length in [1, 7, 8, 9, 16, 23] {
                for place in 0..length {
                    let mut text = vec![b'a'; length];
                    text[place] = byte;
                    assert_eq!(
                        is_value(&text),
                        is_value_byte(byte),
                        "{byte:#x} at {place} of {length}"
                    );
                    let in_front = place == 0 && byte == b':' && length > 1;
                    assert_eq!(
                        is_name(&text),
                        is_name_byte(byte) || in_front,
                        "{byte:#x} at {place} of {length}"
                    );
                }
            }
        }
        assert!(is_value(b"") && !is_name(b"") && !is_name(b":"));
    }
}
