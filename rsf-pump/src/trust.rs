//! Whether what the source lost is to be believed: notices discontinuities between two good answers.

use std::time::Duration;

use crate::shrink::Discontinuity;

/// How much later than planned a sweep may be sent before the pump itself counts as having stood still.
const SLACK: Duration = Duration::from_secs(2);

/// What the pump remembers of its source's answers.
#[derive(Debug)]
pub(crate) struct Trust {
    interval: Duration,
    sweep_timeout: Duration,
    identity: Option<String>,
    last_contact: Option<Duration>,
    /// A read found that nothing was asked for too long; the next sweep tells.
    paused: bool,
    error: Option<String>,
}

impl Trust {
    pub(crate) fn new(interval: Duration, sweep_timeout: Duration) -> Self {
        Trust {
            interval,
            sweep_timeout,
            identity: None,
            last_contact: None,
            paused: false,
            error: None,
        }
    }

    /// The source did not answer, or wrongly. Answers whether that is news.
    pub(crate) fn failed(&mut self, error: String) -> bool {
        self.error.replace(error).is_none()
    }

    /// The source answered a read.
    pub(crate) fn read(&mut self, now: Duration) {
        if self.error.is_none() {
            // After a pause overdue deadlines are read before the overdue sweep: they must not hide it.
            self.paused |= self.late(now);
            self.last_contact = Some(now);
        }
    }

    /// Whether nothing was heard of the source for longer than a pump that runs lets pass.
    fn late(&self, now: Duration) -> bool {
        self.last_contact
            .is_some_and(|last| now.saturating_sub(last) > self.interval + SLACK)
    }

    /// The source answered a sweep that was sent at `asked`. Answers what lies between this and its last answer.
    pub(crate) fn swept(&mut self, asked: Duration, now: Duration, identity: &str) -> Option<Discontinuity> {
        let paused = std::mem::take(&mut self.paused)
            || self.late(asked)
            || now.saturating_sub(asked) > self.sweep_timeout + SLACK;
        let failed = self.error.take().is_some();
        let before = self.identity.replace(identity.to_owned());
        self.last_contact = Some(now);
        match before {
            None => Some(Discontinuity::Started),
            Some(before) if before != identity => Some(Discontinuity::SourceChanged),
            Some(_) if failed => Some(Discontinuity::Interrupted),
            Some(_) if paused => Some(Discontinuity::Paused),
            Some(_) => None,
        }
    }

    pub(crate) fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether a sweep has ever gone well.
    pub(crate) fn loaded(&self) -> bool {
        self.identity.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_discontinuity_is_told_once() {
        let mut trust = Trust::new(secs(5), secs(10));
        assert_eq!(trust.swept(secs(0), secs(0), "a"), Some(Discontinuity::Started));
        assert_eq!(trust.swept(secs(5), secs(6), "a"), None);
        assert!(trust.failed("gone".into()));
        assert!(!trust.failed("gone".into()));
        trust.read(secs(12));
        assert_eq!(
            trust.swept(secs(13), secs(13), "a"),
            Some(Discontinuity::Interrupted)
        );
        assert_eq!(
            trust.swept(secs(18), secs(18), "b"),
            Some(Discontinuity::SourceChanged)
        );
        assert_eq!(
            trust.swept(secs(60), secs(60), "b"),
            Some(Discontinuity::Paused),
            "the pump stood still"
        );
        assert_eq!(
            trust.swept(secs(65), secs(90), "b"),
            Some(Discontinuity::Paused),
            "so did its question"
        );
        assert_eq!(trust.swept(secs(95), secs(95), "b"), None);
        trust.read(secs(130));
        assert_eq!(
            trust.swept(secs(130), secs(130), "b"),
            Some(Discontinuity::Paused),
            "a read after it does not hide it"
        );
        assert_eq!(trust.swept(secs(135), secs(135), "b"), None);
    }
}
