//! The static table, and a dynamic one that forgets its oldest fields.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Field;

/// Fields that every peer knows, numbered from 1 (RFC 7541 Appendix A).
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A dynamic table.
#[derive(Debug)]
pub(super) struct Table {
    /// Newest first.
    fields: VecDeque<Field>,
    size: usize,
    max: usize,
    /// Rises whenever an index may have come to mean something else.
    generation: u64,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Table {
            fields: VecDeque::new(),
            size: 0,
            max,
            generation: 0,
        }
    }

    /// The field of an index, static or dynamic; `None` where there is none.
    pub(super) fn get(&self, index: usize) -> Option<Field> {
        let place = index.checked_sub(1)?;
        match STATIC.get(place) {
            Some(&(name, value)) => Some(Field {
                name: Bytes::from_static(name.as_bytes()),
                value: Bytes::from_static(value.as_bytes()),
            }),
            None => self.fields.get(place - STATIC.len()).cloned(),
        }
    }

    /// Whether an index is one of the static table's.
    pub(super) fn is_static(index: usize) -> bool {
        (1..=STATIC.len()).contains(&index)
    }

    /// Adds a field, forgetting old ones for it. One that is larger than the table empties it.
    pub(super) fn insert(&mut self, field: Field) {
        self.generation += 1;
        self.shrink_to(self.max.saturating_sub(field.size()));
        if field.size() <= self.max {
            self.size += field.size();
            self.fields.push_front(field);
        }
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.generation += 1;
        self.shrink_to(max);
    }

    /// Whether `field` goes in without any other going out.
    pub(super) fn has_room(&self, field: &Field) -> bool {
        self.size + field.size() <= self.max
    }

    /// The dynamic index of a field; 0 where it is not there.
    pub(super) fn find(&self, name: &[u8], value: &[u8]) -> usize {
        let place = self
            .fields
            .iter()
            .position(|f| f.name == name && f.value == value);
        place.map_or(0, |place| place + STATIC.len() + 1)
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn shrink_to(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.fields.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}
