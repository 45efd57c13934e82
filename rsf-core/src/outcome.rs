//! The outcome table: for each way an attempt can end, what the rest of the system does with it.
//!
//! It is the one place that says what is retried, what counts against an instance, and what dedup stores.
//! `docs/outcomes.md` is generated from it.

use std::fmt;

/// Why an attempt or a call ended without a reply. Sent as `rsf-reason` where the provider is the one to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The handler answered with an error of its own.
    Handler,
    /// No instance is listed, or none may be used.
    NoInstance,
    /// The method's breaker is open.
    BreakerOpen,
    /// The consumer's own limit.
    ConsumerLimit,
    /// Policy's `degrade` let the call fail in the method's place.
    Degraded,
    /// The provider's concurrency threshold.
    ProviderLimit,
    /// The provider's queue is full.
    QueueFull,
    /// The wait in the provider's queue takes, or took, longer than the call can spare or policy allows.
    QueueTimeout,
    /// The caller may not call this method.
    Denied,
    /// The caller's proof of identity is missing, or it is not good.
    Unauthenticated,
    /// The logical call's time is over.
    Deadline,
    /// The attempt's time is over; it is still under way.
    AttemptTimeout,
    /// No connection could be made.
    Connect,
    /// The connection broke after the request may have been written.
    ConnectionLost,
    /// The request provably never reached the peer's handlers: the connection closed before it was written, or the
    /// peer refused the stream before it looked at it (REFUSED_STREAM, above GOAWAY's last id).
    Refused,
    /// The address belongs to another instance or namespace than the list says.
    WrongInstance,
    /// The request's shard belongs to another zone or tag than the instance's: consumer and provider hold different
    /// policies for a moment, or the call did not come by the rules.
    WrongShard,
    /// `UNAVAILABLE` without a reason: a proxy, a foreign server, or a handler.
    Unavailable,
    /// The same request id is being handled right now.
    DuplicateInProgress,
    /// The same request id came with another payload.
    PayloadMismatch,
    /// The handler's owner died, or its outcome is lost; whether it took effect is not known.
    OutcomeUnknown,
    /// The store of outcomes fails, and the method may not run without it.
    DedupUnavailable,
    /// The provider has no such service or method.
    Unimplemented,
    /// A message over the limit.
    TooLarge,
    /// Bytes that are no gRPC message, or no message of this type.
    Malformed,
    /// The handler panicked, or an interceptor did.
    Panic,
    /// An interceptor of the calling application failed the call instead of passing it on.
    Intercepted,
    /// The caller gave up.
    Cancelled,
    /// `wait` was called inside an asynchronous runtime.
    WaitInRuntime,
    /// The process's RSF runtime has ended.
    ShutDown,
}

/// When an outcome may be attempted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never: it would end the same way, or nobody waits any more.
    Never,
    /// Always: the request provably never reached the handler.
    Always,
    /// Where the method is idempotent or its provider deduplicates it: the handler may have run.
    IfIdempotent,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What the row is about.
    pub reason: Reason,
    /// May it be attempted again?
    pub retry: Retry,
    /// Does the further attempt take retry credit? What never reached a provider costs it nothing (gRPC calls such
    /// retries transparent).
    pub credit: bool,
    /// Does it count as a failure of the instance?
    pub node_breaker: bool,
    /// Does it count as a failure of the method?
    pub method_breaker: bool,
    /// Does dedup store it for replay?
    pub stored: bool,
}

const fn row(
    reason: Reason,
    retry: Retry,
    node_breaker: bool,
    method_breaker: bool,
    stored: bool,
) -> Outcome {
    let credit = !matches!(retry, Retry::Never) && !matches!(reason, Reason::Refused);
    Outcome {
        reason,
        retry,
        credit,
        node_breaker,
        method_breaker,
        stored,
    }
}

/// Every reason's row, in the order of [`Reason`].
pub const TABLE: &[Outcome] = &[
    //  reason                        retry                  node    method  stored
    row(Reason::Handler, Retry::Never, false, false, true),
    row(Reason::NoInstance, Retry::Never, false, false, false),
    row(Reason::BreakerOpen, Retry::Never, false, false, false),
    row(Reason::ConsumerLimit, Retry::Never, false, false, false),
    row(Reason::Degraded, Retry::Never, false, false, false),
    row(Reason::ProviderLimit, Retry::Always, false, true, false),
    row(Reason::QueueFull, Retry::Always, false, true, false),
    row(Reason::QueueTimeout, Retry::Always, false, true, false),
    row(Reason::Denied, Retry::Never, false, false, false),
    row(Reason::Unauthenticated, Retry::Never, false, false, false),
    row(Reason::Deadline, Retry::Never, true, true, false),
    // Of the method only the whole call tells, which may still succeed.
    row(Reason::AttemptTimeout, Retry::IfIdempotent, true, false, false),
    row(Reason::Connect, Retry::Always, true, true, false),
    row(Reason::ConnectionLost, Retry::IfIdempotent, true, true, false),
    row(Reason::Refused, Retry::Always, false, false, false),
    row(Reason::WrongInstance, Retry::Always, true, false, false),
    // By the route stage, once both sides agree: where it went, it would be refused again.
    row(Reason::WrongShard, Retry::Always, false, false, false),
    row(Reason::Unavailable, Retry::IfIdempotent, true, true, false),
    row(Reason::DuplicateInProgress, Retry::Never, false, false, false),
    row(Reason::PayloadMismatch, Retry::Never, false, false, false),
    row(Reason::OutcomeUnknown, Retry::Never, false, false, false),
    row(Reason::DedupUnavailable, Retry::Always, false, true, false),
    row(Reason::Unimplemented, Retry::Never, false, false, false),
    row(Reason::TooLarge, Retry::Never, false, false, false),
    row(Reason::Malformed, Retry::Never, false, false, false),
    row(Reason::Panic, Retry::Never, false, true, true),
    row(Reason::Intercepted, Retry::Never, false, false, false),
    row(Reason::Cancelled, Retry::Never, false, false, false),
    row(Reason::WaitInRuntime, Retry::Never, false, false, false),
    row(Reason::ShutDown, Retry::Never, false, false, false),
];

