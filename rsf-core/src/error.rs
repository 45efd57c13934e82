//! What a caller gets instead of a reply.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::outcome::{Reason, Retry};
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
}

/// One attempt of a failed call.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// The instance it went to.
    pub instance: Arc<str>,
    /// How it ended; `None` where it was still under way.
    pub reason: Option<Reason>,
    /// How long it took.
    pub elapsed: Duration,
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

    /// The same failure with the answer that policy gives in its place.
    pub(crate) fn answered_by_policy(mut self, status: Status) -> Self {
        self.0.reason = Reason::Degraded;
        self.0.status = status;
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

    /// Whether a further attempt can do no harm, for a method that is idempotent (or deduplicated by its provider) or
    /// neither.
    pub fn is_retryable(&self, idempotent: bool) -> bool {
        match self.0.reason.outcome().retry {
            Retry::Never => false,
            Retry::Always => idempotent || !self.0.reached,
            Retry::IfIdempotent => idempotent,
        }
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
        Reason::ConsumerLimit | Reason::ProviderLimit | Reason::QueueFull | Reason::TooLarge => {
            Code::ResourceExhausted
        }
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
        let mut status = error.0.status;
        // The downstream framework's reason is not this handler's: it would read as "never reached the handler".
        status.metadata_mut().remove_reserved(REASON);
        status
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
