//! The outcomes after which policy lets a call be attempted again.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::outcome::Reason;

/// A set of reasons, as `retry.reasons` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryReasons(u32);

impl crate::policy::RetryRules {
    /// Whether a further attempt can go out beside one that has not answered yet.
    pub(crate) fn hedges(&self) -> bool {
        self.hedge_delay_ms.is_some() || self.hedge_percentile.is_some()
    }
}

impl RetryReasons {
    /// The reasons that policy may name. What reached no provider is not among them: it costs nobody anything.
    pub const WORDS: &'static [&'static str] = &[
        "attempt_timeout",
        "connection_lost",
        "unavailable",
        "provider_limit",
        "queue_full",
        "queue_timeout",
        "dedup_unavailable",
    ];

    /// The set of these reasons; other words are left out.
    pub fn of(words: &[&str]) -> Self {
        let known = words.iter().filter(|word| Self::WORDS.contains(word));
        let reasons = known.filter_map(|word| Reason::from_name(word));
        RetryReasons(reasons.fold(0, |set, reason| set | bit(reason)))
    }

    /// Whether a call may be attempted again after `reason`, as far as policy is concerned.
    pub fn allow(self, reason: Reason) -> bool {
        reason.never_reaches_a_provider() || self.0 & bit(reason) != 0
    }
}

fn bit(reason: Reason) -> u32 {
    1 << reason as u32
}

impl Serialize for RetryReasons {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = Self::WORDS
            .iter()
            .filter(|word| Self::of(&[word]).0 & self.0 != 0);
        serializer.collect_seq(named)
    }
}

impl<'de> Deserialize<'de> for RetryReasons {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        match words.iter().find(|word| !Self::WORDS.contains(word)) {
            Some(word) => Err(D::Error::unknown_variant(word, Self::WORDS)),
            None => Ok(Self::of(&words)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Retry, TABLE};

    #[test]
    fn every_outcome_that_may_be_attempted_again_is_a_word_or_reached_no_provider() {
        assert!(TABLE.len() <= 32, "a set has 32 places");
        // What is routed again is no attempt of the retry stage.
        for row in TABLE.iter().filter(|row| row.reason != Reason::WrongShard) {
            let word = RetryReasons::WORDS.contains(&row.reason.name());
            let free = row.reason.never_reaches_a_provider();
            assert_eq!(word || free, row.retry != Retry::Never, "{}", row.reason);
            assert!(!(word && free), "{}", row.reason);
        }
    }

    #[test]
    fn a_set_is_written_as_it_was_read() {
        let set: RetryReasons = serde_json::from_str(r#"["queue_full","unavailable"]"#).unwrap();
        assert!(set.allow(Reason::QueueFull) && set.allow(Reason::Unavailable));
        assert!(!set.allow(Reason::ProviderLimit) && set.allow(Reason::Connect));
        assert_eq!(
            serde_json::to_string(&set).unwrap(),
            r#"["unavailable","queue_full"]"#
        );
        assert!(serde_json::from_str::<RetryReasons>(r#"["handler"]"#).is_err());
    }
}
