//! The API's JSON, as types that the server writes and the client reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What became of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Recorded, and not yet confirmed by the policy store; the reconciler publishes it.
    Intent,
    /// The policy store has it, or a later one of the same scope.
    Published,
    /// It never came into force; the audit log says why.
    Refused,
}

/// One revision of one scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Rises by one with each change in the namespace, and is never used again.
    pub revision: u64,
    /// `fleet`, `application/<name>` or `service/<key>`.
    pub scope: String,
    /// The document; `null` where this revision deleted the policy.
    pub document: Value,
    /// Who wrote it, in their own words.
    pub author: String,
    /// Why, in their own words.
    pub comment: String,
    /// Unix milliseconds.
    pub written_unix_ms: u64,
    /// Where it stands.
    pub status: Status,
}

/// One step in the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Rises with each entry.
    pub id: u64,
    /// The revision that took the step.
    pub revision: u64,
    /// Its scope.
    pub scope: String,
    /// What it became.
    pub status: Status,
    /// Who wrote the revision.
    pub author: String,
    /// Why it was written.
    pub comment: String,
    /// What the console has to say about the step: why refused, why published again.
    pub detail: String,
    /// Unix milliseconds of the step.
    pub at_unix_ms: u64,
}

/// Asks for a whole document to be published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutPolicy {
    /// A JSON object, or its text as a string (whose syntax errors then come with line and column).
    pub document: Value,
    /// Refuse (409) unless this is the scope's latest revision; 0: unless it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_revision: Option<u64>,
    /// Who; `api` where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Asks for the latest document to be edited and published.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchPolicy {
    /// As for [`crate::edit`]: `call.timeout_ms=200`.
    pub assignments: Vec<String>,
    /// As for [`PutPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_revision: Option<u64>,
    /// As for [`PutPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Asks for an earlier revision's document to be published again, as a new revision.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The revision whose document is wanted, of the same scope.
    pub revision: u64,
    /// As for [`PutPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_revision: Option<u64>,
    /// As for [`PutPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Asks what a change would do, without doing it. Exactly one of the two is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preview {
    /// A whole document, as for [`PutPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Value>,
    /// Edits of the latest document, as for [`PatchPolicy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignments: Option<Vec<String>>,
}

/// What a change would do: it would be accepted, and differs so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Previewed {
    /// The scope's latest revision; pass it as `expected_revision` when publishing.
    pub revision: u64,
    /// The document that would be published.
    pub document: Value,
    /// From the latest document to that one.
    pub lines: Vec<DiffLine>,
}

/// An accepted change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// As it now stands in the history.
    #[serde(flatten)]
    pub revision: Revision,
    /// Empty, or what the caller should know: the store is down and the change waits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// How two revisions differ, line by line of their indented JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// The older side; 0 is the empty document.
    pub from: u64,
    /// The newer side.
    pub to: u64,
    /// All lines, unchanged ones included.
    pub lines: Vec<DiffLine>,
}

/// One line of a diff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiffLine {
    /// Whether it stays, goes or comes.
    pub change: Change,
    /// Without its line end.
    pub text: String,
}

/// What a diff does to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// On both sides.
    Same,
    /// Only on the older side.
    Removed,
    /// Only on the newer side.
    Added,
}

/// Who runs what of one scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The scope's latest revision; 0 where it never had a policy.
    pub revision: u64,
    /// Sorted by instance.
    pub instances: Vec<InstanceRevision>,
}

/// What one instance runs of a scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRevision {
    /// Its id.
    pub instance: String,
    /// Its application.
    pub application: String,
    /// What it last acknowledged; 0 where it has not.
    pub revision: u64,
    /// How that compares with the latest revision.
    pub state: AcknowledgedState,
    /// Why it refused the revision and kept its last good one; empty otherwise.
    pub refusal: String,
    /// Unix milliseconds of the acknowledgement; 0 where there is none.
    pub at_unix_ms: u64,
}

/// How an instance stands to the latest revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcknowledgedState {
    /// It runs the latest revision.
    Current,
    /// It runs an earlier one.
    Older,
    /// It refused the latest one.
    Refused,
    /// It is alive and has said nothing yet.
    Waiting,
}

