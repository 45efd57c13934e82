//! Whether a call may come in at all: meant for this instance, whole, and in time.

use std::time::Duration;

use tokio::time::Instant;

use super::stack::{AdmitRules, InboundCall, Stage};
use crate::error::framework_status;
use crate::message::Response;
use crate::outcome::Reason;
use crate::status::Status;
use crate::timer::until;
use crate::wire::Frame;
use crate::wire::headers::TARGET;

/// Refuses what is not for us; ends what outlives its deadline.
pub(super) struct Admit<S> {
    inner: S,
    rules: AdmitRules,
}

impl<S> Admit<S> {
    pub(super) fn new(inner: S, rules: AdmitRules) -> Self {
        Admit { inner, rules }
    }
}

/// A caller ends its call at the deadline by itself, and knows better who set it. Only where it does not, the provider
/// does, a little later.
const GRACE: Duration = Duration::from_millis(5);

impl<S: Stage> Stage for Admit<S> {
    async fn call(&self, call: InboundCall) -> Result<Response<Frame>, Status> {
        let target = call.context.metadata().get(TARGET.as_str());
        check_target(self.rules.identity.as_deref(), target)?;
        if let Err(status) = &call.message {
            return Err(status.clone());
        }
        let Some(deadline) = call.context.deadline() else {
            return self.inner.call(call).await;
        };
        let method = call.method.clone();
        let expired = |where_| {
            framework_status(
                Reason::Deadline,
                format!("{}: the deadline passed {where_}", method.path),
            )
        };
        if deadline <= Instant::now() {
            return Err(expired("before the call was admitted"));
        }
        match until(&self.rules.timers, deadline + GRACE, self.inner.call(call)).await {
            Some(result) => result,
            None => Err(expired("while the call waited or was handled")),
        }
    }
}

/// Refuses what is meant for another instance or namespace.
pub(super) fn check_target(identity: Option<&str>, target: Option<&str>) -> Result<(), Status> {
    match (identity, target) {
        (Some(identity), Some(target)) if identity != target => {
            let problem =
                format!("this is instance `{identity}`, the call is for `{target}`; the list is out of date");
            Err(framework_status(Reason::WrongInstance, problem))
        }
        _ => Ok(()),
    }
}
