//! Attempts: when a further one may start, and which one's outcome is the call's.
//!
//! A further attempt follows a failure after a pause, an attempt whose time is over at once, and (as a *hedge*) one that has
//! not answered for as long as policy waits. What is under way stays alive beside its successor, and whichever *succeeds*
//! first is the result, even a late earlier one. A failure is the result only when no attempt is left. Losers are cancelled
//! by dropping them.
//!
//! Each further attempt takes credit of the budget that the consumer has for the service, but where the request was refused
//! unseen. Along a chain of calls attempts add up and do not multiply: a call that is made in the handler of a further
//! attempt inherits that no credit is left, and of a failure after which credit was spent the caller above is told to
//! attempt it no further.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

pub(super) use self::attempts::Attempts;
use self::plan::Next;
use super::attempt::{Attempt, End, Turn};
use super::budget::Credit;
use super::deadline::over;
use super::endpoint::Endpoint;
use super::snapshot::ServiceSnapshot;
use super::stack::{OutboundCall, Outcome};
use crate::error::{AttemptRecord, RpcError};
use crate::moment::Moment;
use crate::outcome::{Reason, Retry as Again};
use crate::timer::Timer;
use crate::wire::UnaryReply;

mod attempts;
mod plan;

/// Tells the caller of a one-way call that a connection has taken the request.
#[inline(always)]
fn hand_over(call: &OutboundCall, taken: bool) {
    if let Some(caller) = call.options.one_way()
        && taken
        && caller.done()
    {
        call.channel.shared.metrics.one_way.inc();
    }
}

/// The attempts of one call, however many.
struct Flight {
    /// Oldest first.
    under_way: Vec<Attempt>,
    ended: Vec<AttemptRecord>,
    /// Instances that this round of attempts has been to; empty before the second attempt.
    tried: Vec<Arc<Endpoint>>,
    /// Attempts so far.
    made: u32,
    next: Option<Next>,
    timer: Option<Timer>,
    /// Pauses so far, since the provider set one.
    pauses: u32,
    /// No further attempt may start.
    closed: bool,
    /// Somebody above has spent the credit already.
    inherited: bool,
    /// Credit was spent, or there was none.
    spent: bool,
    failure: Option<RpcError>,
    /// Whether an attempt that has ended can have reached the handler.
    reached: bool,
}

impl Flight {
    fn new(call: &OutboundCall, first: Option<Attempt>) -> Self {
        Flight {
            made: first.is_some().into(),
            under_way: first.into_iter().collect(),
            ended: Vec::new(),
            tried: Vec::new(),
            next: None,
            timer: None,
            pauses: 0,
            closed: false,
            inherited: call
                .options
                .parent
                .as_ref()
                .is_some_and(|parent| parent.is_retried()),
            spent: false,
            failure: None,
            reached: false,
        }
    }

    fn plan_hedge(&mut self, call: &OutboundCall, now: Moment) {
        self.next = self.hedge_time(call, now).map(Next::Hedge);
    }

    /// Takes in the outcome of the attempt at `place`; returns it where it is the call's.
    fn take_in(&mut self, call: &OutboundCall, place: usize, outcome: Outcome) -> Option<UnaryReply> {
        let now = call.now;
        match outcome {
            Ok(reply) => {
                hand_over(call, true);
                self.succeed(call, place, now);
                Some(reply)
            }
            Err(error) => {
                let unseen = matches!(error.reason(), Reason::Connect | Reason::Refused);
                hand_over(call, !unseen);
                self.settle(call, place, error, now);
                None
            }
        }
    }

    /// Starts an attempt. The credit goes back where there is no instance for it.
    fn start(
        &mut self,
        call: &OutboundCall,
        snapshot: &ServiceSnapshot,
        credit: Option<Credit>,
        hedge: bool,
        now: Moment,
    ) {
        let turn = Turn {
            previous: self.made,
            tried: &self.tried,
            may_have_run: self.may_have_run(),
            hedge,
        };
        let mut place = None;
        let problem = Attempt::start(&mut place, call, snapshot, turn, now).err();
        if let Some(attempt) = place {
            self.made += 1;
            if self.made > 1 {
                self.note_tried(attempt.endpoint());
                let metrics = &call.channel.shared.metrics;
                if hedge { &metrics.hedges } else { &metrics.retries }.inc();
            }
            if let Some(credit) = credit {
                credit.spend();
                self.spent = true;
            }
            self.under_way.push(attempt);
            self.plan_hedge(call, now);
        }
        if let Some(error) = problem {
            self.closed = true;
            // What the attempts before ended with tells more.
            self.failure.get_or_insert(error);
        }
    }

