//! Reading header blocks, with a memo for the part that repeats.

use std::sync::Arc;

use bytes::Bytes;

use super::table::Table;
use super::{
    Beginning, Fault, Field, Headers, Names, Pseudo, Rest, find, huffman, integer, is_name, is_value, plain,
    rules,
};

/// Beginnings that are remembered at once.
const MEMO_ENTRIES: usize = 32;
/// Bytes of a beginning at most: longer ones are rare and cost more to compare.
const MEMO_BYTES: usize = 64;
/// Fields from which on a list is worth being trimmed.
const LONG_LIST: usize = 64;

/// A block that breaks HPACK; the table is out of step from here on, so the connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A number or string goes past the block's end, or a number is absurdly large.
    #[error("the header block ends early, or holds a number that is too large")]
    Truncated,
    /// An index that neither table has.
    #[error("the header block names index {0}, which is in no table")]
    NoSuchIndex(usize),
    /// A string that is no Huffman code.
    #[error("the header block holds a broken Huffman code")]
    Huffman,
    /// A table size above the announced one, or not at the block's beginning.
    #[error("the header block sets a table size that it must not")]
    TableSize,
}

/// Decodes the blocks of one direction of a connection, in the order in which they came.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// What we announced as the table's size.
    max_table: usize,
    max_list: usize,
    memo: Vec<Remembered>,
    /// The table's generation that `memo` holds for.
    memo_generation: u64,
}

#[derive(Debug)]
struct Remembered {
    bytes: Box<[u8]>,
    beginning: Arc<Beginning>,
}

/// Fields as they are decoded, bounded.
#[derive(Default)]
struct List {
    fields: Vec<Field>,
    names: Names,
    pseudo: Pseudo,
    /// Whether a field that is no pseudo-header came: behind it none may come any more.
    regular: bool,
    size: usize,
    fault: Option<Fault>,
}

impl List {
    /// Beyond the limit fields are counted and dropped: a block of a few bytes can name the same large one often.
    fn push(&mut self, field: Field, max: usize) {
        let fine = if field.name.first() == Some(&b':') {
            self.pseudo.add(&field.name, &field.value) && !self.regular
        } else {
            self.regular = true;
            true
        };
        if !fine {
            self.fault = self.fault.or(Some(Fault::Malformed));
        }
        self.size = self.size.saturating_add(field.size());
        if self.size > max {
            self.fault = Some(Fault::TooLarge);
        } else {
            self.names.add(&field.name);
            self.fields.push(field);
        }
    }
}

impl Decoder {
    /// A decoder with an announced table size, for lists of at most `max_list` bytes.
    pub fn new(max_table: u32, max_list: u32) -> Self {
        Decoder {
            table: Table::new(max_table as usize),
            max_table: max_table as usize,
            max_list: max_list as usize,
            memo: Vec::new(),
            memo_generation: 0,
        }
    }

    /// The headers of a block that came before, byte for byte, and varies in nothing; `None` for all others.
    #[inline]
    pub(crate) fn known(&self, block: &[u8]) -> Option<Headers> {
        if self.table.generation() != self.memo_generation {
            return None;
        }
        let known = self.memo.iter().find(|known| *known.bytes == *block)?;
        Some(Headers::repeated(known.beginning.clone()))
    }

    /// Decodes a whole block.
    pub fn decode(&mut self, block: &Bytes) -> Result<Headers, DecodeError> {
        let generation = self.table.generation();
        if generation != self.memo_generation {
            // The table moved. Nothing is remembered in this round: a table that moves with every block is not worth
            // remembering for.
            self.memo.clear();
            self.memo_generation = generation;
            return self.decode_from(block, 0, None);
        }
        let prefix_end = indexed_prefix(block);
        if prefix_end == 0 || prefix_end > MEMO_BYTES {
            return self.decode_from(block, 0, None);
        }
        let Some(beginning) = self.beginning(block, prefix_end)? else {
            return self.decode_from(block, 0, None);
        };
        if prefix_end == block.len() {
            return Ok(Headers::repeated(beginning));
        }
        let Some(checked) = plain::check(&block[prefix_end..]) else {
            return self.decode_from(block, prefix_end, Some(beginning));
        };
        let fits = beginning.size + checked.size <= self.max_list;
        Ok(Headers {
            names: beginning.names.union(checked.names),
            pseudo: beginning.pseudo,
            beginning: Some(beginning),
            rest: if fits {
                Rest::Plain(block.slice(prefix_end..))
            } else {
                Rest::default()
            },
            fault: if fits {
                checked.fault
            } else {
                Some(Fault::TooLarge)
            },
        })
    }