impl Reason {
    /// The reason's row.
    pub fn outcome(self) -> &'static Outcome {
        &TABLE[self as usize]
    }

    /// Whether the service gave no answer of its own, so that policy's `degrade` may answer (`when: unavailable`). A
    /// handler's error is an answer; the consumer's own limit says nothing about the service.
    pub fn is_unavailable(self) -> bool {
        matches!(
            self,
            Reason::NoInstance
                | Reason::BreakerOpen
                | Reason::ProviderLimit
                | Reason::QueueFull
                | Reason::QueueTimeout
                | Reason::Deadline
                | Reason::AttemptTimeout
                | Reason::Connect
                | Reason::ConnectionLost
                | Reason::Refused
                | Reason::WrongInstance
                | Reason::WrongShard
                | Reason::Unavailable
                | Reason::DedupUnavailable
        )
    }

    /// Whether a further attempt can do no harm after this outcome. `reached` says whether the handler can have run,
    /// `twice` whether it may run twice.
    pub fn is_retryable(self, reached: bool, twice: bool) -> bool {
        match self.outcome().retry {
            Retry::Never => false,
            Retry::Always => twice || !reached,
            Retry::IfIdempotent => twice,
        }
    }

    /// Whether the request went no further than the way to an instance: no provider had work with it, so that policy
    /// need not weigh whether to attempt it again.
    pub fn never_reaches_a_provider(self) -> bool {
        matches!(self, Reason::Connect | Reason::Refused | Reason::WrongInstance)
    }

    /// As it stands in `rsf-reason`, in metrics and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Handler => "handler",
            Reason::NoInstance => "no_instance",
            Reason::BreakerOpen => "breaker_open",
            Reason::ConsumerLimit => "consumer_limit",
            Reason::Degraded => "degraded",
            Reason::ProviderLimit => "provider_limit",
            Reason::QueueFull => "queue_full",
            Reason::QueueTimeout => "queue_timeout",
            Reason::Denied => "denied",
            Reason::Unauthenticated => "unauthenticated",
            Reason::Deadline => "deadline",
            Reason::AttemptTimeout => "attempt_timeout",
            Reason::Connect => "connect",
            Reason::ConnectionLost => "connection_lost",
            Reason::Refused => "refused",
            Reason::WrongInstance => "wrong_instance",
            Reason::WrongShard => "wrong_shard",
            Reason::Unavailable => "unavailable",
            Reason::DuplicateInProgress => "duplicate_in_progress",
            Reason::PayloadMismatch => "payload_mismatch",
            Reason::OutcomeUnknown => "outcome_unknown",
            Reason::DedupUnavailable => "dedup_unavailable",
            Reason::Unimplemented => "unimplemented",
            Reason::TooLarge => "too_large",
            Reason::Malformed => "malformed",
            Reason::Panic => "panic",
            Reason::Intercepted => "intercepted",
            Reason::Cancelled => "cancelled",
            Reason::WaitInRuntime => "wait_in_runtime",
            Reason::ShutDown => "shut_down",
        }
    }

    /// The reason of a name, as a provider sent it.
    pub fn from_name(name: &str) -> Option<Reason> {
        TABLE
            .iter()
            .map(|outcome| outcome.reason)
            .find(|reason| reason.name() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The table as Markdown, for `docs/outcomes.md`.
pub fn markdown() -> String {
    let yes = |flag| if flag { "yes" } else { "–" };
    let mut out = String::from(
        "| reason | attempted again | takes retry credit | counts for the node breaker | counts for the method breaker | stored by dedup | answered by `degrade` |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in TABLE {
        let retry = match row.retry {
            _ if row.reason == Reason::WrongShard => {
                "yes, by the route stage: once consumer and provider agree on the owner, and to that one"
            }
            Retry::Never => "–",
            Retry::Always => "yes",
            Retry::IfIdempotent => "if idempotent or deduplicated",
        };
        out.push_str(&format!(
            "| `{}` | {retry} | {} | {} | {} | {} | {} |\n",
            row.reason,
            yes(row.credit),
            yes(row.node_breaker),
            yes(row.method_breaker),
            yes(row.stored),
            yes(row.reason.is_unavailable())
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_finds_its_own_row_and_name() {
        for (place, row) in TABLE.iter().enumerate() {
            assert_eq!(row.reason as usize, place);
            assert_eq!(row.reason.outcome(), row);
            assert_eq!(Reason::from_name(row.reason.name()), Some(row.reason));
        }
        assert_eq!(TABLE.len(), Reason::ShutDown as usize + 1);
    }
}
