//! A fault to play with: handlers that take their time.

use std::time::Duration;

/// How much longer than it needs to every handler takes. None by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency(Duration);

/// A text that is no latency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidLatency(String);

impl Latency {
    /// A fixed time.
    pub fn of(time: Duration) -> Self {
        Latency(time)
    }

    pub(crate) async fn pass(self) {
        if !self.0.is_zero() {
            tokio::time::sleep(self.0).await;
        }
    }
}

impl std::str::FromStr for Latency {
    type Err = InvalidLatency;

    fn from_str(text: &str) -> Result<Self, InvalidLatency> {
        match text.parse() {
            Ok(ms @ 0..=60_000) => Ok(Latency(Duration::from_millis(ms))),
            _ => Err(InvalidLatency(text.to_owned())),
        }
    }
}

impl std::fmt::Display for InvalidLatency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` is no latency; give milliseconds, 0 to 60000", self.0)
    }
}

impl std::error::Error for InvalidLatency {}
