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

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderValue;
use smallvec::SmallVec;
use tokio::time::Instant;

use self::plan::Next;
use super::attempt::{Attempt, End};
use super::budget::Credit;
use super::endpoint::Endpoint;
use super::snapshot::ServiceSnapshot;
use super::stack::{OutboundCall, Stage};
use crate::error::{AttemptRecord, RpcError};
use crate::outcome::{Reason, Retry as Again};
use crate::timer::Timer;
use crate::wire::UnaryReply;
use crate::wire::headers::RETRIED;

mod plan;

/// The innermost stage: runs attempts until one succeeds or none may follow.
pub(crate) struct Retry {}

impl Retry {
    pub(crate) fn new() -> Self {
        Retry {}
    }
}

impl Stage for Retry {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        let inherited = call.parent.as_ref().is_some_and(|parent| parent.is_retried());
        if inherited {
            call.own.push((RETRIED, HeaderValue::from_static("1")));
        }
        Flight::begin(call, inherited).await
    }
}

/// The attempts of one call.
struct Flight<'a> {
    call: &'a OutboundCall,
    /// Oldest first.
    under_way: SmallVec<[Attempt; 1]>,
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

impl<'a> Flight<'a> {
    fn begin(call: &'a OutboundCall, inherited: bool) -> Self {
        let mut flight = Flight {
            call,
            under_way: SmallVec::new(),
            ended: Vec::new(),
            tried: Vec::new(),
            made: 0,
            next: None,
            timer: None,
            pauses: 0,
            closed: false,
            inherited,
            spent: false,
            failure: None,
            reached: false,
        };
        flight.start(&call.snapshot, None, false);
        flight
    }

    /// Starts an attempt. The credit goes back where there is no instance for it.
    fn start(&mut self, snapshot: &ServiceSnapshot, credit: Option<Credit>, hedge: bool) {
        let may_have_run = self.reached || self.under_way.iter().any(Attempt::is_sent);
        match Attempt::start(self.call, snapshot, self.made, &self.tried, may_have_run, hedge) {
            Ok(attempt) => {
                self.made += 1;
                if self.made > 1 {
                    self.note_tried(attempt.endpoint());
                    let metrics = &self.call.channel.shared.metrics;
                    if hedge { &metrics.hedges } else { &metrics.retries }.inc();
                }
                if let Some(credit) = credit {
                    credit.spend();
                    self.spent = true;
                }
                self.under_way.push(attempt);
                self.next = self.hedge_time().map(Next::Hedge);
            }
            Err(error) => {
                self.closed = true;
                // What the attempts before ended with tells more.
                self.failure.get_or_insert(error);
            }
        }
    }

    fn start_further(&mut self, credit: Option<Credit>, hedge: bool) {
        if let (true, Some(first)) = (self.tried.is_empty(), self.under_way.first()) {
            self.tried.push(first.endpoint().clone());
        }
        // An instance that came since the call began is as good as the others.
        let newest = self.call.channel.snapshot.load_full();
        match newest.filter(|newest| newest.keeps_pool(self.call.pool, &self.call.snapshot)) {
            Some(newest) => self.start(&newest, credit, hedge),
            None => self.start(&self.call.snapshot, credit, hedge),
        }
    }

