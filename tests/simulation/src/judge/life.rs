//! The truth about one start of one instance.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::TTL;

/// How long an instance may be cut off before its lease can run out: the TTL less the longest time between two
/// renewals and their retry.
const HARMLESS: Duration = Duration::from_secs(6);
/// How long after its own trouble an instance may still be missing.
const RECOVERY: Duration = Duration::from_secs(30);

/// One start of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) id: String,
    pub(crate) incarnation: u64,
    pub(crate) address: String,
    /// Service → since when it is provided.
    pub(crate) services: BTreeMap<String, Instant>,
    /// Services that it provided before.
    pub(crate) dropped: BTreeMap<String, Instant>,
    pub(crate) state: State,
    pub(crate) since: Instant,
    /// Since when it stands still or cannot reach its lease's server.
    pub(crate) trouble: Option<Instant>,
    /// When its last trouble ended that was long enough to cost it its lease.
    pub(crate) troubled: Option<Instant>,
}

/// What an instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Up,
    Draining,
    /// It left on purpose; `told` where the registry has taken its word.
    Left {
        told: bool,
    },
    /// It was killed, or left without being able to say so.
    Dead,
}

impl Life {
    /// It stands still, is cut off, or no longer is.
    pub(crate) fn set_trouble(&mut self, trouble: bool) {
        if trouble {
            self.trouble.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.trouble.take()
            && since.elapsed() >= HARMLESS
        {
            self.troubled = Some(Instant::now());
        }
    }

    /// Takes a new state now.
    pub(crate) fn become_state(&mut self, state: State) {
        self.state = state;
        self.since = Instant::now();
    }

    /// Whether it lives and nothing of its own keeps it from renewing its lease.
    pub(super) fn is_well(&self) -> bool {
        let in_trouble = self.trouble.is_some_and(|since| since.elapsed() >= HARMLESS);
        let was_troubled = self
            .troubled
            .is_some_and(|ended| ended.elapsed() < TTL + RECOVERY);
        self.is_alive() && !in_trouble && !was_troubled
    }

    /// Whether it has been up and well, with this service, for at least so long.
    pub(super) fn is_well_for(&self, service: &str, time: Duration) -> bool {
        let long = |since: Instant| since.elapsed() >= time;
        self.state == State::Up
            && self.is_well()
            && self.troubled.is_none_or(long)
            && self.provides_since(service).is_some_and(long)
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.state, State::Up | State::Draining)
    }

    /// Since when it has been as it is, with this service.
    pub(super) fn provides_since(&self, service: &str) -> Option<Instant> {
        self.services.get(service).map(|since| self.since.max(*since))
    }
}
