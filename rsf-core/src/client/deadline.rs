//! The logical call's time.

use std::time::Duration;

use super::stack::{Guard, OutboundCall, Outcome};
use crate::error::RpcError;
use crate::moment::Moment;
use crate::outcome::Reason;

/// Sets when the call's time is over: the policy's or the caller's timeout, whichever is shorter, and never later than the
/// call that is being handled while this one is made. What is behind it and waits keeps to it: the attempts, whose one timer
/// is for the deadline too, and a shard's agreement.
pub(crate) struct Deadline {}

impl Guard for Deadline {
    type Pass = ();

    #[inline(always)]
    fn enter(call: &mut OutboundCall) -> Result<(), Outcome> {
        call.deadline = due(call).at;
        if call.deadline <= call.now && !call.pool().is_empty() {
            // Nothing is sent, and no instance is blamed for a time that was over before. (Where there is no instance,
            // routing says so, which tells more than that waiting for the first list took all the time.)
            return Err(Err(over(call, false)));
        }
        Ok(())
    }
}

/// When a call's time is over, and who says so.
pub(super) struct Due {
    pub(super) at: Moment,
    /// The same by its caller or by policy.
    own: Moment,
    /// The call that is being handled while this one is made leaves less than that.
    inherits: bool,
}

#[inline(always)]
pub(super) fn due(call: &OutboundCall) -> Due {
    let policy = call.policy().call.timeout_ms;
    let own = match call.options.timeout {
        Some(own) => call.begun.plus_millis(policy).min(call.begun + own),
        None => call.begun.plus_millis(policy),
    };
    let inherited = call
        .options
        .parent
        .as_ref()
        .and_then(|parent| parent.deadline())
        .map(Moment::from);
    Due {
        at: inherited.map_or(own, |inherited| inherited.min(own)),
        own,
        inherits: inherited.is_some_and(|inherited| inherited < own),
    }
}

/// The error of a call whose time is over; `reached` says whether its handler can have run.
pub(super) fn over(call: &OutboundCall, reached: bool) -> RpcError {
    let path = &call.method().path;
    let Due { own, inherits, .. } = due(call);
    let message = if inherits {
        format!("{path}: the time left by the call that made this one is over")
    } else {
        let origin = call
            .policy()
            .origins
            .get("timeout_ms")
            .map_or("built-in", |origin| origin);
        let origin = if call
            .options
            .timeout
            .is_some_and(|own| own <= Duration::from_millis(call.policy().call.timeout_ms))
        {
            "the caller"
        } else {
            origin
        };
        format!(
            "{path}: no reply within {} ms (timeout set by {origin})",
            own.since(call.begun).as_millis()
        )
    };
    RpcError::new(Reason::Deadline, reached, message)
}
