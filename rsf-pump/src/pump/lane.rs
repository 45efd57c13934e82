//! The pump's books about one of its sources.

use std::time::Duration;

use crate::config::PumpConfig;
use crate::deadlines::Deadlines;
use crate::fold::Sweeping;
use crate::trust::Trust;

/// What is kept for each source apart.
pub(super) struct Lane {
    /// The source's name.
    pub(super) name: String,
    pub(super) trust: Trust,
    pub(super) deadlines: Deadlines,
    /// When the source had told all it has for the first time, of those that this fold took in.
    pub(super) loaded: Option<Duration>,
    /// When it last did.
    pub(super) swept: Option<Duration>,
    /// When it was asked that.
    pub(super) asked: Option<Duration>,
    /// How many leases it had then.
    pub(super) leases: usize,
    /// The sweep whose leases it is telling, and how many it has told.
    pub(super) sweeping: Option<(Sweeping, usize)>,
    /// Since when it has not answered.
    pub(super) silent: Option<Duration>,
    /// When the fold began anew: what a sweep told that was asked for earlier is not all in it.
    begun: Option<Duration>,
}

impl Lane {
    pub(super) fn new(name: String, config: &PumpConfig) -> Self {
        Lane {
            name,
            trust: Trust::new(config.sweep, config.sweep_timeout),
            deadlines: Deadlines::default(),
            loaded: None,
            swept: None,
            asked: None,
            leases: 0,
            sweeping: None,
            silent: None,
            begun: None,
        }
    }

    /// The fold begins anew: nothing that the source told counts as told.
    pub(super) fn begin_anew(&mut self, now: Duration) {
        self.deadlines = Deadlines::default();
        self.loaded = None;
        self.asked = None;
        self.sweeping = None;
        self.begun = Some(now);
    }

    /// Whether the fold took in all that a sweep told which was asked for at `asked`.
    pub(super) fn is_whole(&self, asked: Duration) -> bool {
        self.begun.is_none_or(|begun| begun < asked)
    }

    /// Whether the source answered when it was last asked.
    pub(super) fn is_up(&self) -> bool {
        self.trust.loaded() && self.trust.error().is_none()
    }

    /// Whether it has told all it has, or cannot tell.
    pub(super) fn is_asked(&self) -> bool {
        self.trust.loaded() || self.trust.error().is_some()
    }
}
