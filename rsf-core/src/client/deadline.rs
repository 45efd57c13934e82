//! The logical call's time.

use std::time::Duration;

use tokio::time::Instant;

use super::stack::{OutboundCall, Stage};
use crate::error::RpcError;
use crate::outcome::Reason;
use crate::timer::until;
use crate::wire::UnaryReply;

/// Ends the call when its time is over: the policy's or the caller's timeout, whichever is shorter, and never later
/// than the call that is being handled while this one is made.
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    pub(crate) fn new(inner: S) -> Self {
        Deadline { inner }
    }
}

impl<S: Stage> Stage for Deadline<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        let Due {
            at,
            timeout,
            inherits,
        } = due(call);
        call.deadline = at;
        if call.deadline <= Instant::now() && !call.pool().is_empty() {
            // Nothing is sent, and no instance is blamed for a time that was over before. (Where there is no instance,
            // routing says so, which tells more than that waiting for the first list took all the time.)
            return Err(over(call, timeout, inherits));
        }
        let timers = call.channel.shared.runtime.timers().clone();
        let outcome = until(&timers, call.deadline, self.inner.call(call)).await;
        outcome.unwrap_or_else(|| Err(over(call, timeout, inherits)))
    }
}

/// When a call's time is over, and who says so.
pub(super) struct Due {
    pub(super) at: Instant,
    /// The call's own time, by its caller or by policy.
    timeout: Duration,
    /// The call that is being handled while this one is made leaves less than that.
    inherits: bool,
}

pub(super) fn due(call: &OutboundCall) -> Due {
    let policy = Duration::from_millis(call.policy().call.timeout_ms);
    let timeout = call.timeout.map_or(policy, |own| own.min(policy));
    let own = call.begun + timeout;
    let inherited = call.parent.as_ref().and_then(|parent| parent.deadline());
    Due {
        at: inherited.map_or(own, |inherited| inherited.min(own)),
        timeout,
        inherits: inherited.is_some_and(|inherited| inherited < own),
    }
}

fn over(call: &OutboundCall, timeout: Duration, inherited: bool) -> RpcError {
    let path = &call.method().path;
    let message = if inherited {
        format!("{path}: the time left by the call that made this one is over")
    } else {
        let origin = call
            .policy()
            .origins
            .get("timeout_ms")
            .map_or("built-in", |origin| origin);
        let origin = if call
            .timeout
            .is_some_and(|own| own <= Duration::from_millis(call.policy().call.timeout_ms))
        {
            "the caller"
        } else {
            origin
        };
        format!(
            "{path}: no reply within {} ms (timeout set by {origin})",
            timeout.as_millis()
        )
    };
    let given_up = std::mem::take(&mut *call.given_up.lock());
    let error =
        RpcError::new(Reason::Deadline, given_up.reached, message).with_retries_spent(given_up.retries_spent);
    match given_up.attempts.last().map(|attempt| attempt.instance.clone()) {
        Some(instance) => error.at(&instance).with_attempts(given_up.attempts),
        None => error,
    }
}
