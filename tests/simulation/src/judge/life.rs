//! The truth about one start of one instance.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::TTL;

/// How long an instance may be cut off before its lease can run out: the TTL less the longest time between two
/// renewals and their retry.
const HARMLESS: Duration = Duration::from_secs(6);
/// Troubles that are no further apart leave an instance no time to renew its lease between them.
const TOGETHER: Duration = Duration::from_secs(4);
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
    pub(crate) trouble: Trouble,
}

/// What keeps an instance from renewing its lease: it stands still, cannot reach its lease's server, or both.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trouble {
    still: bool,
    cut: bool,
    /// When the last unbroken trouble began.
    began: Option<Instant>,
    /// When it ended.
    ended: Option<Instant>,
    /// When the last one ended that was long enough to cost a lease.
    costly: Option<Instant>,
}

impl Trouble {
    fn begin(&mut self) {
        let goes_on = self.ended.is_some_and(|ended| ended.elapsed() < TOGETHER);
        if !goes_on || self.began.is_none() {
            self.began = Some(Instant::now());
        }
    }

    fn end(&mut self) {
        let now = Instant::now();
        self.ended = Some(now);
        if self.began.is_some_and(|began| now - began >= HARMLESS) {
            self.costly = Some(now);
        }
    }

    fn lasts(&self) -> bool {
        self.still || self.cut
    }

    /// Whether it lasts, and for long enough to cost a lease.
    fn is_costly(&self) -> bool {
        self.lasts() && self.began.is_some_and(|began| began.elapsed() >= HARMLESS)
    }
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
    /// It stands still or goes on, as its process does: whatever stopped it, and however often.
    pub(crate) fn set_still(&mut self, still: bool) {
        self.set_trouble(|trouble| trouble.still = still);
    }

    /// It is cut off from its lease's server or no longer is, in the same way.
    pub(crate) fn set_cut(&mut self, cut: bool) {
        self.set_trouble(|trouble| trouble.cut = cut);
    }

    fn set_trouble(&mut self, set: impl FnOnce(&mut Trouble)) {
        let lasted = self.trouble.lasts();
        set(&mut self.trouble);
        match (lasted, self.trouble.lasts()) {
            (false, true) => self.trouble.begin(),
            (true, false) => self.trouble.end(),
            _ => {}
        }
    }

    /// Takes a new state now.
    pub(crate) fn become_state(&mut self, state: State) {
        self.state = state;
        self.since = Instant::now();
    }

    /// Whether it lives and nothing of its own keeps it from renewing its lease.
    pub(super) fn is_well(&self) -> bool {
        let was_troubled = self
            .trouble
            .costly
            .is_some_and(|ended| ended.elapsed() < TTL + RECOVERY);
        self.is_alive() && !self.trouble.is_costly() && !was_troubled
    }

    /// Whether it has been up and well, with this service, for at least so long.
    pub(super) fn is_well_for(&self, service: &str, time: Duration) -> bool {
        let long = |since: Instant| since.elapsed() >= time;
        self.state == State::Up
            && self.is_well()
            && self.trouble.costly.is_none_or(long)
            && self.provides_since(service).is_some_and(long)
    }

    /// Whether it died so long ago that its lease may have run out.
    pub(super) fn may_have_expired(&self) -> bool {
        self.state == State::Dead && self.since.elapsed() >= HARMLESS
    }

    pub(super) fn is_alive(&self) -> bool {
        matches!(self.state, State::Up | State::Draining)
    }

    /// Since when it has been as it is, with this service.
    pub(super) fn provides_since(&self, service: &str) -> Option<Instant> {
        self.services.get(service).map(|since| self.since.max(*since))
    }
}
