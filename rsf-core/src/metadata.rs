//! Metadata of a call: gRPC's custom headers, kept as they came and read only when somebody asks.

use std::fmt;
use std::sync::Arc;

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
    headers: Option<Arc<HeaderMap>>,
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
        self.headers.as_ref()?.get(key)?.to_str().ok()
    }

    /// The bytes of a `-bin` key, decoded from base64 with or without padding.
    pub fn get_bin(&self, key: &str) -> Option<Vec<u8>> {
        BASE64.decode(self.headers.as_ref()?.get(key)?.as_bytes()).ok()
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
        self.headers.as_ref().is_none_or(|headers| headers.is_empty())
    }

    /// All text pairs that are the application's own: neither gRPC's nor RSF's nor HTTP's.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .flat_map(|headers| headers.iter())
            .filter(|(name, _)| !is_reserved(name.as_str()))
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }

    pub(crate) fn from_headers(headers: HeaderMap) -> Self {
        Metadata {
            headers: (!headers.is_empty()).then(|| Arc::new(headers)),
        }
    }

    /// Everything, reserved keys included: for the layers that read RSF's own.
    pub(crate) fn raw(&self) -> Option<&HeaderMap> {
        self.headers.as_deref()
    }

    /// Copies the application's own pairs, and that an answer is a replay.
    pub(crate) fn write_to(&self, to: &mut HeaderMap) {
        for (name, value) in self.headers.iter().flat_map(|headers| headers.iter()) {
            if !is_reserved(name.as_str()) || name == REPLAYED {
                to.append(name.clone(), value.clone());
            }
        }
    }

    /// Adds the application's own pairs of `other` whose keys are not there yet.
    pub(crate) fn complete(&mut self, other: &Metadata) {
        let mut new: Vec<_> = other.headers.iter().flat_map(|headers| headers.iter()).collect();
        new.retain(|(name, _)| {
            let known = self.headers.as_ref().is_some_and(|own| own.contains_key(*name));
            !known && !is_reserved(name.as_str())
        });
        if !new.is_empty() {
            let own = Arc::make_mut(self.headers.get_or_insert_default());
            for (name, value) in new {
                own.append(name.clone(), value.clone());
            }
        }
    }

    pub(crate) fn set_reserved(&mut self, key: &'static str, value: HeaderValue) {
        self.put(HeaderName::from_static(key), value);
    }

    pub(crate) fn remove_reserved(&mut self, key: &'static str) {
        if let Some(headers) = &mut self.headers
            && headers.contains_key(key)
        {
            Arc::make_mut(headers).remove(key);
        }
    }

    fn put(&mut self, name: HeaderName, value: HeaderValue) {
        Arc::make_mut(self.headers.get_or_insert_default()).insert(name, value);
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.headers {
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
