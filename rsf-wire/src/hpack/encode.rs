//! Writing header blocks: constants indexed and remembered, per-call values as literals behind them.

use bytes::Bytes;

use super::table::{STATIC, Table};
use super::{Field, integer, is_name, is_value};

/// Bytes of the dynamic table that we use at most, whatever the peer offers: constants are few.
const TABLE_BYTES: usize = 4096;
/// Sets of constants whose block is remembered.
const MEMO_ENTRIES: usize = 64;

/// A field that HTTP/2 does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header `{name}`: the name must be lower-case visible ASCII, the value without NUL, CR and LF")]
pub struct InvalidField {
    name: String,
}

/// Fields that vary from call to call, written already: as literals they mean the same whatever the table holds.
#[derive(Debug, Clone, Default)]
pub struct Literals(Vec<u8>);

impl Literals {
    /// Without any field; costs no allocation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Without any field, with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Literals(Vec::with_capacity(bytes))
    }

    /// Adds a field.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        if !is_name(name.as_bytes()) || !is_value(value) {
            return Err(InvalidField {
                name: name.to_owned(),
            });
        }
        self.0.push(0);
        integer::write(&mut self.0, 0, 7, name.len());
        self.0.extend_from_slice(name.as_bytes());
        integer::write(&mut self.0, 0, 7, value.len());
        self.0.extend_from_slice(value);
        Ok(())
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Encodes the blocks of one direction of a connection, in the order in which they are sent.
///
/// A constant that finds no room in the table goes as a literal: nothing is ever pushed out, so that what is
/// remembered stays true.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// The table's new size, to be said at the next block's beginning.
    resized: Option<usize>,
    memo: Vec<Remembered>,
    memo_generation: u64,
    key: Vec<u8>,
}

/// A set of constants as [`write_key`] writes it, and its block.
type Remembered = (Box<[u8]>, Box<[u8]>);

impl Encoder {
    /// An encoder for a peer with a table of `table_bytes` (4 096 until its SETTINGS say otherwise).
    pub fn new(table_bytes: u32) -> Self {
        Encoder {
            table: Table::new((table_bytes as usize).min(TABLE_BYTES)),
            resized: None,
            memo: Vec::new(),
            memo_generation: 0,
            key: Vec::new(),
        }
    }

    /// The peer announced a table of `bytes`.
    pub fn set_table_size(&mut self, bytes: u32) {
        let bytes = (bytes as usize).min(TABLE_BYTES);
        if bytes == self.table.max() {
            return;
        }
        // Emptied first: both sides forget everything, and small constants get a second chance.
        self.table.resize(0);
        self.table.resize(bytes);
        self.resized = Some(bytes);
    }

    /// Appends a block: constants (of both slices) by index where they are known, then the literals.
    ///
    /// Constants must be valid fields; the caller knows them.
    pub fn encode(&mut self, constants: [&[(&str, &[u8])]; 2], varying: &Literals, out: &mut Vec<u8>) {
        if let Some(size) = self.resized.take() {
            integer::write(out, 0x20, 5, 0);
            integer::write(out, 0x20, 5, size);
        }
        self.forget_if_moved();
        write_key(constants, &mut self.key);
        match self.memo.iter().find(|(key, _)| **key == *self.key) {
            Some((_, block)) => out.extend_from_slice(block),
            None => {
                let start = out.len();
                for (name, value) in constants.into_iter().flatten() {
                    self.field(name, value, out);
                }
                // What was written while the table moved means something else the next time.
                if !self.forget_if_moved() && self.memo.len() < MEMO_ENTRIES {
                    self.memo.push((self.key.as_slice().into(), out[start..].into()));
                }
            }
        }
        out.extend_from_slice(&varying.0);
    }

    /// Forgets all blocks where the table has moved since they were written.
    fn forget_if_moved(&mut self) -> bool {
        let generation = self.table.generation();
        let moved = self.memo_generation != generation;
        if moved {
            self.memo.clear();
            self.memo_generation = generation;
        }
        moved
    }

    fn field(&mut self, name: &str, value: &[u8], out: &mut Vec<u8>) {
        let known = STATIC
            .iter()
            .position(|(n, v)| *n == name && v.as_bytes() == value);
        let index = known.map_or_else(|| self.table.find(name.as_bytes(), value), |place| place + 1);
        if index > 0 {
            return integer::write(out, 0x80, 7, index);
        }
        let field = Field {
            name: Bytes::copy_from_slice(name.as_bytes()),
            value: Bytes::copy_from_slice(value),
        };
        let (pattern, bits) = if self.table.has_room(&field) {
            (0x40, 6)
        } else {
            (0, 4)
        };
        match STATIC.iter().position(|(n, _)| *n == name) {
            Some(place) => integer::write(out, pattern, bits, place + 1),
            None => {
                out.push(pattern);
                integer::write(out, 0, 7, name.len());
                out.extend_from_slice(name.as_bytes());
            }
        }
        integer::write(out, 0, 7, value.len());
        out.extend_from_slice(value);
        if self.table.has_room(&field) {
            self.table.insert(field);
        }
    }
}

/// All constants in one run of bytes, lengths before texts so that no two sets look alike.
fn write_key(constants: [&[(&str, &[u8])]; 2], key: &mut Vec<u8>) {
    key.clear();
    for (name, value) in constants.into_iter().flatten() {
        for text in [name.as_bytes(), value] {
            key.extend_from_slice(&(text.len() as u32).to_be_bytes());
            key.extend_from_slice(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_shrink_to_a_byte_each_from_the_second_block_on() {
        let mut encoder = Encoder::new(4096);
        let constants: [(&str, &[u8]); 4] = [
            (":method", b"POST"),
            (":scheme", b"http"),
            (":path", b"/shop.Orders/Place"),
            ("te", b"trailers"),
        ];
        let mut block = |varying: &Literals| {
            let mut out = Vec::new();
            encoder.encode([&constants, &[]], varying, &mut out);
            out
        };
        assert!(block(&Literals::new()).len() > 30);
        for _ in 0..3 {
            assert_eq!(block(&Literals::new()), [0x83, 0x86, 0xbf, 0xbe]);
        }
        let mut varying = Literals::new();
        varying.push("grpc-timeout", b"1S").unwrap();
        assert_eq!(block(&varying), *b"\x83\x86\xbf\xbe\x00\x0cgrpc-timeout\x021S");
    }

    #[test]
    fn a_full_table_is_left_as_it_is() {
        let mut encoder = Encoder::new(100);
        let (small, large): (&[u8], &[u8]) = (b"1", &[b'x'; 80]);
        let mut out = Vec::new();
        encoder.encode([&[("a", small)], &[]], &Literals::new(), &mut out);
        encoder.encode([&[("b", large)], &[]], &Literals::new(), &mut out);
        out.clear();
        encoder.encode([&[("a", small)], &[]], &Literals::new(), &mut out);
        assert_eq!(out, [0xbe]);
    }

    #[test]
    fn invalid_fields_are_refused() {
        for (name, value) in [
            ("A", "1"),
            ("", "1"),
            ("a b", "1"),
            ("a", "line\nbreak"),
            ("a", "\0"),
        ] {
            assert!(Literals::new().push(name, value.as_bytes()).is_err(), "{name:?}");
        }
    }
}
