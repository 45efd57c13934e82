//! Whether the pump itself stood still: a virtual machine that was paused, a process that was stopped.

use std::time::Duration;

/// How long nothing may happen in a pump that runs, which reports twice a second.
const LONGEST: Duration = Duration::from_secs(2);

/// What the pump knows of its own pauses.
#[derive(Debug, Default)]
pub(super) struct Pause {
    last: Duration,
    ended: Option<Duration>,
}

impl Pause {
    /// Something happens now.
    pub(super) fn turn(&mut self, now: Duration) {
        if now.saturating_sub(self.last) > LONGEST {
            self.ended = Some(now);
        }
        self.last = now;
    }

    /// Everything has been read anew since `asked`.
    pub(super) fn made_up(&mut self, asked: Duration) {
        self.ended = self.ended.filter(|ended| *ended > asked);
    }

    /// Whether it stood still, and what it missed has not been made up for.
    pub(super) fn missed(&self) -> bool {
        self.ended.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_counts_until_all_is_read_anew() {
        let ms = Duration::from_millis;
        let mut pause = Pause::default();
        for now in [0, 500, 1_000, 3_000] {
            pause.turn(ms(now));
        }
        assert!(!pause.missed());
        pause.turn(ms(5_001));
        pause.turn(ms(5_002));
        assert!(pause.missed());
        pause.made_up(ms(4_000));
        assert!(pause.missed(), "that was asked before");
        pause.made_up(ms(5_001));
        assert!(!pause.missed());
    }
}
