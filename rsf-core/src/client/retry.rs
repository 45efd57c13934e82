//! Attempts: when a further one may start, and which one's outcome is the call's.
//!
//! An attempt whose time is over stays alive beside its successor, and whichever *succeeds* first is the result, even a
//! late earlier one. A failure is the result only when no attempt is left. Losers are cancelled by dropping them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::attempt::Attempt;
use super::endpoint::Endpoint;
use super::stack::{OutboundCall, Stage};
use crate::error::{AttemptRecord, RpcError};
use crate::outcome::Reason;
use crate::wire::UnaryReply;

/// The innermost stage: runs attempts until one succeeds or none may follow.
pub(crate) struct Retry {}

impl Retry {
    pub(crate) fn new() -> Self {
        Retry {}
    }
}

impl Stage for Retry {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        call.snapshot.budget.deposit(call.begun);
        Flight::begin(call).await
    }
}

/// The attempts of one call.
struct Flight<'a> {
    call: &'a OutboundCall,
    under_way: Vec<Attempt>,
    ended: Vec<AttemptRecord>,
    tried: Vec<Arc<Endpoint>>,
    /// When the next attempt starts, or when the newest one's time is over.
    timer: Option<Pin<Box<Sleep>>>,
    next: Next,
    last_failure: Option<RpcError>,
    /// Whether an attempt that has ended can have reached the handler.
    reached: bool,
}

/// What the timer stands for.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    /// Nothing: no timer runs.
    Nothing,
    /// The newest attempt's time is over.
    Timeout,
    /// The backoff is over.
    Start,
}

impl<'a> Flight<'a> {
    fn begin(call: &'a OutboundCall) -> Self {
        let mut flight = Flight {
            call,
            under_way: Vec::with_capacity(1),
            ended: Vec::new(),
            tried: Vec::new(),
            timer: None,
            next: Next::Nothing,
            last_failure: None,
            reached: false,
        };
        flight.start();
        flight
    }

    fn start(&mut self) {
        let number = self.tried.len() as u32;
        let may_have_run = self.reached || self.under_way.iter().any(Attempt::is_sent);
        match Attempt::start(self.call, number, &self.tried, may_have_run) {
            Ok(attempt) => {
                self.tried.push(attempt.endpoint().clone());
                self.under_way.push(attempt);
                match self.call.policy().call.attempt_timeout_ms {
                    Some(limit) if self.may_follow(Reason::AttemptTimeout) => {
                        self.set_timer(Duration::from_millis(limit), Next::Timeout)
                    }
                    _ => self.next = Next::Nothing,
                }
            }
            Err(error) => self.last_failure = Some(error),
        }
    }

    fn set_timer(&mut self, after: Duration, next: Next) {
        let at = Instant::now() + after;
        self.next = next;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => {
                let _timers = self.call.channel.shared.runtime.handle().enter();
                self.timer = Some(Box::pin(tokio::time::sleep_until(at)));
            }
        }
    }

    /// Whether policy has room for a further attempt after an outcome that leaves the handler possibly run.
    fn may_follow(&self, reason: Reason) -> bool {
        let policy = self.call.policy();
        (self.tried.len() as u32) < policy.call.retry.attempts
            && RpcError::new(reason, true, "").is_retryable(self.call.is_idempotent())
    }

    /// Plans a further attempt where policy, the outcome and the budget allow it.
    fn plan(&mut self, error: &RpcError) {
        let policy = self.call.policy();
        let made = self.tried.len() as u32;
        if made == 0 || made >= policy.call.retry.attempts || !error.is_retryable(self.call.is_idempotent()) {
            return;
        }
        let metrics = &self.call.channel.shared.metrics;
        if error.reason().outcome().credit && !self.call.snapshot.budget.withdraw(Instant::now()) {
            metrics.retry_budget_exhausted.inc();
            return;
        }
        metrics.retries.inc();
        let retry = &policy.call.retry;
        let most = retry
            .backoff_ms
            .saturating_mul(1 << (made - 1))
            .min(retry.max_backoff_ms);
        // Full jitter. Another instance needs no pause for its own sake; the pause protects the service as a whole.
        self.set_timer(Duration::from_millis(most).mul_f64(fastrand::f64()), Next::Start);
    }

    fn settle(&mut self, place: usize, error: RpcError) {
        let attempt = self.under_way.remove(place);
        self.ended.push(attempt.record(Some(error.reason())));
        self.reached |= error.may_have_run();
        if self.next != Next::Start {
            // The timer of an attempt that has ended means nothing any more.
            if place == self.under_way.len() {
                self.next = Next::Nothing;
            }
            if self.next == Next::Nothing {
                self.plan(&error);
            }
        }
        self.last_failure = Some(error);
    }

    fn fire(&mut self) {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => {}
            Next::Start => self.start(),
            Next::Timeout => {
                if let Some(newest) = self.under_way.last_mut() {
                    newest.count_timeout();
                }
                let error = RpcError::new(Reason::AttemptTimeout, true, "the attempt's time is over");
                self.plan(&error);
                // The attempt has used up its time already.
                if self.next == Next::Start {
                    self.next = Next::Nothing;
                    self.start();
                }
            }
        }
    }

    /// Tells the caller of a one-way call that a connection has taken the request.
    fn hand_over(&self, taken: bool) {
        if let Some(caller) = &self.call.one_way
            && taken
            && caller.done()
        {
            self.call.channel.shared.metrics.one_way.inc();
        }
    }

    fn give_up(&mut self) -> RpcError {
        let error = self.last_failure.take();
        let error =
            error.unwrap_or_else(|| RpcError::new(Reason::NoInstance, false, "no attempt could be made"));
        // The last attempt may have been refused unseen, and an earlier one not.
        error
            .or_reached(self.reached)
            .with_attempts(std::mem::take(&mut self.ended))
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // Given up with attempts under way, or between two: whoever gave up says what was tried.
        if self.under_way.is_empty() && self.ended.is_empty() {
            return;
        }
        let mut given_up = self.call.given_up.lock();
        given_up.attempts = std::mem::take(&mut self.ended);
        given_up.reached = self.reached;
        for attempt in &self.under_way {
            given_up.attempts.push(attempt.record(None));
            given_up.reached |= attempt.is_sent();
        }
    }
}

impl Future for Flight<'_> {
    type Output = Result<UnaryReply, RpcError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let flight = self.get_mut();
        loop {
            let mut place = 0;
            while let Some(attempt) = flight.under_way.get_mut(place) {
                match Pin::new(attempt).poll(cx) {
                    Poll::Ready(Ok(reply)) => {
                        flight.hand_over(true);
                        flight.under_way.clear();
                        flight.ended.clear();
                        return Poll::Ready(Ok(reply));
                    }
                    Poll::Ready(Err(error)) => {
                        flight.hand_over(!matches!(error.reason(), Reason::Connect | Reason::Refused));
                        flight.settle(place, error);
                    }
                    Poll::Pending => {
                        flight.hand_over(flight.under_way[place].is_sent());
                        place += 1;
                    }
                }
            }
            if flight.next == Next::Nothing {
                return if flight.under_way.is_empty() {
                    Poll::Ready(Err(flight.give_up()))
                } else {
                    Poll::Pending
                };
            }
            match &mut flight.timer {
                Some(timer) => std::task::ready!(timer.as_mut().poll(cx)),
                None => return Poll::Pending,
            }
            flight.fire();
        }
    }
}
