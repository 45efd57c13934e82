//! What a caller gets instead of a reply.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::metadata::Metadata;
use crate::outcome::Reason;
use crate::status::{Code, Status};

/// Why a call failed: gRPC's code, RSF's reason, whether the handler can have run, and every attempt.
///
/// One pointer wide, so that a `Result` stays small.
#[derive(Debug)]
pub struct RpcError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    reason: Reason,
    status: Status,
    reached: bool,
    instance: Option<Arc<str>>,
    attempts: Vec<AttemptRecord>,
    retries_spent: bool,
}

/// One attempt of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// The instance it went to.
    pub instance: Arc<str>,
    /// Whether it went out beside one that had not answered yet, after `retry.hedge_delay_ms` or
    /// `retry.hedge_percentile`.
    pub hedge: bool,
    /// When it began, after the call's own beginning.
    pub begun: Duration,
    /// How long it took, or had been under way when the call ended.
    pub elapsed: Duration,
    /// Whether its answer was the call's.
    pub succeeded: bool,
    /// How it failed; `None` where it succeeded, or was still under way when the call ended.
    pub reason: Option<Reason>,
}

/// Every attempt of a call, the successful one included, for whoever wants to explain it: a clone given to
/// [`Call::log_attempts`](crate::call::Call::log_attempts) is filled when the call ends.
#[derive(Debug, Clone, Default)]
pub struct AttemptLog(Arc<Mutex<Vec<AttemptRecord>>>);

impl AttemptLog {
    /// The attempts, first to last by their ends; empty while the call is under way, and where none was made. Leaves the
    /// log empty.
    pub fn take(&self) -> Vec<AttemptRecord> {
        std::mem::take(&mut self.0.lock())
    }

    pub(crate) fn fill(&self, attempts: Vec<AttemptRecord>) {
        *self.0.lock() = attempts;
    }
}

impl RpcError {
    /// An error of `reason` with its usual code. `reached` says whether the handler can have run.
    pub fn new(reason: Reason, reached: bool, message: impl Into<String>) -> Self {
        Self::with_status(reason, reached, Status::new(code(reason), message))
    }

    /// What a client interceptor fails a call with that it does not pass on: the handler never saw it.
    pub fn intercepted(status: Status) -> Self {
        Self::with_status(Reason::Intercepted, false, status)
    }

    /// An error that the handler answered with.
    pub(crate) fn handler(status: Status) -> Self {
        Self::with_status(Reason::Handler, true, status)
    }

    pub(crate) fn with_status(reason: Reason, reached: bool, status: Status) -> Self {
        RpcError(Box::new(Failure {
            reason,
            status,
            reached,
            instance: None,
            attempts: Vec::new(),
            retries_spent: false,
        }))
    }

    pub(crate) fn at(mut self, instance: &Arc<str>) -> Self {
        self.0.instance = Some(instance.clone());
        self
    }

    /// Adds that an earlier attempt can have reached the handler.
    pub(crate) fn or_reached(mut self, reached: bool) -> Self {
        self.0.reached |= reached;
        self
    }

    pub(crate) fn with_attempts(mut self, attempts: Vec<AttemptRecord>) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// The same failure, from now on with the answer that policy gives in its place.
    pub(crate) fn answer_by_policy(&mut self, status: Status) {
        self.0.reason = Reason::Degraded;
        self.0.status = status;
    }

    pub(crate) fn with_retries_spent(mut self, spent: bool) -> Self {
        self.0.retries_spent = spent;
        self
    }

    /// Adds the application's own pairs of the reply's headers to those of its trailers.
    pub(crate) fn with_headers(mut self, headers: &Metadata) -> Self {
        self.0.status.metadata_mut().complete(headers);
        self
    }

    /// gRPC's code.
    pub fn code(&self) -> Code {
        self.0.status.code()
    }

    /// RSF's reason.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// What happened and what to do about it.
    pub fn message(&self) -> &str {
        self.0.status.message()
    }

    /// The status as the provider sent it, or as RSF would.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// Whether the request can have reached the handler. `false` is a promise: it never ran.
    pub fn may_have_run(&self) -> bool {
        self.0.reached
    }

    /// The instance of the attempt that decided.
    pub fn instance(&self) -> Option<&str> {
        self.0.instance.as_deref()
    }

    /// Every attempt, first to last; empty where none was made.
    pub fn attempts(&self) -> &[AttemptRecord] {
        &self.0.attempts
    }

    /// Whether attempting the call again above would only multiply the attempts below: it took retry credit and still
    /// failed, there was no credit left, or the provider asked for no further attempt. A handler's status that is made
    /// of such an error says so to its caller (`grpc-retry-pushback-ms: -1`).
    pub fn retries_spent(&self) -> bool {
        self.0.retries_spent
    }

    /// Whether a further attempt can do no harm, for a method that is idempotent (or deduplicated by its provider) or
    /// neither.
    pub fn is_retryable(&self, idempotent: bool) -> bool {
        self.0.reason.is_retryable(self.0.reached, idempotent)
    }
}

/// The code that goes with a reason where the provider has not said one.
fn code(reason: Reason) -> Code {
    match reason {
        Reason::Handler | Reason::Intercepted => Code::Unknown,
        Reason::NoInstance
        | Reason::BreakerOpen
        | Reason::Degraded
        | Reason::Connect
        | Reason::ConnectionLost
        | Reason::Refused
        | Reason::Unavailable
        | Reason::DedupUnavailable
        | Reason::ShutDown => Code::Unavailable,
        Reason::ConsumerLimit
        | Reason::ProviderLimit
        | Reason::QueueFull
        | Reason::QueueTimeout
        | Reason::TooLarge => Code::ResourceExhausted,
        Reason::Denied => Code::PermissionDenied,
        Reason::Unauthenticated => Code::Unauthenticated,
        Reason::Deadline | Reason::AttemptTimeout => Code::DeadlineExceeded,
        Reason::WrongInstance | Reason::WrongShard | Reason::PayloadMismatch | Reason::WaitInRuntime => {
            Code::FailedPrecondition
        }
        Reason::DuplicateInProgress | Reason::OutcomeUnknown => Code::Aborted,
        Reason::Unimplemented => Code::Unimplemented,
        Reason::Malformed | Reason::Panic => Code::Internal,
        Reason::Cancelled => Code::Cancelled,
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code(), self.reason(), self.message())?;
        if let Some(instance) = self.instance() {
            write!(f, " [instance {instance}]")?;
        }
        if self.0.attempts.len() > 1 {
            write!(f, " [{} attempts]", self.0.attempts.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for RpcError {}

/// So that a handler can pass on with `?` what a call of its own ended with.
impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        let spent = error.0.retries_spent;
        let mut status = error.0.status;
        // The downstream framework's reason is not this handler's: it would read as "never reached the handler".
        status.metadata_mut().remove_reserved(REASON);
        if spent { status.without_retry() } else { status }
    }
}

/// A status that the provider's framework, not its handler, answers with.
pub(crate) fn framework_status(reason: Reason, message: impl Into<String>) -> Status {
    let mut status = Status::new(code(reason), message);
    status
        .metadata_mut()
        .set_reserved(REASON, http::HeaderValue::from_static(reason.name()));
    status
}

/// The trailer that names the reason where the framework answered, not the handler.
pub(crate) const REASON: &str = "rsf-reason";
