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
mod text;

mod decode;
mod encode;
mod plain;
mod rules;

pub use decode::{DecodeError, Decoder};
pub use encode::{Constants, Encoder, InvalidField, Literals, Name, Pair};
use plain::PlainLiterals;
pub(crate) use rules::Pseudo;
use text::{is_name, is_value};

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

    #[inline]
    fn add(&mut self, name: &[u8]) {
        self.0 |= Names::bit(name);
    }

    #[inline]
    fn union(self, other: Names) -> Names {
        Names(self.0 | other.0)
    }

    #[inline]
    fn may_have(self, name: &[u8]) -> bool {
        self.0 & Names::bit(name) != 0
    }
}

/// The beginning of headers that many messages of a connection share, decoded once.
#[derive(Debug)]
pub struct Beginning {
    list: Vec<Field>,
    names: Names,
    pseudo: Pseudo,
    /// Bytes as HPACK counts them.
    size: usize,
    note: OnceLock<usize>,
}

impl Beginning {
    fn new(list: Vec<Field>, pseudo: Pseudo) -> Self {
        let mut names = Names::default();
        list.iter().for_each(|field| names.add(&field.name));
        Beginning {
            size: list.iter().map(Field::size).sum(),
            list,
            names,
            pseudo,
            note: OnceLock::new(),
        }
    }

    /// The first value of `name` in it.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.names
            .may_have(name.as_bytes())
            .then(|| find(&self.list, name))?
    }

    /// A number that whoever reads headers may leave here: what this beginning means, so that it is worked out once and
    /// not for every message. It lasts as long as the connection remembers the beginning.
    pub fn note(&self) -> &OnceLock<usize> {
        &self.note
    }
}

fn find<'a>(list: &'a [Field], name: &str) -> Option<&'a [u8]> {
    let field = list.iter().find(|field| field.name == name.as_bytes())?;
    Some(&field.value)
}

/// The headers or trailers of a message, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// What the memo knew.
    beginning: Option<Arc<Beginning>>,
    rest: Rest,
    /// Those of both.
    names: Names,
    /// Those of both.
    pseudo: Pseudo,
    fault: Option<Fault>,
}

/// What stands behind the beginning.
#[derive(Debug, Clone)]
enum Rest {
    /// Literals as they came, checked: reading them when somebody asks costs less than taking them apart.
    Plain(Bytes),
    Decoded(Vec<Field>),
}

impl Default for Rest {
    fn default() -> Self {
        Rest::Plain(Bytes::new())
    }
}

impl Rest {
    fn find(&self, name: &str) -> Option<&[u8]> {
        match self {
            Rest::Plain(block) => {
                let mut fields = PlainLiterals::new(block);
                fields
                    .find(|literal| block[literal.name.clone()] == *name.as_bytes())
                    .map(|literal| &block[literal.value])
            }
            Rest::Decoded(list) => find(list, name),
        }
    }

    fn iter(&self) -> impl Iterator<Item = Field> {
        let (plain, decoded) = match self {
            Rest::Plain(block) => (Some(block), &[][..]),
            Rest::Decoded(list) => (None, &list[..]),
        };
        let plain = plain.into_iter().flat_map(|block| {
            PlainLiterals::new(block).map(|literal| Field {
                name: block.slice(literal.name),
                value: block.slice(literal.value),
            })
        });
        plain.chain(decoded.iter().cloned())
    }
}

/// What makes headers unusable though their block was in order: the stream ends, the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Over [`crate::Limits::header_list_bytes`].
    TooLarge,
    /// A name or value that HTTP/2 does not allow, or a pseudo-header out of place.
    Malformed,
}

impl Headers {
    /// Nothing but a beginning.
    fn repeated(beginning: Arc<Beginning>) -> Self {
        Headers {
            names: beginning.names,
            pseudo: beginning.pseudo,
            beginning: Some(beginning),
            ..Headers::default()
        }
    }

    /// All fields, pseudo-headers (`:path`) included.
    pub fn iter(&self) -> impl Iterator<Item = Field> {
        let beginning = self.beginning.iter().flat_map(|beginning| &beginning.list);
        beginning.cloned().chain(self.rest.iter())
    }

    /// The first value of `name`.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.names.may_have(name.as_bytes()).then(|| self.find(name))?
    }

    fn find(&self, name: &str) -> Option<&[u8]> {
        let beginning = self.beginning.as_ref().and_then(|beginning| beginning.get(name));
        beginning.or_else(|| self.rest.find(name))
    }

    /// What they share with other messages of the connection; `None` where nothing is known to repeat.
    pub fn beginning(&self) -> Option<&Beginning> {
        self.beginning.as_deref()
    }

    /// Whether nothing stands behind the [`beginning`](Headers::beginning).
    pub fn is_beginning(&self) -> bool {
        matches!(&self.rest, Rest::Plain(block) if block.is_empty()) && self.beginning.is_some()
    }

    /// The first value of `name` behind the [`beginning`](Headers::beginning).
    #[inline]
    pub fn get_behind(&self, name: &str) -> Option<&[u8]> {
        self.names
            .may_have(name.as_bytes())
            .then(|| self.rest.find(name))?
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    #[inline]
    pub(crate) fn pseudo(&self) -> Pseudo {
        self.pseudo
    }
}
