//! Whether a further attempt may follow, and when: policy, the outcome, the provider's word, the deadline and the budget.

use std::time::Duration;

use super::{Again, Flight};
use crate::client::budget::Credit;
use crate::client::stack::OutboundCall;
use crate::error::RpcError;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::status::Pushback;

/// The next attempt.
pub(super) enum Next {
    /// After the pause that ends then. What never reached a provider takes no credit.
    Retry(Moment, Option<Credit>),
    /// Beside the newest one, unless that has an outcome by then.
    Hedge(Moment),
}

impl Flight {
    /// Plans what follows a failure: nothing, a further attempt after a pause, or, where it was not the `newest` attempt that
    /// failed, what was planned already.
    pub(super) fn plan(&mut self, call: &OutboundCall, error: &RpcError, newest: bool, now: Moment) {
        let pushback = error.status().pushback();
        let final_ = error.reason().outcome().retry == Again::Never;
        if pushback == Some(Pushback::Never) {
            self.spent = true;
        }
        if final_ || pushback == Some(Pushback::Never) {
            self.closed = true;
            self.next = None;
        }
        match (&self.next, pushback) {
            (Some(Next::Retry(..)), _) => return,
            (Some(Next::Hedge(at)), Some(Pushback::After(pause))) if !newest => {
                self.next = Some(Next::Hedge((now + pause).max(*at)));
            }
            _ => {}
        }
        if !newest {
            return;
        }
        self.next = None;
        if !self.may_follow(call, error.reason(), error.may_have_run()) {
            return;
        }
        let at = now + self.pause(call, pushback);
        // Nobody waits for an attempt that starts after the deadline.
        if at >= call.deadline {
            return;
        }
        match error.reason().outcome().credit {
            true => self.next = self.credit(call, now).map(|credit| Next::Retry(at, Some(credit))),
            false => self.next = Some(Next::Retry(at, None)),
        }
    }

    /// The provider's pause, or full jitter below a bound that doubles. (Another instance needs no pause for its own sake;
    /// it protects the service as a whole.)
    fn pause(&mut self, call: &OutboundCall, pushback: Option<Pushback>) -> Duration {
        if let Some(Pushback::After(pause)) = pushback {
            self.pauses = 0;
            return pause;
        }
        let retry = &call.policy().call.retry;
        let most = retry
            .backoff_ms
            .saturating_mul(1 << self.pauses.min(31))
            .min(retry.max_backoff_ms);
        self.pauses += 1;
        Duration::from_millis(most).mul_f64(fastrand::f64())
    }

    /// When a hedge of the newest attempt is due.
    pub(super) fn hedge_time(&self, call: &OutboundCall, now: Moment) -> Option<Moment> {
        let policy = call.policy();
        let retry = &policy.call.retry;
        if !retry.hedges()
            || self.made >= retry.attempts
            || self.closed
            || self.inherited
            || !call.is_idempotent()
        {
            return None;
        }
        let measured = retry.hedge_percentile.and_then(|percentile| {
            let latency = &call.method().latency;
            latency.percentile(percentile)
        });
        let delay = measured.or_else(|| retry.hedge_delay_ms.map(Duration::from_millis))?;
        let at = now + delay;
        (at < call.deadline).then_some(at)
    }

    /// Whether a further attempt may follow an outcome, the budget apart.
    pub(super) fn may_follow(&self, call: &OutboundCall, reason: Reason, reached: bool) -> bool {
        let policy = call.policy();
        let retry = &policy.call.retry;
        !self.closed
            && self.made < retry.attempts
            && reason.is_retryable(reached, call.is_idempotent())
            && retry.reasons.allow(reason)
            && (!self.inherited || reason.never_reaches_a_provider())
    }

    pub(super) fn credit(&mut self, call: &OutboundCall, now: Moment) -> Option<Credit> {
        let credit = call.credit(now);
        self.spent |= credit.is_none();
        credit
    }
}
