//! HPACK (RFC 7541), shaped for calls that resemble each other.
//!
//! A block of ours has two parts. What stays from call to call (method, path, authority, content type) stands first,
//! fully indexed after its first use: a byte a field. What varies (deadline, request id, trace) stands at the end as
//! literals that enter no table, so that the table rests. The decoder then remembers the first part by its bytes and
//! decodes only the second; a peer that moves its table with every call (most do) is decoded in full, at HPACK's price.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

mod huffman;
mod integer;
mod table;

mod decode;
mod encode;

pub use decode::{DecodeError, Decoder};
pub use encode::{Encoder, InvalidField, Literals};

/// A header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Lower-case.
    pub name: Bytes,
    /// Visible ASCII as a rule; never NUL, CR or LF.
    pub value: Bytes,
}

impl Field {
    /// Bytes as HPACK counts them.
    pub fn size(&self) -> usize {
        self.name.len() + self.value.len() + 32
    }
}

/// Which names occur, as far as a word of 64 bits tells: an empty bit says for certain that a name does not. Most headers
/// that somebody asks for are not there.
#[derive(Debug, Clone, Copy, Default)]
struct Names(u64);

impl Names {
    /// Ends and length tell the names apart that calls usually have and those that they may have. Inlined it is a constant:
    /// who asks knows the name when it is compiled.
    #[inline]
    fn bit(name: &[u8]) -> u64 {
        let (first, last) = (name.first().copied(), name.last().copied());
        let ends = usize::from(first.unwrap_or_default()) + 3 * usize::from(last.unwrap_or_default());
        1 << ((11 * name.len() + ends) % 64)
    }

    fn add(&mut self, name: &[u8]) {
        self.0 |= Names::bit(name);
    }

    fn union(self, other: Names) -> Names {
        Names(self.0 | other.0)
    }

    #[inline]
    fn may_have(self, name: &[u8]) -> bool {
        self.0 & Names::bit(name) != 0
    }
}

/// Fields that are asked for by name.
#[derive(Debug, Clone, Default)]
struct Fields {
    list: Vec<Field>,
    names: Names,
}

impl Fields {
    fn push(&mut self, field: Field) {
        self.names.add(&field.name);
        self.list.push(field);
    }

    #[inline]
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.names.may_have(name.as_bytes()).then(|| self.find(name))?
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        let field = self.list.iter().find(|field| field.name == name.as_bytes())?;
        Some(&field.value)
    }
}

/// The beginning of headers that many messages of a connection share, decoded once.
#[derive(Debug)]
pub struct Beginning {
    fields: Fields,
    /// Bytes as HPACK counts them.
    size: usize,
    note: OnceLock<usize>,
}

impl Beginning {
    /// The first value of `name` in it.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    /// A number that whoever reads headers may leave here: what this beginning means, so that it is worked out once and
    /// not for every message. It lasts as long as the connection remembers the beginning.
    pub fn note(&self) -> &OnceLock<usize> {
        &self.note
    }
}

/// The headers or trailers of a message, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// What the memo knew.
    beginning: Option<Arc<Beginning>>,
    rest: Fields,
    /// Those of both.
    names: Names,
    fault: Option<Fault>,
}

/// What makes headers unusable though their block was in order: the stream ends, the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Over [`crate::Limits::header_list_bytes`].
    TooLarge,
    /// A name or value with bytes that HTTP does not allow.
    Malformed,
}

impl Headers {
    /// All fields, pseudo-headers (`:path`) included.
    pub fn iter(&self) -> impl Iterator<Item = &Field> {
        let beginning = self.beginning.iter().flat_map(|beginning| &beginning.fields.list);
        beginning.chain(&self.rest.list)
    }

    /// The first value of `name`.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.names.may_have(name.as_bytes()).then(|| self.find(name))?
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        let beginning = self.beginning.as_ref().and_then(|beginning| beginning.get(name));
        beginning.or_else(|| self.rest.get(name))
    }

    /// What they share with other messages of the connection; `None` where nothing is known to repeat.
    pub fn beginning(&self) -> Option<&Beginning> {
        self.beginning.as_deref()
    }

    /// The first value of `name` behind the [`beginning`](Headers::beginning).
    #[inline]
    pub fn get_behind(&self, name: &str) -> Option<&[u8]> {
        self.rest.get(name)
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }
}

/// What HTTP/2 allows in a name: visible ASCII without upper case, and `:` only in front.
fn is_name(name: &[u8]) -> bool {
    let rest = name.strip_prefix(b":").unwrap_or(name);
    !rest.is_empty()
        && rest
            .iter()
            .all(|b| matches!(b, 0x21..=0x7e) && !b.is_ascii_uppercase() && *b != b':')
}

/// What HTTP/2 allows in a value.
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|b| !matches!(b, 0 | b'\r' | b'\n'))
}
