//! When nothing is wrong, and since when.

use tokio::time::Instant;

/// A part of the site that faults strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Redis,
    ZooKeeper,
    Pump,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::Redis => "redis",
            Part::ZooKeeper => "zookeeper",
            Part::Pump => "pump",
        }
    }
}

/// Which parts are disturbed.
#[derive(Debug)]
pub(super) struct Calm {
    redis: Quiet,
    publishing: Quiet,
}

/// One part: how many faults last, and when the last one ended.
#[derive(Debug)]
struct Quiet {
    faults: usize,
    since: Instant,
    /// When the first fault of the last trouble began.
    began: Instant,
}

impl Default for Calm {
    fn default() -> Self {
        let quiet = || {
            let now = Instant::now();
            Quiet {
                faults: 0,
                since: now,
                began: now,
            }
        };
        Calm {
            redis: quiet(),
            publishing: quiet(),
        }
    }
}

impl Calm {
    pub(super) fn fault(&mut self, part: Part, begins: bool) {
        let quiet = match part {
            Part::Redis => &mut self.redis,
            Part::ZooKeeper | Part::Pump => &mut self.publishing,
        };
        let now = Instant::now();
        if begins {
            if quiet.faults == 0 && quiet.since.elapsed() > super::TTL {
                quiet.began = now;
            }
            quiet.faults += 1;
        } else {
            quiet.faults = quiet.faults.saturating_sub(1);
            quiet.since = now;
        }
    }

    /// Since when nothing is wrong; `None` while something is.
    pub(super) fn since(&self) -> Option<Instant> {
        let quiet = self.redis.faults == 0 && self.publishing.faults == 0;
        quiet.then(|| self.redis.since.max(self.publishing.since))
    }

    /// For how long Redis has been in trouble, where that has not been over for long.
    pub(super) fn without_leases(&self, now: Instant) -> std::time::Duration {
        self.redis.lasted(now)
    }

    /// For how long lists could not be published, where that has not been over for long.
    pub(super) fn backlog(&self, now: Instant) -> std::time::Duration {
        self.publishing.lasted(now)
    }
}

impl Quiet {
    fn lasted(&self, now: Instant) -> std::time::Duration {
        if self.faults == 0 && self.since + super::TTL < now {
            return std::time::Duration::ZERO;
        }
        now - self.began
    }
}
