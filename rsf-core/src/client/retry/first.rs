//! The first attempt of a call, without what only further ones need.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::{Flight, hand_over};
use crate::client::attempt::Attempt;
use crate::client::stack::OutboundCall;
use crate::error::RpcError;
use crate::moment::Moment;
use crate::timer::Timer;
use crate::wire::UnaryReply;

/// The first attempt, which is all that most calls need. What goes beyond it is a [`Flight`].
pub(super) struct First<'a> {
    call: &'a OutboundCall,
    attempt: Option<Attempt>,
    /// When the attempt is overdue, or the call's time is over.
    due: Instant,
    timer: Option<Timer>,
    flight: Option<Box<Flight<'a>>>,
}

impl<'a> First<'a> {
    pub(super) fn new(call: &'a OutboundCall) -> Self {
        let mut first = First {
            call,
            attempt: None,
            due: call.deadline,
            timer: None,
            flight: None,
        };
        match Attempt::start(call, &call.snapshot, 0, &[], false, false, call.now) {
            Ok(attempt) => {
                first.due = attempt.time_out().map_or(first.due, |end| end.min(first.due));
                if call.policy().call.retry.hedges() {
                    let mut flight = Flight::new(call, Some(attempt));
                    flight.plan_hedge(call.now);
                    first.flight = Some(Box::new(flight));
                } else {
                    first.attempt = Some(attempt);
                }
            }
            Err(error) => {
                let mut flight = Flight::new(call, None);
                flight.closed = true;
                flight.failure = Some(error);
                first.flight = Some(Box::new(flight));
            }
        }
        first
    }

    /// Goes on with whatever a call can come to.
    #[cold]
    fn take_off(&mut self, attempt: Attempt) -> &mut Flight<'a> {
        let mut flight = Flight::new(self.call, Some(attempt));
        flight.timer = self.timer.take();
        self.flight.insert(Box::new(flight))
    }
}

impl Future for First<'_> {
    type Output = (Result<UnaryReply, RpcError>, Moment);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let first = self.get_mut();
        if let Some(attempt) = &mut first.attempt {
            let outcome = attempt.poll(first.call, cx);
            match outcome {
                Poll::Ready((Ok(reply), now)) if first.call.log.is_none() => {
                    hand_over(first.call, true);
                    first.attempt = None;
                    return Poll::Ready((Ok(reply), now));
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    hand_over(first.call, attempt.is_sent());
                    let timers = first.call.channel.shared.runtime.timers();
                    ready!(first.timer.get_or_insert_with(|| timers.at(first.due)).poll(cx));
                }
            }
            if let Some(attempt) = first.attempt.take() {
                let flight = first.take_off(attempt);
                if let Poll::Ready((result, now)) = outcome
                    && let Some(reply) = flight.take_in(0, result, now)
                {
                    return Poll::Ready((Ok(reply), now));
                }
            }
        }
        match &mut first.flight {
            Some(flight) => flight.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            // Nobody waits for the call any more; the flight's end says what that means.
            self.take_off(attempt);
        }
    }
}
