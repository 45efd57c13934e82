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
        self.0.reserve(name.len() + value.len() + 8);
        self.0.push(0);
        integer::write(&mut self.0, 0, 7, name.len());
        self.0.extend_from_slice(name.as_bytes());
        integer::write(&mut self.0, 0, 7, value.len());
        self.0.extend_from_slice(value);
        Ok(())
    }

    /// Adds a field whose name was checked when the program was compiled.
    #[inline]
    pub fn push_named<const N: usize>(&mut self, name: &Name<N>, value: &[u8]) -> Result<(), InvalidField> {
        if !is_value(value) {
            return Err(InvalidField {
                name: name.text().to_owned(),
            });
        }
        self.0.reserve(N + value.len() + 4);
        self.0.extend_from_slice(&name.0);
        integer::write(&mut self.0, 0, 7, value.len());
        self.0.extend_from_slice(value);
        Ok(())
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The name of a field, written already: for names that the program knows. `N` is two more than its length.
#[derive(Debug, Clone, Copy)]
pub struct Name<const N: usize>([u8; N]);

impl<const N: usize> Name<N> {
    /// Lower-case letters, digits and `-`, 1 to 126 of them.
    ///
    /// # Panics
    /// For any other name, and where `N` is not two more than its length: in a constant that is an error of the compiler.
    pub const fn new(name: &str) -> Self {
        assert!(
            name.len() + 2 == N && N > 2 && N <= 128,
            "N is the name's length and two"
        );
        let mut written = [0; N];
        written[1] = name.len() as u8;
        let mut at = 0;
        while at < name.len() {
            let byte = name.as_bytes()[at];
            assert!(
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-',
                "a name holds lower-case letters, digits and `-`"
            );
            written[at + 2] = byte;
            at += 1;
        }
        Name(written)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0[2..]).unwrap_or_default()
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
}

/// A field to be written.
pub type Pair<'a> = (&'a str, &'a [u8]);

/// The fields of a block that stay from call to call. All must be valid; the caller knows them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Constants<'a> {
    /// What a request begins with. Always the same on a connection.
    pub before: &'a [Pair<'a>],
    /// `:path`; empty in a reply, which has none.
    pub path: &'a str,
    /// What follows it in a request. Always the same on a connection.
    pub after: &'a [Pair<'a>],
    /// Fields that tell this block from others, together with its path.
    pub own: &'a [Pair<'a>],
}

impl<'a> Constants<'a> {
    fn iter(self) -> impl Iterator<Item = Pair<'a>> {
        let path = (!self.path.is_empty()).then_some((":path", self.path.as_bytes()));
        let (before, after, own) = (self.before.iter(), self.after.iter(), self.own.iter());
        before.copied().chain(path).chain(after.chain(own).copied())
    }
}

/// Constants, and their block.
#[derive(Debug)]
struct Remembered {
    path: Box<str>,
    own: Vec<(Box<str>, Box<[u8]>)>,
    block: Box<[u8]>,
}

impl Remembered {
    fn new(constants: &Constants<'_>, block: &[u8]) -> Self {
        let own = constants.own.iter();
        Remembered {
            path: constants.path.into(),
            own: own
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            block: block.into(),
        }
    }

    fn is_of(&self, constants: &Constants<'_>) -> bool {
        let mut own = self.own.iter().zip(constants.own);
        *self.path == *constants.path
            && self.own.len() == constants.own.len()
            && own.all(|((name, value), (n, v))| **value == **v && **name == **n)
    }
}

impl Encoder {
    /// An encoder for a peer with a table of `table_bytes` (4 096 until its SETTINGS say otherwise).
    pub fn new(table_bytes: u32) -> Self {
        Encoder {
            table: Table::new((table_bytes as usize).min(TABLE_BYTES)),
            resized: None,
            memo: Vec::new(),
            memo_generation: 0,
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

    /// Appends a block: constants, by index where they are known, then the literals.
    pub fn encode(&mut self, constants: Constants<'_>, varying: &Literals, out: &mut Vec<u8>) {
        if let Some(size) = self.resized.take() {
            integer::write(out, 0x20, 5, 0);
            integer::write(out, 0x20, 5, size);
        }
        self.forget_if_moved();
        match self.memo.iter().find(|known| known.is_of(&constants)) {
            Some(known) => out.extend_from_slice(&known.block),
            None => self.encode_first(constants, out),
        }
        out.extend_from_slice(&varying.0);
    }

    fn encode_first(&mut self, constants: Constants<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        for (name, value) in constants.iter() {
            self.field(name, value, out);
        }
        // What was written while the table moved means something else the next time.
        if !self.forget_if_moved() && self.memo.len() < MEMO_ENTRIES {
            self.memo.push(Remembered::new(&constants, &out[start..]));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_shrink_to_a_byte_each_from_the_second_block_on() {
        let mut encoder = Encoder::new(4096);
        let constants = Constants {
            before: &[(":method", b"POST"), (":scheme", b"http")],
            path: "/shop.Orders/Place",
            after: &[("te", b"trailers")],
            own: &[],
        };
        let mut block = |varying: &Literals| {
            let mut out = Vec::new();
            encoder.encode(constants, varying, &mut out);
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
        let mut encode = |own: Pair<'_>, out: &mut Vec<u8>| {
            let constants = Constants {
                own: &[own],
                ..Constants::default()
            };
            encoder.encode(constants, &Literals::new(), out);
        };
        encode(("a", small), &mut out);
        encode(("b", large), &mut out);
        out.clear();
        encode(("a", small), &mut out);
        assert_eq!(out, [0xbe]);
    }

    #[test]
    fn a_known_name_is_written_like_any_other() {
        const TIMEOUT: Name<14> = Name::new("grpc-timeout");
        let (mut known, mut other) = (Literals::new(), Literals::new());
        for value in [&b"1S"[..], b"", &[b'x'; 200]] {
            known.push_named(&TIMEOUT, value).unwrap();
            other.push("grpc-timeout", value).unwrap();
        }
        assert_eq!(known.0, other.0);
        let refused = known.push_named(&TIMEOUT, b"\n").unwrap_err();
        assert_eq!(refused, other.push("grpc-timeout", b"\n").unwrap_err());
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
