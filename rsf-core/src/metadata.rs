//! Metadata of a call: gRPC's custom headers, kept as they came and read only when somebody asks.

use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::wire::headers::REPLAYED;

/// gRPC writes base64 without padding and reads it with and without.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Key–value pairs beside a message. Keys are lower-case; a key that ends in `-bin` holds bytes.
///
/// Empty metadata costs no allocation, and clones share the pairs until one of them is changed.
#[derive(Clone, Default)]
pub struct Metadata {
    pairs: Option<Arc<Pairs>>,
}

#[derive(Clone)]
enum Pairs {
    Map(HeaderMap),
    /// As a wire read them. Few ask for them all: one value is found faster by a look at each.
    Fields(Fields, OnceLock<Box<HeaderMap>>),
}

/// What RSF's own engine reads headers into.
type Fields = crate::wire::engine::Fields;

/// Headers that are no map yet.
pub(crate) trait Unmapped {
    /// The first value of `key`.
    fn value(&self, key: &str) -> Option<&[u8]>;
    /// Whether there is nothing but HTTP's own.
    fn is_empty(&self) -> bool;
    /// All of them, HTTP's own apart.
    fn to_map(&self) -> HeaderMap;
}

impl Pairs {
    fn map(&self) -> &HeaderMap {
        match self {
            Pairs::Map(map) => map,
            Pairs::Fields(fields, map) => map.get_or_init(|| Box::new(fields.to_map())),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Pairs::Map(map) => map.is_empty(),
            Pairs::Fields(fields, _) => fields.is_empty(),
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut HeaderMap)) {
        match self {
            Pairs::Map(map) => change(map),
            Pairs::Fields(..) => {
                let mut map = self.map().clone();
                change(&mut map);
                *self = Pairs::Map(map);
            }
        }
    }
}

/// A key or value that gRPC does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata key `{key}`: {problem}")]
pub struct InvalidMetadata {
    key: String,
    problem: &'static str,
}

impl Metadata {
    /// Without any pair.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first text value of `key`; `None` where there is none, or it is no visible ASCII.
    pub fn get(&self, key: &str) -> Option<&str> {
        let value = self.value(key)?;
        let visible = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~');
        value
            .iter()
            .all(visible)
            .then(|| std::str::from_utf8(value).ok())?
    }

    /// The bytes of a `-bin` key, decoded from base64 with or without padding.
    pub fn get_bin(&self, key: &str) -> Option<Vec<u8>> {
        BASE64.decode(self.value(key)?).ok()
    }

