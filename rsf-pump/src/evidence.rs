//! Rule R's evidence: whether instances that are missing and held live after all.
//!
//! A pump has one or several kinds of [`Evidence`]: [`TcpProbe`] asks the instances themselves, [`ConsumerReports`] those who
//! call them. What all kinds say together is the [`Finding`]:
//!
//! * one that says *answers* is believed at once: a wrong one keeps an instance listed that each consumer checks for itself;
//! * *gone* removes an instance that rule R would keep, so it is never believed alone: the same kind of evidence must see an
//!   instance that certainly lives at the same time, and some seconds later all of it is asked again.

mod probe;

mod reports;

mod inquiry;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub(crate) use inquiry::{Inquiry, InquiryConfig};
pub use probe::TcpProbe;
pub use reports::ConsumerReports;

/// What is known of an instance that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It answers: it stays.
    Answers,
    /// Nobody is there: it may leave at once.
    Gone,
    /// Neither: the host or the network is silent, which a partition looks like too, or nobody has tried.
    Unclear,
}

impl Finding {
    /// All findings.
    pub const ALL: [Finding; 3] = [Finding::Answers, Finding::Gone, Finding::Unclear];

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Finding::Answers => "answers",
            Finding::Gone => "gone",
            Finding::Unclear => "unclear",
        }
    }
}

/// Where evidence comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The instances were asked themselves.
    Probe,
    /// Consumers said what they know.
    Reports,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 2] = [Kind::Probe, Kind::Reports];

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Probe => "probe",
            Kind::Reports => "reports",
        }
    }
}

/// An instance of which evidence is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Its id.
    pub instance: String,
    /// Its start; evidence of another start says nothing of this one.
    pub incarnation: u64,
    /// Its service port, `host:port`.
    pub address: String,
}

/// One kind of evidence. The pump limits its time ([`PumpSettings::probe_timeout_ms`](crate::PumpSettings)), rate and
/// concurrency, and asks about an instance again while it is held.
#[async_trait]
pub trait Evidence: Send + Sync + 'static {
    /// Where it comes from.
    fn kind(&self) -> Kind;

    /// What is known of `suspect` now; [`Finding::Unclear`] wherever that is in doubt.
    async fn of(&self, suspect: &Suspect) -> Finding;

    /// Whether this evidence can be believed when it says *gone*: asked right after it did, with another instance that
    /// certainly lives. By default it must say of that one that it answers.
    async fn sees(&self, living: &Suspect) -> bool {
        self.of(living).await == Finding::Answers
    }
}

/// What was found of a suspect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Of whom.
    pub suspect: Suspect,
    /// What all kinds of evidence say together.
    pub finding: Finding,
    /// What each kind says, believed or not.
    pub said: Vec<(Kind, Finding)>,
}