    /// Where no instance was left that had not been tried, a new round begins.
    fn note_tried(&mut self, endpoint: &Arc<Endpoint>) {
        if self.tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) {
            self.tried.clear();
        }
        self.tried.push(endpoint.clone());
    }

    fn settle(&mut self, place: usize, error: RpcError) {
        let attempt = self.under_way.remove(place);
        if self.tried.is_empty() {
            self.tried.push(attempt.endpoint().clone());
        }
        self.ended
            .push(attempt.record(self.call.begun, End::Failed(error.reason())));
        self.reached |= error.may_have_run();
        self.plan(&error, place == self.under_way.len());
        // An answer tells more than a further attempt that came to nothing.
        let final_ = |error: &RpcError| error.reason().outcome().retry == Again::Never;
        if final_(&error) || !self.failure.as_ref().is_some_and(final_) {
            self.failure = Some(error);
        }
    }

    /// The next moment at which something is due.
    fn due(&self) -> Option<Instant> {
        let next = self.next.as_ref().map(|next| match next {
            Next::Retry(at, _) | Next::Hedge(at) => *at,
        });
        let time_outs = self.under_way.iter().filter_map(Attempt::time_out);
        next.into_iter().chain(time_outs).min()
    }

    fn fire(&mut self, now: Instant) {
        let mut newest_is_over = false;
        for attempt in &mut self.under_way {
            // An older one has its successor already.
            newest_is_over = attempt.time_out().is_some_and(|end| end <= now);
            if newest_is_over {
                attempt.count_timeout(now);
            }
        }
        match self.next.take() {
            Some(Next::Retry(at, credit)) if at <= now => self.start_further(credit, false),
            Some(Next::Hedge(at)) if at <= now => {
                if let Some(credit) = self.credit(now) {
                    self.start_further(Some(credit), true);
                }
            }
            next => {
                let planned = matches!(next, Some(Next::Retry(..)));
                self.next = next;
                if newest_is_over
                    && !planned
                    && self.may_follow(Reason::AttemptTimeout, true)
                    && let Some(credit) = self.credit(now)
                {
                    // Without a pause: the attempt has used up its time already.
                    self.start_further(Some(credit), false);
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

    /// Polls the timer for what is due next; pending where nothing is.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due() else {
            return Poll::Pending;
        };
        let timer = match &mut self.timer {
            Some(timer) => {
                if timer.moment() != due {
                    timer.reset(due);
                }
                timer
            }
            None => {
                let timers = self.call.channel.shared.runtime.timers();
                self.timer.insert(timers.at(due))
            }
        };
        timer.poll(cx)
    }

    fn succeed(&mut self, place: usize) {
        self.note_latency();
        let winner = self.under_way.remove(place);
        if !self.under_way.is_empty() {
            let (now, took) = (Instant::now(), winner.elapsed());
            for loser in &mut self.under_way {
                loser.overtaken(now, took);
            }
        }
        if let Some(log) = &self.call.log {
            self.ended.push(winner.record(self.call.begun, End::Succeeded));
            log.fill(self.take_records());
        }
        self.under_way.clear();
        self.ended.clear();
        self.next = None;
    }

    /// How long the first attempt took, or has taken so far where another one was faster: without those, the percentile would
    /// sink with each hedge.
    fn note_latency(&self) {
        if self.call.policy().call.retry.hedge_percentile.is_some()
            && let Some(first) = self.under_way.first().filter(|attempt| attempt.is_first())
        {
            self.call.method().latency.note(first.elapsed());
        }
    }

    /// Every attempt, first to last.
    fn take_records(&mut self) -> Vec<AttemptRecord> {
        let mut records = std::mem::take(&mut self.ended);
        let left = self.under_way.iter();
        records.extend(left.map(|attempt| attempt.record(self.call.begun, End::UnderWay)));
        records.sort_by_key(|record| record.begun);
        records
    }

    fn give_up(&mut self) -> RpcError {
        let failure = self.failure.take();
        let error =
            failure.unwrap_or_else(|| RpcError::new(Reason::NoInstance, false, "no attempt could be made"));
        if error.reason().outcome().retry != Again::Never {
            self.tell_parent();
        }
        let records = self.take_records();
        if let Some(log) = &self.call.log {
            log.fill(records.clone());
        }
        // The last attempt may have been refused unseen, and an earlier one not.
        error
            .or_reached(self.reached)
            .with_retries_spent(self.spent)
            .with_attempts(records)
    }

    /// The handler that this call is made in will say with its own failure that it is to be attempted no further.
    fn tell_parent(&self) {
        if let (true, Some(parent)) = (self.spent, &self.call.parent) {
            parent.spend_retries();
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // Given up with attempts under way, or between two: whoever gave up says what was tried.
        if self.under_way.is_empty() && self.ended.is_empty() {
            return;
        }
        if Instant::now() >= self.call.deadline {
            self.note_latency();
            self.tell_parent();
        }
        let mut given_up = self.call.given_up.lock();
        given_up.reached = self.reached || self.under_way.iter().any(Attempt::is_sent);
        given_up.retries_spent = self.spent;
        given_up.attempts = self.take_records();
        if let Some(log) = &self.call.log {
            log.fill(given_up.attempts.clone());
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
                        flight.succeed(place);
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
            if flight.under_way.is_empty() && flight.next.is_none() {
                return Poll::Ready(Err(flight.give_up()));
            }
            std::task::ready!(flight.poll_due(cx));
            flight.fire(Instant::now());
        }
    }
}

#[cfg(test)]
mod model;
