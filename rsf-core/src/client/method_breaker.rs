//! The method breaker: fails fast where a method fails or is slow as a whole.
//!
//! [`circuit`] is the mechanism, over a [`window`] of counts.

mod circuit;
mod window;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::circuit::{Circuit, Ending, Refusal, Trial};
use self::window::Verdict;
use super::attempt::FAIR_TIME;
use super::stack::{OutboundCall, Stage};
use crate::error::RpcError;
use crate::metrics::MethodBreakerMetrics;
use crate::outcome::Reason;
use crate::policy::{MethodBreakerRules, MethodPolicy};
use crate::wire::UnaryReply;

/// Refuses calls while the method's breaker is open.
pub(crate) struct MethodBreaker<S> {
    inner: S,
}

impl<S> MethodBreaker<S> {
    pub(crate) fn new(inner: S) -> Self {
        MethodBreaker { inner }
    }
}

impl<S: Stage> Stage for MethodBreaker<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        let pass = match &call.guards().breaker {
            None => None,
            Some(breaker) => Some(breaker.admit(call)?),
        };
        let result = self.inner.call(call).await;
        if let Some(pass) = pass {
            pass.settle(result.as_ref().err());
        }
        result
    }
}

/// A method's breaker as one snapshot rules it.
pub(crate) struct Breaker {
    rules: MethodBreakerRules,
    /// The layer that switched it on.
    origin: Arc<str>,
    circuit: Arc<Circuit>,
}

impl Breaker {
    /// The breaker that policy wants, in the state of `previous`; `None` where policy wants none.
    pub(super) fn build(
        policy: &MethodPolicy,
        previous: Option<&Arc<Breaker>>,
        metrics: impl FnOnce() -> MethodBreakerMetrics,
    ) -> Option<Arc<Breaker>> {
        let rules = policy.call.method_breaker;
        if !rules.enabled {
            return None;
        }
        let circuit = match previous {
            Some(previous) => previous.circuit.clone(),
            None => Arc::new(Circuit::new(&rules, metrics())),
        };
        circuit.follow(&rules);
        let origin = policy.origins.get("method_breaker.enabled").cloned();
        Some(Arc::new(Breaker {
            rules,
            origin: origin.unwrap_or_else(|| "built-in".into()),
            circuit,
        }))
    }

    pub(super) fn state_name(&self) -> &'static str {
        self.circuit.state_name()
    }

    /// Why a call of the method at `path` would not be sent now. Asking changes nothing.
    pub(super) fn refusal(&self, path: &str) -> Option<String> {
        let refusal = self.circuit.refusal(&self.rules)?;
        Some(self.said(&refusal, path))
    }

    fn said(&self, refusal: &Refusal, path: &str) -> String {
        match refusal {
            Refusal::Open { left, why } => format!(
                "{path}: the method's breaker is open for another {} ms, because {why}; not sent (`method_breaker` of {})",
                left.as_millis().max(1),
                self.origin
            ),
            Refusal::Trying => format!(
                "{path}: the method's breaker is half-open until its {} trials have ended; not sent (`method_breaker` of {})",
                self.rules.half_open_calls, self.origin
            ),
        }
    }

    fn admit(self: &Arc<Self>, call: &OutboundCall) -> Result<Pass, RpcError> {
        let trial = self.circuit.admit(&self.rules).map_err(|refusal| {
            let message = self.said(&refusal, call.method().path.as_str());
            RpcError::new(Reason::BreakerOpen, false, message)
        })?;
        Ok(Pass {
            breaker: self.clone(),
            trial,
            begun: call.begun,
            deadline: call.deadline,
            fair_time: FAIR_TIME.min(Duration::from_millis(call.policy().call.timeout_ms) / 2),
            settled: false,
        })
    }

    /// What an error says about the method. The handler's own errors do not count unless policy names their codes.
    fn ending(&self, error: Option<&RpcError>, slow: bool) -> Ending {
        let Some(error) = error else {
            return Ending::Ran(Verdict { error: false, slow });
        };
        let named = error.reason() == Reason::Handler
            && self.rules.codes.is_some_and(|codes| codes.contains(error.code()));
        if named || error.reason().outcome().method_breaker {
            Ending::Ran(Verdict { error: true, slow })
        } else if error.may_have_run() {
            Ending::Ran(Verdict { error: false, slow })
        } else {
            Ending::Neutral
        }
    }
}

/// A call's pass through the breaker.
struct Pass {
    breaker: Arc<Breaker>,
    trial: Option<Trial>,
    begun: Instant,
    deadline: Instant,
    fair_time: Duration,
    settled: bool,
}

impl Pass {
    fn settle(mut self, error: Option<&RpcError>) {
        let now = Instant::now();
        let ending = self.breaker.ending(error, self.is_slow(now));
        self.end(ending, now);
    }

    fn is_slow(&self, now: Instant) -> bool {
        let limit = self.breaker.rules.slow_call_ms;
        limit.is_some_and(|limit| now - self.begun >= Duration::from_millis(limit))
    }

    fn end(&mut self, ending: Ending, now: Instant) {
        self.settled = true;
        let breaker = &self.breaker;
        breaker.circuit.settle(&breaker.rules, self.trial, ending, now);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        // Dropped by the deadline stage: no answer in a fair time is an error. By the caller: it says nothing.
        let now = Instant::now();
        let ending = if now >= self.deadline && now - self.begun >= self.fair_time {
            Ending::Ran(Verdict {
                error: true,
                slow: self.is_slow(now),
            })
        } else {
            Ending::Neutral
        };
        self.end(ending, now);
    }
}
