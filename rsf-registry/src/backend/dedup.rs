//! Where the outcomes of deduplicated calls stand: the value of `RSF_DEDUP`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rsf_core::server::dedup::{DedupStore, MemoryDedup};

use super::RegistryUrl;
use super::url::without_credentials;
use crate::StoreError;
use crate::cluster::{RedisDedup, RedisUrl};

/// A valid value of `RSF_DEDUP`. `Display` and `Debug` leave out credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum DedupUrl {
    /// `memory`: each instance's own. What it cannot know ends with `outcome_unknown`.
    Memory,
    /// `redis[s]://[user:password@]host:port[/db]`.
    Redis(RedisUrl),
}

/// A text that says of no store of outcomes where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "store of outcomes `{given}`: {reason}; set RSF_DEDUP to redis[s]://[user:password@]host:port[/db], or to memory"
)]
pub struct InvalidDedupUrl {
    given: String,
    reason: String,
}

impl DedupUrl {
    /// Where outcomes stand when nothing is said of it: in the first of the registry's Redis servers, or in memory
    /// beside an embedded one.
    pub fn beside(registry: &RegistryUrl) -> Self {
        match registry {
            RegistryUrl::Cluster { redis, .. } => {
                redis.first().cloned().map_or(DedupUrl::Memory, DedupUrl::Redis)
            }
            RegistryUrl::Embedded { .. } => DedupUrl::Memory,
        }
    }

    /// The store, in one environment. Connects when it is used; call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a name that is no namespace.
    pub fn open(&self, namespace: &str) -> Result<Arc<dyn DedupStore>, StoreError> {
        Ok(match self {
            DedupUrl::Memory => Arc::new(MemoryDedup::of_one_instance()),
            DedupUrl::Redis(url) => Arc::new(RedisDedup::at(url, namespace)?),
        })
    }
}

impl FromStr for DedupUrl {
    type Err = InvalidDedupUrl;

    fn from_str(text: &str) -> Result<Self, InvalidDedupUrl> {
        let invalid = |reason: String| InvalidDedupUrl {
            given: without_credentials(text).escape_debug().to_string(),
            reason,
        };
        match text.trim().split_once("://") {
            None if text.trim() == "memory" => Ok(DedupUrl::Memory),
            Some((scheme @ ("redis" | "rediss"), location)) => RedisUrl::parse(scheme == "rediss", location)
                .map(DedupUrl::Redis)
                .map_err(invalid),
            Some((other, _)) => Err(invalid(format!("the scheme `{other}` is not known"))),
            None => Err(invalid("it has no scheme".to_owned())),
        }
    }
}

impl fmt::Display for DedupUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DedupUrl::Memory => f.write_str("memory"),
            DedupUrl::Redis(url) => fmt::Display::fmt(url, f),
        }
    }
}

impl fmt::Debug for DedupUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DedupUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good() {
        assert_eq!("memory".parse(), Ok(DedupUrl::Memory));
        let redis: DedupUrl = "redis://u:secret@r1:6379/2".parse().expect("redis");
        assert_eq!(redis.to_string(), "redis://r1:6379/2");
        assert!(!format!("{redis:?}").contains("secret"));
    }

    #[test]
    fn bad_ones_say_what_to_write() {
        let cases = [
            ("", "no scheme"),
            ("r1:6379", "no scheme"),
            ("http://a:1", "`http`"),
            ("redis://a", "port"),
            ("redis://:secret@a:1/x", "database"),
            ("redis://a:1,b:1", ""),
        ];
        for (text, reason) in cases {
            let error = text.parse::<DedupUrl>().expect_err(text).to_string();
            assert!(
                error.contains(reason) && error.contains("RSF_DEDUP"),
                "{text}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn without_a_word_it_is_beside_the_registry() {
        let beside = |registry: &str| DedupUrl::beside(&registry.parse().expect("good"));
        assert_eq!(beside("rsf://a:1"), DedupUrl::Memory);
        let redis: DedupUrl = "redis://:secret@a:1".parse().expect("redis");
        assert_eq!(beside("redis://:secret@a:1,c:1,zk://b:1"), redis);
    }
}
