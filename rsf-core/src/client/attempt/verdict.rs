//! What an attempt's outcome says: to its caller, and about its instance.

use crate::client::balance::Observed;
use crate::client::breaker::{Admission, Failure};
use crate::client::endpoint::Endpoint;
use crate::error::{REASON, RpcError};
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::status::{Code, Status};
use crate::wire::headers::REPLAYED;
use crate::wire::{Fate, WireError};

/// Whether the instance refused because it has too much to do.
fn is_busy(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ProviderLimit | Reason::QueueFull | Reason::QueueTimeout
    )
}

/// What an attempt's outcome says about its instance: to its breaker here, to the balancer by the answer; `None` where
/// it says nothing. `fair` tells whether the instance had the time to answer.
pub(in crate::client) fn settle(
    endpoint: &Endpoint,
    admission: &mut Admission,
    error: Option<&RpcError>,
    fair: bool,
    now: Moment,
) -> Option<Observed> {
    let breaker = &endpoint.breaker;
    Some(match error {
        // The provider has looked at the clock first. It means the same as its silence would have.
        Some(error) if error.reason() == Reason::Deadline => {
            if !fair {
                breaker.release(admission);
                return None;
            }
            breaker.failed(admission, Failure::Timeout, now);
            Observed::Failed
        }
        Some(error) if error.reason().outcome().node_breaker => {
            breaker.failed(admission, Failure::Error, now);
            Observed::Failed
        }
        Some(error) if is_busy(error.reason()) => {
            breaker.failed(admission, Failure::Busy, now);
            Observed::Refused
        }
        // Refused before the handler: says nothing about the instance's health either way.
        Some(error) if !error.may_have_run() => {
            breaker.refused(admission, now);
            Observed::Refused
        }
        _ => {
            breaker.succeeded(admission);
            Observed::Answered
        }
    })
}

/// What a status that came back means: RSF's reason where the provider named it, else gRPC's conventions. `overdue` tells
/// whether the call's time was over by then.
pub(in crate::client) fn answered(status: Status, overdue: bool) -> RpcError {
    let named = status.metadata().get(REASON).and_then(Reason::from_name);
    let reason = named.unwrap_or(match status.code() {
        // A replay is the handler's own word: it stays the same, and the instance that passes it on is well.
        _ if status.metadata().get(REPLAYED).is_some() => Reason::Handler,
        Code::Unavailable => Reason::Unavailable,
        Code::Unimplemented => Reason::Unimplemented,
        // A peer that only knows gRPC watches the same clock, and its word may be here before this side's coarse timer fires.
        Code::DeadlineExceeded if overdue => Reason::Deadline,
        _ => Reason::Handler,
    });
    // Only a provider that names its reason promises that; a bare code may be the handler's own.
    let never_ran = matches!(
        named,
        Some(
            Reason::ProviderLimit
                | Reason::QueueFull
                | Reason::QueueTimeout
                | Reason::Denied
                | Reason::Unauthenticated
                | Reason::WrongInstance
                | Reason::WrongShard
                | Reason::Refused
                | Reason::Unimplemented
                | Reason::DedupUnavailable
        )
    );
    RpcError::with_status(reason, !never_ran, status)
}

pub(super) fn unanswered(error: WireError) -> RpcError {
    let (reason, reached) = match error.fate {
        // The connection was closing: no word about the instance, which a new connection may reach.
        Fate::NotWritten | Fate::Refused => (Reason::Refused, false),
        Fate::Written => (Reason::ConnectionLost, true),
    };
    let message = match error.fate {
        Fate::NotWritten => format!("not sent: {}", error.reason),
        Fate::Refused => format!("refused unseen by the provider: {}", error.reason),
        Fate::Written => format!(
            "the connection broke before the reply; the handler may have run: {}",
            error.reason
        ),
    };
    RpcError::new(reason, reached, message)
}