/// One service in the list of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSummary {
    /// `package.Service` or `package.Service:implementation`.
    pub service: String,
    /// Instances that take calls.
    pub up: usize,
    /// Instances that end gracefully.
    pub draining: usize,
    /// The applications that provide it, sorted.
    pub applications: Vec<String>,
    /// The zones it runs in, sorted.
    pub zones: Vec<String>,
}

/// One service with its instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// `package.Service` or `package.Service:implementation`.
    pub service: String,
    /// Epoch and sequence of the published list.
    pub version: (u64, u64),
    /// Unix milliseconds at which the list was written.
    pub written_unix_ms: u64,
    /// Sorted by id.
    pub instances: Vec<ServiceInstance>,
    /// The instances that left most recently, newest first.
    pub removed: Vec<Removed>,
}

/// An instance of a service, as consumers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceInstance {
    /// What the directory lists.
    #[serde(flatten)]
    pub instance: Instance,
    /// The weight that holds after the published instance rules.
    pub effective_weight: u32,
    /// Whether a published rule disables it.
    pub disabled: bool,
}

/// One running copy of an application.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Instance {
    /// Stable id (`application/name`).
    pub instance: String,
    /// Unix milliseconds of this start.
    pub incarnation: u64,
    /// Its application.
    pub application: String,
    /// `host:port` for calls; empty for a pure consumer.
    pub address: String,
    /// `host:port` of its admin port; empty where there is none.
    pub admin_address: String,
    /// Its machine room; may be empty.
    pub zone: String,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// The weight it asks for.
    pub weight: u32,
    /// `up`, `draining`, `deregistered` or `unknown`.
    pub state: String,
    /// The service keys it provides; empty for a pure consumer.
    pub services: Vec<String>,
}

/// An instance that left, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// Its id.
    pub instance: String,
    /// `deregistered`, `expired`, `evicted` or `unknown`.
    pub cause: String,
    /// Unix milliseconds.
    pub at_unix_ms: u64,
}

/// What the console says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsoleStatus {
    /// The namespace it governs.
    pub namespace: String,
    /// RSF's version.
    pub version: String,
    /// Revisions that wait for the policy store.
    pub pending: usize,
    /// Why the policy store could not be reconciled last time; empty where it could.
    pub policy_store: String,
    /// Why the directory could not be read last time; empty where it could.
    pub directory: String,
}

/// The live figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Unix milliseconds of the last round of scrapes.
    pub at_unix_ms: u64,
    /// How the scrapes themselves go.
    pub scrapes: Scrapes,
    /// By protobuf service name.
    pub services: BTreeMap<String, ServiceStats>,
}

/// How the scrapes go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scrapes {
    /// Instances that answered in the last round.
    pub answered: usize,
    /// Instances that did not, with why, at most 20.
    pub failed: BTreeMap<String, String>,
    /// How many did not answer.
    pub failures: usize,
    /// Instances beyond the bound, never asked.
    pub left_out: usize,
}

/// One service's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// As its consumers see it.
    pub client: Figures,
    /// As its providers see it.
    pub server: Figures,
    /// By method name.
    pub methods: BTreeMap<String, MethodStats>,
    /// Calls a second that each instance answers, by id.
    pub instances: BTreeMap<String, f64>,
    /// The last seconds, oldest first: what consumers see, or providers where no consumer is known.
    pub points: Vec<Point>,
}

/// One method's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MethodStats {
    /// As its consumers see it.
    pub client: Figures,
    /// As its providers see it.
    pub server: Figures,
}

/// Rates and latency over the last second or so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Calls that ended, a second.
    pub calls_per_second: f64,
    /// Calls that ended with an error, a second.
    pub failures_per_second: f64,
    /// 99 % of the last seconds' calls took at most this long; `null` where there were none.
    pub p99_ms: Option<f64>,
}

/// One second of a service.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Unix milliseconds.
    pub at_unix_ms: u64,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What every refused request gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A word for programs: `invalid_policy`, `conflict`, `not_found`, `unauthorized`, …
    pub code: String,
    /// A sentence for people, with what to do.
    pub message: String,
    /// Every single thing that is wrong, where there are several.
    #[serde(default)]
    pub details: Vec<Problem>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where, as `call.retry.attempts`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}
