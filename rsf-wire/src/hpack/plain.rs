//! Literals that enter no table and are not packed: what varies from call to call, as our encoder writes it.

use std::ops::Range;

use super::{Fault, Names, integer, is_name, is_value, rules};

/// Where a literal stands in its block.
#[derive(Debug, Clone)]
pub(super) struct PlainLiteral {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

/// The literals of a block, until one that is not plain, or its end.
#[derive(Debug)]
pub(super) struct PlainLiterals<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> PlainLiterals<'a> {
    #[inline]
    pub(super) fn new(block: &'a [u8]) -> Self {
        PlainLiterals { block, at: 0 }
    }

    #[inline]
    fn text(&self, at: &mut usize) -> Option<Range<usize>> {
        let first = *self.block.get(*at)?;
        let length = if first < 0x7f {
            *at += 1;
            usize::from(first)
        } else if first & 0x80 == 0 {
            integer::read(self.block, at, 7)?
        } else {
            return None;
        };
        let start = *at;
        *at = start.checked_add(length).filter(|end| *end <= self.block.len())?;
        Some(start..*at)
    }
}

impl Iterator for PlainLiterals<'_> {
    type Item = PlainLiteral;

    #[inline]
    fn next(&mut self) -> Option<PlainLiteral> {
        // With or without the wish that no proxy indexes it, and a name of its own.
        let (0x00 | 0x10) = *self.block.get(self.at)? else {
            return None;
        };
        let mut at = self.at + 1;
        let name = self.text(&mut at)?;
        let value = self.text(&mut at)?;
        self.at = at;
        Some(PlainLiteral { name, value })
    }
}

/// What a block of plain literals holds.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) names: Names,
    /// Bytes as HPACK counts them.
    pub(super) size: usize,
    pub(super) fault: Option<Fault>,
}

/// Checks a block that consists of plain literals; `None` where it holds anything else, pseudo-headers included.
pub(super) fn check(block: &[u8]) -> Option<Checked> {
    let mut checked = Checked::default();
    let mut literals = PlainLiterals::new(block);
    for literal in &mut literals {
        let (name, value) = (&block[literal.name], &block[literal.value]);
        if name.first() == Some(&b':') {
            return None;
        }
        if !(is_name(name) && is_value(value)) {
            checked.fault = Some(Fault::Malformed);
        }
        checked.names.add(name);
        checked.size += name.len() + value.len() + 32;
    }
    if literals.at != block.len() {
        return None;
    }
    let find = |name: &str| {
        let mut literals = PlainLiterals::new(block);
        let found = literals.find(|literal| block[literal.name.clone()] == *name.as_bytes())?;
        Some(&block[found.value])
    };
    if rules::are_forbidden(checked.names, find) {
        checked.fault = Some(Fault::Malformed);
    }
    Some(checked)
}
