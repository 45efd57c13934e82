//! What a pump says about itself, and the few things it can be told while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::shrink::{Discontinuity, Hold};

/// What a pump does in the election.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Folds along and waits to lead.
    #[default]
    Standby,
    /// Won a term and reads what was published last.
    TakingOver,
    /// Writes the directory.
    Leading,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Standby, Role::TakingOver, Role::Leading];

    /// The label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Standby => "standby",
            Role::TakingOver => "taking_over",
            Role::Leading => "leading",
        }
    }
}

/// One lease source as the pump sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Whether it answered last time.
    pub up: bool,
    /// What it calls itself; changes when it may have lost leases.
    pub identity: Option<String>,
    /// How many leases it had when it was last swept.
    pub leases: usize,
    /// Age of the last sweep that went well, milliseconds.
    pub swept_ms_ago: Option<u64>,
    /// Why no lease of it expires just now.
    pub distrusted: Option<Discontinuity>,
    /// Why it did not answer, while it does not.
    pub error: Option<String>,
}

/// Counts since the pump's start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Terms begun.
    pub terms: u64,
    /// Terms ended by a refused write.
    pub fenced: u64,
    /// Hints received.
    pub hints: u64,
    /// Leases checked at their deadlines.
    pub deadline_checks: u64,
    /// Sweeps that went well.
    pub sweeps: u64,
    /// Reads and sweeps that failed.
    pub source_errors: u64,
    /// Discontinuities of the sources.
    pub discontinuities: u64,
    /// Holds begun by rule R.
    pub holds: u64,
    /// Lists written.
    pub lists_written: u64,
    /// Lists whose write failed.
    pub write_errors: u64,
    /// Instances that left a list, by cause.
    pub removed: BTreeMap<String, u64>,
    /// Held instances that were looked into, by what all evidence says together.
    #[serde(default)]
    pub probes: BTreeMap<String, u64>,
    /// The same by what each kind of evidence said, those that count: `probe`, `reports`.
    #[serde(default)]
    pub evidence: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The state of a pump at one moment; at most half a second old.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PumpStatus {
    /// Its name.
    pub pump: String,
    /// What it does in the election.
    pub role: Role,
    /// The epoch of its term, if it has one.
    pub epoch: Option<u64>,
    /// Whether its lists can be trusted.
    pub ready: bool,
    /// Why not.
    pub not_ready: Option<String>,
    /// The lease sources.
    pub sources: Vec<SourceStatus>,
    /// Services that have or had a list.
    pub services: usize,
    /// Leases known, tombstones and pure consumers included.
    pub leases: usize,
    /// Listed instances not seen since the last discontinuity or takeover.
    pub unconfirmed: usize,
    /// Changed lists that are not written yet.
    pub lists_waiting: usize,
    /// How long the oldest of them has waited, milliseconds.
    pub lag_ms: u64,
    /// The holds of rule R: each one is an alert.
    pub holds: Vec<Hold>,
    /// When a list was last written, Unix milliseconds.
    pub last_write_unix_ms: Option<u64>,
    /// Why the last round of writes, or the last campaign, failed; cleared by the next that does not.
    pub last_error: Option<String>,
    /// Counts since the start.
    pub counters: Counters,
}

/// What a running pump can be told.
pub(crate) enum Command {
    EndHold {
        service: Option<String>,
        answer: oneshot::Sender<usize>,
    },
}

/// A cheap handle to a pump, good for as long as somebody wants to know.
#[derive(Debug, Clone)]
pub struct PumpHandle {
    pub(crate) status: watch::Receiver<Arc<PumpStatus>>,
    pub(crate) commands: mpsc::Sender<Command>,
}

/// The pump does not run (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pump has stopped")]
pub struct PumpStopped;

impl PumpHandle {
    /// The newest status.
    pub fn status(&self) -> Arc<PumpStatus> {
        self.status.borrow().clone()
    }

    /// Waits until the status is as wanted, and returns it.
    pub async fn wait_for(
        &mut self,
        wanted: impl Fn(&PumpStatus) -> bool,
    ) -> Result<Arc<PumpStatus>, PumpStopped> {
        let status = self
            .status
            .wait_for(|status| wanted(status))
            .await
            .map_err(|_| PumpStopped)?;
        Ok(status.clone())
    }

    /// Ends the hold of one service, or all of them: what is missing there leaves with the next sweep. Returns how many
    /// holds that concerns.
    pub async fn end_hold(&self, service: Option<String>) -> Result<usize, PumpStopped> {
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(Command::EndHold { service, answer })
            .await
            .map_err(|_| PumpStopped)?;
        answered.await.map_err(|_| PumpStopped)
    }
}
