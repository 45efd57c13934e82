//! Which lease sources may be believed when they say that a lease is gone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ShrinkConfig;

/// Why the pump distrusts what a source has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discontinuity {
    /// The pump has just started and does not know what the source lost before.
    Started,
    /// The source says of itself that it is another, or was restarted or emptied.
    SourceChanged,
    /// The source failed or stalled, and is back.
    Interrupted,
    /// Many leases vanished long before their deadlines.
    Vanished,
    /// The pump itself stood still.
    Paused,
}

impl Discontinuity {
    /// All reasons.
    pub const ALL: [Discontinuity; 5] = [
        Discontinuity::Started,
        Discontinuity::SourceChanged,
        Discontinuity::Interrupted,
        Discontinuity::Vanished,
        Discontinuity::Paused,
    ];

    /// The label of metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Discontinuity::Started => "started",
            Discontinuity::SourceChanged => "source_changed",
            Discontinuity::Interrupted => "interrupted",
            Discontinuity::Vanished => "vanished",
            Discontinuity::Paused => "paused",
        }
    }
}

/// The pump's trust in each of its sources, by their places in its list. A source that was never read is silent.
#[derive(Debug)]
pub(super) struct Sources {
    each: Vec<SourceTrust>,
}

#[derive(Debug)]
struct SourceTrust {
    silent: bool,
    grace: Option<Grace>,
}

/// Nothing of a source expires for one TTL after a discontinuity.
#[derive(Debug)]
struct Grace {
    chain_began: Duration,
    /// The last discontinuity that counted.
    since: Duration,
    /// The last one at all.
    last: Duration,
    reason: Discontinuity,
}

impl Sources {
    pub(super) fn new(count: usize) -> Self {
        let each = || SourceTrust {
            silent: true,
            grace: None,
        };
        Sources {
            each: std::iter::repeat_with(each).take(count).collect(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.each.len()
    }

    pub(super) fn set_silent(&mut self, source: usize, silent: bool) {
        if let Some(trust) = self.each.get_mut(source) {
            trust.silent = silent;
        }
    }

    pub(super) fn is_silent(&self, source: usize) -> bool {
        self.each.get(source).is_none_or(|trust| trust.silent)
    }

    pub(super) fn discontinuity(
        &mut self,
        source: usize,
        now: Duration,
        reason: Discontinuity,
        config: &ShrinkConfig,
    ) -> bool {
        let Some(trust) = self.each.get_mut(source) else {
            return false;
        };
        trust.silent = false;
        let limited = matches!(reason, Discontinuity::Interrupted | Discontinuity::Paused);
        let chain_began = match &mut trust.grace {
            // One that lost something does not merely keep failing: what comes after is counted from there.
            Some(grace) if limited && now < grace.last + config.lease_ttl => {
                grace.last = now;
                grace.chain_began
            }
            _ => now,
        };
        if limited && now.saturating_sub(chain_began) > config.max_hold {
            return false;
        }
        trust.grace = Some(Grace {
            chain_began,
            since: now,
            last: now,
            reason,
        });
        true
    }

    pub(super) fn distrust(
        &self,
        source: usize,
        now: Duration,
        ttl: Duration,
    ) -> Option<(Duration, Discontinuity)> {
        let grace = self.each.get(source)?.grace.as_ref()?;
        (now < grace.since + ttl).then_some((grace.since, grace.reason))
    }
}
