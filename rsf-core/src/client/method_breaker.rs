//! The method breaker: fails fast where a method fails or is slow as a whole.
//!
//! [`circuit`] is the mechanism, over a [`window`] of counts.

mod circuit;
mod window;

use std::sync::Arc;
use std::time::Duration;

use self::circuit::{Circuit, Ending, Refusal, Trial};
use self::window::Verdict;
use super::stack::{Guard, OutboundCall, Outcome};
use crate::error::RpcError;
use crate::metrics::MethodBreakerMetrics;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::policy::{MethodBreakerRules, MethodPolicy};

/// Refuses calls while the method's breaker is open.
pub(crate) struct MethodBreaker {}

impl Guard for MethodBreaker {
    type Pass = Option<OnTrial>;

    #[inline(always)]
    fn enter(call: &mut OutboundCall) -> Result<Self::Pass, Outcome> {
        match &call.guards().breaker {
            None => Ok(None),
            Some(breaker) => breaker.admit(call).map_err(Err),
        }
    }

    #[inline(always)]
    fn leave(trial: Self::Pass, call: &mut OutboundCall, outcome: &mut Outcome) {
        // Asked for again: policy may have changed meanwhile.
        match (trial, &call.guards().breaker) {
            (Some(trial), _) => trial.settle(call, outcome.as_ref().err()),
            (None, Some(breaker)) => breaker.settle(call, None, outcome.as_ref().err()),
            (None, None) => {}
        }
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

    #[inline(always)]
    fn admit(self: &Arc<Self>, call: &OutboundCall) -> Result<Option<OnTrial>, RpcError> {
        let trial = self.circuit.admit(&self.rules).map_err(|refusal| {
            let message = self.said(&refusal, call.method().path.as_str());
            RpcError::new(Reason::BreakerOpen, false, message)
        })?;
        Ok(trial.map(|trial| OnTrial {
            breaker: self.clone(),
            trial: Some(trial),
        }))
    }

    /// A call that a closed breaker let through was given up at its own end.
    pub(super) fn count_silence(&self, call: &OutboundCall, now: Moment) {
        let took = now.since(call.begun);
        if took >= call.fair_time() {
            let slow = self.is_slow(|| took);
            let ending = Ending::Ran(Verdict { error: true, slow });
            self.circuit.settle(&self.rules, None, ending, now);
        }
    }

    /// Whether a call that took so long was slow. The time is asked for only where policy has a limit.
    #[inline(always)]
    fn is_slow(&self, took: impl FnOnce() -> Duration) -> bool {
        let limit = self.rules.slow_call_ms;
        limit.is_some_and(|limit| took() >= Duration::from_millis(limit))
    }

    /// Takes in how a call ended that was let through, as a trial where the breaker was half-open.
    #[inline(always)]
    fn settle(&self, call: &OutboundCall, trial: Option<Trial>, error: Option<&RpcError>) {
        let ending = self.ending(call, error);
        self.circuit.settle(&self.rules, trial, ending, call.now);
    }

    /// What an error says about the method. The handler's own errors do not count unless policy names their codes, and
    /// silence does not where the caller left no fair time for an answer.
    #[inline(always)]
    fn ending(&self, call: &OutboundCall, error: Option<&RpcError>) -> Ending {
        let took = || call.now.since(call.begun);
        let slow = self.is_slow(took);
        let Some(error) = error else {
            return Ending::Ran(Verdict { error: false, slow });
        };
        let named = error.reason() == Reason::Handler
            && self.rules.codes.is_some_and(|codes| codes.contains(error.code()));
        if error.reason() == Reason::Deadline && took() < call.fair_time() {
            Ending::Neutral
        } else if named || error.reason().outcome().method_breaker {
            Ending::Ran(Verdict { error: true, slow })
        } else if error.may_have_run() {
            Ending::Ran(Verdict { error: false, slow })
        } else {
            Ending::Neutral
        }
    }
}

/// A call that a half-open breaker let through. Dropped by its caller, it says nothing, and its place is free again.
pub(crate) struct OnTrial {
    breaker: Arc<Breaker>,
    trial: Option<Trial>,
}

impl OnTrial {
    #[inline(always)]
    fn settle(mut self, call: &OutboundCall, error: Option<&RpcError>) {
        let trial = self.trial.take();
        self.breaker.settle(call, trial, error);
    }
}

impl Drop for OnTrial {
    fn drop(&mut self) {
        if let Some(trial) = self.trial.take() {
            let breaker = &self.breaker;
            breaker
                .circuit
                .settle(&breaker.rules, Some(trial), Ending::Neutral, Moment::now());
        }
    }
}