    /// The fields that the first bytes of a block stand for, from the memo where it has them; `None` where they are
    /// nothing to remember.
    fn beginning(&mut self, block: &Bytes, end: usize) -> Result<Option<Arc<Beginning>>, DecodeError> {
        let bytes = &block[..end];
        if let Some(known) = self.memo.iter().find(|known| *known.bytes == *bytes) {
            return Ok(Some(known.beginning.clone()));
        }
        let Headers {
            rest,
            pseudo,
            fault: None,
            ..
        } = self.decode_from(&block.slice(..end), 0, None)?
        else {
            return Ok(None);
        };
        if self.memo.len() == MEMO_ENTRIES {
            self.memo.remove(0);
        }
        let beginning = Arc::new(Beginning::new(rest.iter().collect(), pseudo));
        self.memo.push(Remembered {
            bytes: bytes.into(),
            beginning: beginning.clone(),
        });
        Ok(Some(beginning))
    }

    fn decode_from(
        &mut self,
        block: &Bytes,
        start: usize,
        beginning: Option<Arc<Beginning>>,
    ) -> Result<Headers, DecodeError> {
        let mut list = List::default();
        if let Some(beginning) = &beginning {
            (list.size, list.names) = (beginning.size, beginning.names);
            list.pseudo = beginning.pseudo;
            list.regular = beginning
                .list
                .last()
                .is_some_and(|field| !field.name.starts_with(b":"));
        }
        let mut at = start;
        let mut may_resize = start == 0;
        while let Some(&first) = block.get(at) {
            if first & 0xe0 == 0x20 {
                let max = integer::read(block, &mut at, 5).ok_or(DecodeError::Truncated)?;
                if !may_resize || max > self.max_table {
                    return Err(DecodeError::TableSize);
                }
                self.table.resize(max);
                continue;
            }
            may_resize = false;
            let (field, sound) = if first & 0x80 != 0 {
                let index = integer::read(block, &mut at, 7).ok_or(DecodeError::Truncated)?;
                let field = self.table.get(index).ok_or(DecodeError::NoSuchIndex(index))?;
                // What the peer put into the table may be what HTTP/2 does not allow: then it was said of that block alone.
                let sound = Table::is_static(index) || is_name(&field.name) && is_value(&field.value);
                (field, sound)
            } else {
                self.literal(block, &mut at, first)?
            };
            if !sound {
                list.fault = list.fault.or(Some(Fault::Malformed));
            }
            list.push(field, self.max_list);
        }
        if rules::are_forbidden(list.names, |name| find(&list.fields, name)) {
            list.fault = list.fault.or(Some(Fault::Malformed));
        }
        Ok(Headers {
            names: list.names,
            pseudo: list.pseudo,
            beginning,
            rest: Rest::Decoded(trimmed(list.fields)),
            fault: list.fault,
        })
    }

    /// A literal field, entering the table where the block says so; and whether HTTP/2 allows it.
    fn literal(&mut self, block: &Bytes, at: &mut usize, first: u8) -> Result<(Field, bool), DecodeError> {
        let indexed = first & 0x40 != 0;
        let index = integer::read(block, at, if indexed { 6 } else { 4 }).ok_or(DecodeError::Truncated)?;
        let name = if index == 0 {
            string(block, at)?
        } else {
            self.table.get(index).ok_or(DecodeError::NoSuchIndex(index))?.name
        };
        let value = string(block, at)?;
        let sound = is_value(&value) && (Table::is_static(index) || is_name(&name));
        if indexed {
            // Copied: a slice would keep the whole read buffer alive for as long as the table remembers.
            let (name, value) = (Bytes::copy_from_slice(&name), Bytes::copy_from_slice(&value));
            self.table.insert(Field { name, value });
        }
        Ok((Field { name, value }, sound))
    }
}

/// Without the room that a long list grew too much.
fn trimmed(mut fields: Vec<Field>) -> Vec<Field> {
    if fields.capacity() > LONG_LIST {
        fields.shrink_to_fit();
    }
    fields
}

/// Where the run of fully indexed fields at the block's beginning ends.
fn indexed_prefix(block: &[u8]) -> usize {
    // Nearly all indexes take one byte.
    let mut at = block
        .iter()
        .take_while(|byte| (0x80..0xff).contains(*byte))
        .count();
    while let Some(first) = block.get(at)
        && first & 0x80 != 0
    {
        let mut end = at;
        if integer::read(block, &mut end, 7).is_none() {
            break;
        }
        at = end;
    }
    at
}

fn string(block: &Bytes, at: &mut usize) -> Result<Bytes, DecodeError> {
    let packed = block.get(*at).is_some_and(|first| first & 0x80 != 0);
    let length = integer::read(block, at, 7).ok_or(DecodeError::Truncated)?;
    let end = at.checked_add(length).filter(|end| *end <= block.len());
    let end = end.ok_or(DecodeError::Truncated)?;
    let start = std::mem::replace(at, end);
    if packed {
        let text = huffman::decode(&block[start..end]).ok_or(DecodeError::Huffman)?;
        return Ok(Bytes::from(text));
    }
    Ok(block.slice(start..end))
}

#[cfg(test)]
mod tests;
