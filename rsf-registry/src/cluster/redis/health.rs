//! Whether one of several servers is worth asking, as far as this process has seen.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backoff::Backoff;

/// The first and the longest pause after a failure.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

/// What a process knows of a server.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    backoff: Backoff,
    /// When it may be tried again; `None` while it answers.
    retry_at: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        State {
            backoff: Backoff::new(*PAUSE.start(), *PAUSE.end()),
            retry_at: None,
        }
    }
}

impl Health {
    /// Whether it answered when it was asked last.
    pub(super) fn is_up(&self) -> bool {
        self.0.lock().retry_at.is_none()
    }

    /// Whether it failed and its pause is over. The one who is told so tries it; others wait for what comes of that.
    pub(super) fn take_trial(&self) -> bool {
        let mut state = self.0.lock();
        let due = state.retry_at.is_some_and(|at| at <= Instant::now());
        if due {
            state.retry_at = Some(Instant::now() + *PAUSE.start());
        }
        due
    }

    /// It answered. Whether it had failed before.
    pub(super) fn succeeded(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).backoff.attempts() > 0
    }

    /// It did not do what it was asked. Whether it did before. Each pause is twice as long as the one before, and
    /// shortened by chance, so that a fleet does not come back in step.
    pub(super) fn failed(&self) -> bool {
        let mut state = self.0.lock();
        state.retry_at = Some(Instant::now() + state.backoff.next());
        state.backoff.attempts() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_failed_is_tried_by_one_and_ever_later() {
        let health = Health::default();
        assert!(health.is_up() && !health.take_trial() && !health.succeeded());
        assert!(health.failed(), "news");
        assert!(!health.is_up() && !health.take_trial());
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert!(health.take_trial(), "after {seconds} s");
            assert!(!health.take_trial(), "one at a time");
            assert!(!health.failed());
        }
        assert!(health.succeeded() && health.is_up());
    }
}
