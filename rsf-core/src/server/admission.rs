//! Whether a call may come in at all: meant for this instance, whole, and in time.

use std::pin::pin;
use std::time::Duration;

use super::provider::HostedMethod;
use super::stack::{Gate, InboundCall, Stage};
use crate::error::framework_status;
use crate::message::Response;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::status::Status;
use crate::timer::{Timers, until};
use crate::wire::Frame;
use crate::wire::headers::TARGET;

/// Refuses what is not for us, is broken, or comes too late.
pub(super) struct Admit {
    /// `namespace/instance`.
    identity: Option<String>,
}

impl Admit {
    pub(super) fn new(identity: Option<String>) -> Self {
        Admit { identity }
    }
}

impl Gate for Admit {
    #[inline]
    fn enter(&self, call: &mut InboundCall) -> Result<(), Status> {
        check_target(self.identity.as_deref(), call.context.metadata().header(&TARGET))?;
        if let Err(status) = &call.message {
            return Err(status.clone());
        }
        match call.context.deadline() {
            Some(deadline) if deadline <= call.arrived => {
                Err(expired(&call.method, "before the call was admitted"))
            }
            _ => Ok(()),
        }
    }
}

/// Ends what outlives its deadline, of the calls that wait for more than their handler; see
/// [`CallScope`](super::CallScope) for the others.
pub(super) struct Deadline<S> {
    inner: S,
    timers: Timers,
}

impl<S> Deadline<S> {
    pub(super) fn new(inner: S, timers: Timers) -> Self {
        Deadline { inner, timers }
    }
}

/// A caller ends its call at the deadline by itself, and knows better who set it. Only where it does not, the provider
/// does, a little later.
pub(super) const GRACE: Duration = Duration::from_millis(5);

impl<S: Stage> Stage for Deadline<S> {
    async fn call(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        let Some(deadline) = call.context.deadline() else {
            return self.inner.call(call).await;
        };
        let handled = {
            // Pinned here: passed by value, it would take its room twice.
            let handled = pin!(self.inner.call(call));
            until(&self.timers, Moment::from(deadline) + GRACE, handled).await
        };
        handled.unwrap_or_else(|| Err(outlived(&call.method)))
    }
}

/// A call that has come in, and whose deadline passed before it ended.
pub(super) fn outlived(method: &HostedMethod) -> Status {
    expired(method, "while the call waited or was handled")
}

fn expired(method: &HostedMethod, when: &str) -> Status {
    framework_status(
        Reason::Deadline,
        format!("{}: the deadline passed {when}", method.path),
    )
}

/// Refuses what is meant for another instance or namespace.
pub(super) fn check_target(identity: Option<&str>, target: Option<&[u8]>) -> Result<(), Status> {
    match (identity, target) {
        (Some(identity), Some(target)) if identity.as_bytes() != target => {
            let problem = format!(
                "this is instance `{identity}`, the call is for `{}`; the list is out of date",
                target.escape_ascii()
            );
            Err(framework_status(Reason::WrongInstance, problem))
        }
        _ => Ok(()),
    }
}