    fn start_further(&mut self, call: &OutboundCall, credit: Option<Credit>, hedge: bool, now: Moment) {
        if let (true, Some(first)) = (self.tried.is_empty(), self.under_way.first()) {
            self.tried.push(first.endpoint().clone());
        }
        // An instance that came since the call began is as good as the others.
        let newest = call.snapshot.successor(&call.channel);
        match newest.filter(|newest| newest.keeps_pool(call.pool, &call.snapshot)) {
            Some(newest) => self.start(call, &newest, credit, hedge, now),
            None => self.start(call, &call.snapshot, credit, hedge, now),
        }
    }

    /// Where no instance was left that had not been tried, a new round begins.
    fn note_tried(&mut self, endpoint: &Arc<Endpoint>) {
        if self.tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) {
            self.tried.clear();
        }
        self.tried.push(endpoint.clone());
    }

    fn settle(&mut self, call: &OutboundCall, place: usize, error: RpcError, now: Moment) {
        let attempt = self.under_way.remove(place);
        if self.tried.is_empty() {
            self.tried.push(attempt.endpoint().clone());
        }
        self.ended
            .push(attempt.record(call.begun, now, End::Failed(error.reason())));
        self.reached |= error.may_have_run();
        self.plan(call, &error, place == self.under_way.len(), now);
        // An answer tells more than a further attempt that came to nothing.
        let final_ = |error: &RpcError| error.reason().outcome().retry == Again::Never;
        if final_(&error) || !self.failure.as_ref().is_some_and(final_) {
            self.failure = Some(error);
        }
    }

    /// The next moment at which something is due: at the latest the call's end.
    fn due(&self, call: &OutboundCall) -> Moment {
        let mut due = call.deadline;
        if let Some(Next::Retry(at, _) | Next::Hedge(at)) = &self.next {
            due = due.min(*at);
        }
        for attempt in &self.under_way {
            due = attempt.time_out().map_or(due, |end| end.min(due));
        }
        due
    }

    fn fire(&mut self, call: &OutboundCall, now: Moment) {
        let mut newest_is_over = false;
        for attempt in &mut self.under_way {
            // An older one has its successor already.
            newest_is_over = attempt.time_out().is_some_and(|end| end <= now);
            if newest_is_over {
                attempt.count_timeout(now);
            }
        }
        match self.next.take() {
            Some(Next::Retry(at, credit)) if at <= now => self.start_further(call, credit, false, now),
            Some(Next::Hedge(at)) if at <= now => {
                if let Some(credit) = self.credit(call, now) {
                    self.start_further(call, Some(credit), true, now);
                }
            }
            next => {
                let planned = matches!(next, Some(Next::Retry(..)));
                self.next = next;
                if newest_is_over
                    && !planned
                    && self.may_follow(call, Reason::AttemptTimeout, true)
                    && let Some(credit) = self.credit(call, now)
                {
                    // Without a pause: the attempt has used up its time already.
                    self.start_further(call, Some(credit), false, now);
                }
            }
        }
    }

    /// Polls the timer for what is due next.
    fn poll_due(&mut self, call: &OutboundCall, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.due(call);
        let timer = match &mut self.timer {
            Some(timer) => {
                if timer.moment() != due {
                    timer.reset(due);
                }
                timer
            }
            None => {
                let timers = call.channel.shared.runtime.timers();
                self.timer.insert(timers.at(due))
            }
        };
        timer.poll(cx)
    }

    fn succeed(&mut self, call: &OutboundCall, place: usize, now: Moment) {
        self.note_latency(call, now);
        if self.under_way.len() > 1 || call.options.log().is_some() {
            self.settle_losers(call, place, now);
        }
        self.under_way.clear();
        self.ended.clear();
    }

    fn settle_losers(&mut self, call: &OutboundCall, winner: usize, now: Moment) {
        let winner = self.under_way.remove(winner);
        let (took, fair) = (winner.elapsed(now), call.fair_time());
        for loser in &mut self.under_way {
            loser.overtaken(now, took, fair);
        }
        if let Some(log) = call.options.log() {
            self.ended.push(winner.record(call.begun, now, End::Succeeded));
            log.fill(self.take_records(call, now));
        }
    }

    /// How long the first attempt took, or has taken so far where another one was faster: without those, the percentile would
    /// sink with each hedge.
    fn note_latency(&self, call: &OutboundCall, now: Moment) {
        if call.policy().call.retry.hedge_percentile.is_some()
            && let Some(first) = self.under_way.first().filter(|attempt| attempt.is_first())
        {
            call.method().latency.note(first.elapsed(now));
        }
    }

    /// Every attempt, first to last.
    fn take_records(&mut self, call: &OutboundCall, now: Moment) -> Vec<AttemptRecord> {
        let mut records = std::mem::take(&mut self.ended);
        let left = self.under_way.iter();
        records.extend(left.map(|attempt| attempt.record(call.begun, now, End::UnderWay)));
        records.sort_by_key(|record| record.begun);
        records
    }

    /// The same, and fills the log with them.
    fn tell_records(&mut self, call: &OutboundCall, now: Moment) -> Vec<AttemptRecord> {
        let records = self.take_records(call, now);
        if let Some(log) = call.options.log() {
            log.fill(records.clone());
        }
        records
    }

    /// Whether the handler can have run.
    fn may_have_run(&self) -> bool {
        self.reached || self.under_way.iter().any(Attempt::is_sent)
    }

    /// The call's time is over: whoever is silent is given up, and what has failed before is told.
    fn end_in_silence(&mut self, call: &OutboundCall, now: Moment) -> RpcError {
        self.note_latency(call, now);
        self.tell_parent(call);
        let fair = call.fair_time();
        for attempt in &mut self.under_way {
            attempt.ends_in_silence(now, fair);
        }
        let reached = self.may_have_run();
        let records = self.tell_records(call, now);
        self.under_way.clear();
        let error = over(call, reached).with_retries_spent(self.spent);
        match records.last().map(|attempt| attempt.instance.clone()) {
            Some(instance) => error.at(&instance).with_attempts(records),
            None => error,
        }
    }

    fn give_up(&mut self, call: &OutboundCall, now: Moment) -> RpcError {
        let failure = self.failure.take();
        let error =
            failure.unwrap_or_else(|| RpcError::new(Reason::NoInstance, false, "no attempt could be made"));
        if error.reason().outcome().retry != Again::Never {
            self.tell_parent(call);
        }
        let records = self.tell_records(call, now);
        // The last attempt may have been refused unseen, and an earlier one not.
        error
            .or_reached(self.reached)
            .with_retries_spent(self.spent)
            .with_attempts(records)
    }

    /// The handler that this call is made in will say with its own failure that it is to be attempted no further.
    fn tell_parent(&self, call: &OutboundCall) {
        if let (true, Some(parent)) = (self.spent, &call.options.parent) {
            parent.spend_retries();
        }
    }

    /// The call's outcome. Its clock then stands at the time when that came.
    fn poll(&mut self, call: &mut OutboundCall, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            let mut place = 0;
            while let Some(attempt) = self.under_way.get_mut(place) {
                let mut outcome = None;
                attempt.poll(call, cx, &mut outcome);
                match outcome {
                    Some(outcome) => {
                        if let Some(reply) = self.take_in(call, place, outcome) {
                            return Poll::Ready(Ok(reply));
                        }
                    }
                    None => {
                        hand_over(call, attempt.is_sent());
                        place += 1;
                    }
                }
            }
            if self.under_way.is_empty() && self.next.is_none() {
                return Poll::Ready(Err(self.give_up(call, call.now)));
            }
            ready!(self.poll_due(call, cx));
            call.now = Moment::now();
            if call.now >= call.deadline {
                return Poll::Ready(Err(self.end_in_silence(call, call.now)));
            }
            self.fire(call, call.now);
        }
    }

    /// Nobody waits for the call any more.
    fn abandon(&mut self, call: &OutboundCall) {
        if self.under_way.is_empty() && self.ended.is_empty() {
            return;
        }
        // Whoever goes at the call's own end was a moment faster than its timer.
        let now = Moment::now();
        if now >= call.deadline {
            if let Some(breaker) = &call.guards().breaker {
                breaker.count_silence(call, now);
            }
            self.end_in_silence(call, now);
        } else if let Some(log) = call.options.log() {
            log.fill(self.take_records(call, now));
        }
    }
}

#[cfg(test)]
mod model;