    /// Adds a text pair, replacing earlier ones of the key.
    ///
    /// Keys are lower-case letters, digits, `-`, `_`, `.`; those starting with `grpc-` or `rsf-` are reserved. Values
    /// are visible ASCII and spaces.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<(), InvalidMetadata> {
        let invalid = |problem| InvalidMetadata {
            key: key.to_owned(),
            problem,
        };
        if key.ends_with("-bin") {
            return Err(invalid("ends in `-bin`; use `insert_bin`"));
        }
        let value = HeaderValue::from_str(value).map_err(|_| invalid("the value is not visible ASCII"))?;
        self.put(checked_name(key)?, value);
        Ok(())
    }

    /// Adds bytes under a key that ends in `-bin`.
    pub fn insert_bin(&mut self, key: &str, value: &[u8]) -> Result<(), InvalidMetadata> {
        let invalid = |problem| InvalidMetadata {
            key: key.to_owned(),
            problem,
        };
        if !key.ends_with("-bin") {
            return Err(invalid("does not end in `-bin`; use `insert`"));
        }
        let value = HeaderValue::from_str(&BASE64.encode(value)).map_err(|_| invalid("cannot be encoded"))?;
        self.put(checked_name(key)?, value);
        Ok(())
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.as_ref().is_none_or(|pairs| pairs.is_empty())
    }

    /// All text pairs that are the application's own: neither gRPC's nor RSF's nor HTTP's.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all()
            .filter(|(name, _)| !is_reserved(name.as_str()))
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }

    pub(crate) fn from_headers(headers: HeaderMap) -> Self {
        Metadata {
            pairs: (!headers.is_empty()).then(|| Arc::new(Pairs::Map(headers))),
        }
    }

    /// What a wire has read, to be put in order when somebody asks for more than a value.
    pub(crate) fn from_fields(fields: Fields) -> Self {
        Metadata {
            pairs: Some(Arc::new(Pairs::Fields(fields, OnceLock::new()))),
        }
    }

    /// The first value of `name`, reserved ones included: for the layers that read RSF's own.
    #[inline]
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&[u8]> {
        match &**self.pairs.as_ref()? {
            Pairs::Map(map) => map.get(name).map(HeaderValue::as_bytes),
            Pairs::Fields(fields, _) => fields.value(name.as_str()),
        }
    }

    /// The same by a name as text, which a map finds more slowly.
    pub(crate) fn value(&self, key: &str) -> Option<&[u8]> {
        match &**self.pairs.as_ref()? {
            Pairs::Map(map) => map.get(key).map(HeaderValue::as_bytes),
            // A map knows a name in any case; HTTP/2 has them in small letters.
            Pairs::Fields(fields, _) if key.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                fields.value(&key.to_ascii_lowercase())
            }
            Pairs::Fields(fields, _) => fields.value(key),
        }
    }

    /// Everything, reserved keys included. Dear where a wire has read it and nobody has asked before.
    pub(crate) fn raw(&self) -> Option<&HeaderMap> {
        self.pairs.as_ref().map(|pairs| pairs.map())
    }

    fn all(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.raw().into_iter().flat_map(|headers| headers.iter())
    }

    /// Copies the application's own pairs, and that an answer is a replay.
    pub(crate) fn write_to(&self, to: &mut HeaderMap) {
        for (name, value) in self.all() {
            if !is_reserved(name.as_str()) || name == REPLAYED {
                to.append(name.clone(), value.clone());
            }
        }
    }

    /// Adds the application's own pairs of `other` whose keys are not there yet.
    pub(crate) fn complete(&mut self, other: &Metadata) {
        let mut new: Vec<_> = other.all().collect();
        new.retain(|(name, _)| self.header(name).is_none() && !is_reserved(name.as_str()));
        if !new.is_empty() {
            self.change(|own| {
                for (name, value) in new {
                    own.append(name.clone(), value.clone());
                }
            });
        }
    }

    pub(crate) fn set_reserved(&mut self, key: &'static str, value: HeaderValue) {
        self.put(HeaderName::from_static(key), value);
    }

    #[inline]
    pub(crate) fn remove_reserved(&mut self, key: &'static str) {
        // Most replies come without any metadata.
        if self.pairs.is_some() && self.value(key).is_some() {
            self.change(|headers| drop(headers.remove(key)));
        }
    }

    fn put(&mut self, name: HeaderName, value: HeaderValue) {
        self.change(|headers| drop(headers.insert(name, value)));
    }

    fn change(&mut self, change: impl FnOnce(&mut HeaderMap)) {
        let empty = || Arc::new(Pairs::Map(HeaderMap::new()));
        Arc::make_mut(self.pairs.get_or_insert_with(empty)).change(change);
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.raw() {
            Some(headers) => headers.fmt(f),
            None => f.write_str("{}"),
        }
    }
}

fn checked_name(key: &str) -> Result<HeaderName, InvalidMetadata> {
    let invalid = |problem| InvalidMetadata {
        key: key.to_owned(),
        problem,
    };
    if key
        .bytes()
        .any(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')))
    {
        return Err(invalid("has other characters than a-z, 0-9, `-`, `_`, `.`"));
    }
    if is_reserved(key) {
        return Err(invalid("is reserved by gRPC, HTTP or RSF"));
    }
    HeaderName::from_bytes(key.as_bytes()).map_err(|_| invalid("is no header name"))
}

fn is_reserved(key: &str) -> bool {
    key.starts_with("grpc-")
        || key.starts_with("rsf-")
        || key.starts_with(':')
        || matches!(
            key,
            // Each instance reports its own load: one that is handed on would tell of somebody else's.
            "endpoint-load-metrics-bin"
                | "te"
                | "content-type"
                | "content-length"
                | "user-agent"
                | "host"
                | "connection"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_go_in_and_out() {
        let mut metadata = Metadata::new();
        assert!(metadata.is_empty());
        metadata.insert("tenant", "north").unwrap();
        metadata.insert_bin("token-bin", &[0, 1, 255]).unwrap();
        assert_eq!(metadata.get("tenant"), Some("north"));
        assert_eq!(metadata.get_bin("token-bin").unwrap(), [0, 1, 255]);
    }

    #[test]
    fn reserved_and_malformed_keys_are_refused() {
        let mut metadata = Metadata::new();
        for key in [
            "grpc-status",
            "rsf-reason",
            "te",
            "Upper",
            "a b",
            "",
            "content-type",
            "x-bin",
        ] {
            assert!(metadata.insert(key, "1").is_err(), "{key}");
        }
        assert!(metadata.insert("a", "line\nbreak").is_err());
        assert!(metadata.insert_bin("plain", &[1]).is_err());
    }
}
