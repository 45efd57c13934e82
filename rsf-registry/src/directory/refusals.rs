//! Why lists are refused, counted: `rsf_registry_lists_refused_total{reason}`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, Opts};

/// Services whose refusal is kept for messages at most.
const MOST_STANDING: usize = 10_000;

/// What kind of wrong a refused list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not RSF's, cut off, a checksum that does not fit, no record.
    Damaged,
    /// Over a limit: stored bytes, decompressed bytes, instances.
    Oversized,
    /// Of a newer format than this program knows.
    Format,
    /// Not signed, or by no trusted key.
    Signature,
    /// Readable and against the rules: another service's, an impossible weight, address or name.
    Invalid,
    /// Older than what is known.
    Older,
    /// Empty without saying why.
    Emptied,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 7] = [
        Reason::Damaged,
        Reason::Oversized,
        Reason::Format,
        Reason::Signature,
        Reason::Invalid,
        Reason::Older,
        Reason::Emptied,
    ];

    /// The label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Damaged => "damaged",
            Reason::Oversized => "oversized",
            Reason::Format => "format",
            Reason::Signature => "signature",
            Reason::Invalid => "invalid",
            Reason::Older => "older",
            Reason::Emptied => "emptied",
        }
    }
}

/// Why one list is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    reason: Reason,
    text: String,
}

impl Refusal {
    /// A refusal, with what is wrong for people.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Refusal {
            reason,
            text: text.into(),
        }
    }

    /// What kind of wrong it is.
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// Counts refused lists by reason; clones share the counts. Register it where the process keeps its metrics.
#[derive(Debug, Clone)]
pub struct Refusals {
    counters: Option<IntCounterVec>,
    /// Why the newest list of a service was refused, until a good one comes.
    standing: Arc<Mutex<HashMap<String, Refusal>>>,
}

impl Refusals {
    /// Counters at zero.
    pub fn new() -> Self {
        let opts = Opts::new(
            "rsf_registry_lists_refused_total",
            "Lists of the directory that were refused; the last good one stayed.",
        );
        // The name and the label are good, so that this cannot fail; a program without the metric would go on.
        let counters = IntCounterVec::new(opts, &["reason"]).ok();
        if let Some(counters) = &counters {
            for reason in Reason::ALL {
                counters.with_label_values(&[reason.as_str()]);
            }
        }
        Refusals {
            counters,
            standing: Arc::default(),
        }
    }

    /// Counts what became of a service's newest list.
    pub(crate) fn judged(&self, service: &str, refusal: Option<&Refusal>) {
        let mut standing = self.standing.lock();
        match refusal {
            None => drop(standing.remove(service)),
            Some(refusal) => {
                self.count(refusal.reason());
                if standing.len() < MOST_STANDING || standing.contains_key(service) {
                    standing.insert(service.to_owned(), refusal.clone());
                }
            }
        }
    }

    /// Why the newest list of `service` was refused, if it was.
    pub fn of(&self, service: &str) -> Option<Refusal> {
        self.standing.lock().get(service).cloned()
    }

    /// Counts one.
    pub fn count(&self, reason: Reason) {
        if let Some(counters) = &self.counters {
            counters.with_label_values(&[reason.as_str()]).inc();
        }
    }

    /// How many were refused for `reason`.
    pub fn get(&self, reason: Reason) -> u64 {
        let counters = self.counters.as_ref();
        counters.map_or(0, |counters| counters.with_label_values(&[reason.as_str()]).get())
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for Refusals {
    fn desc(&self) -> Vec<&Desc> {
        self.counters.as_ref().map(Collector::desc).unwrap_or_default()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.counters.as_ref().map(Collector::collect).unwrap_or_default()
    }
}
