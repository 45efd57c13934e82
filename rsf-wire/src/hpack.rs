//! HPACK (RFC 7541), shaped for calls that resemble each other.
//!
//! A block of ours has two parts. What stays from call to call (method, path, authority, content type) stands first,
//! fully indexed after its first use: a byte a field. What varies (deadline, request id, trace) stands at the end as
//! literals that enter no table, so that the table rests. The decoder then remembers the first part by its bytes and
//! decodes only the second; a peer that moves its table with every call (most do) is decoded in full, at HPACK's price.

use bytes::Bytes;
use std::sync::Arc;

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

/// The headers or trailers of a message, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// What the memo knew.
    prefix: Option<Arc<[Field]>>,
    tail: Vec<Field>,
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
        self.prefix
            .iter()
            .flat_map(|prefix| prefix.iter())
            .chain(&self.tail)
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let named = |field: &&Field| field.name == name.as_bytes();
        let prefix = self.prefix.as_deref().unwrap_or_default();
        // Part by part: over both as one it takes twice as long, and this is asked several times a request.
        let field = prefix.iter().find(named);
        let field = field.or_else(|| self.tail.iter().find(named))?;
        Some(&field.value)
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
