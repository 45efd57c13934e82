//! The attempts of a call as the call holds them: the first one, without what only further ones need.

use std::task::{Context, Poll};

use super::{Flight, hand_over};
use crate::client::attempt::{Attempt, Turn};
use crate::client::stack::{OutboundCall, Outcome};
use crate::error::RpcError;
use crate::moment::Moment;
use crate::timer::Timer;

/// The first attempt, which is all that most calls need. What goes beyond it is a [`Flight`].
pub(in crate::client) struct Attempts {
    first: Option<Attempt>,
    /// When the first attempt is overdue, or the call's time is over.
    due: Moment,
    timer: Option<Timer>,
    flight: Option<Box<Flight>>,
}

impl Attempts {
    /// Without an attempt yet.
    #[inline(always)]
    pub(in crate::client) fn new(call: &OutboundCall) -> Attempts {
        Attempts {
            first: None,
            due: call.deadline,
            timer: None,
            flight: None,
        }
    }

    /// Sends the first attempt.
    #[inline(always)]
    pub(in crate::client) fn start(&mut self, call: &OutboundCall) {
        match Attempt::start(&mut self.first, call, &call.snapshot, Turn::first(), call.now) {
            Ok(_) if call.policy().call.retry.hedges() => {
                let mut flight = Flight::new(call, self.first.take());
                flight.plan_hedge(call, call.now);
                self.flight = Some(Box::new(flight));
            }
            Ok(attempt) => {
                if let Some(end) = attempt.time_out() {
                    self.due = end.min(call.deadline);
                }
            }
            Err(error) => self.fail(call, error),
        }
    }

    #[cold]
    fn fail(&mut self, call: &OutboundCall, error: RpcError) {
        let mut flight = Flight::new(call, None);
        flight.closed = true;
        flight.failure = Some(error);
        self.flight = Some(Box::new(flight));
    }

    /// Puts the call's outcome into `place`, as soon as it is there. The call's clock then stands at the time when it came.
    #[inline(always)]
    pub(in crate::client) fn poll(
        &mut self,
        call: &mut OutboundCall,
        cx: &mut Context<'_>,
        place: &mut Option<Outcome>,
    ) {
        if let Some(first) = &mut self.first {
            first.poll(call, cx, place);
            match place {
                Some(Ok(_)) if call.options.log().is_none() => {
                    hand_over(call, true);
                    self.first = None;
                    return;
                }
                Some(_) => self.take_in(call, place),
                None => {
                    hand_over(call, first.is_sent());
                    let timers = call.channel.shared.runtime.timers();
                    let timer = self.timer.get_or_insert_with(|| timers.at(self.due));
                    if timer.poll(cx).is_pending() {
                        return;
                    }
                    self.take_off(call);
                }
            }
        }
        if let (Some(flight), None) = (&mut self.flight, &place)
            && let Poll::Ready(outcome) = flight.poll(call, cx)
        {
            *place = Some(outcome);
        }
    }

    /// The first attempt's outcome, where that is not the call's at once.
    #[cold]
    fn take_in(&mut self, call: &OutboundCall, place: &mut Option<Outcome>) {
        self.take_off(call);
        if let (Some(flight), Some(outcome)) = (&mut self.flight, place.take()) {
            *place = flight.take_in(call, 0, outcome).map(Ok);
        }
    }

    /// Nobody waits for the call any more.
    pub(in crate::client) fn abandon(&mut self, call: &OutboundCall) {
        self.take_off(call);
        if let Some(flight) = &mut self.flight {
            flight.abandon(call);
        }
    }

    /// Goes on with whatever a call can come to, if it has not.
    #[cold]
    fn take_off(&mut self, call: &OutboundCall) {
        if let Some(first) = self.first.take() {
            let mut flight = Flight::new(call, Some(first));
            flight.timer = self.timer.take();
            self.flight = Some(Box::new(flight));
        }
    }
}
