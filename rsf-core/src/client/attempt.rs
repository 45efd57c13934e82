//! One try of a call at one endpoint: balance → node breaker → endpoint → wire. [`verdict`] has what its outcome says.

mod verdict;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;

use super::balance::Observed;
use super::breaker::{Admission, Failure};
use super::endpoint::{Connecting, Endpoint, Linked};
use super::snapshot::ServiceSnapshot;
use super::stack::{OutboundCall, Outcome};
use crate::error::{AttemptRecord, RpcError};
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::status::Status;
use crate::wire::headers::CALLER;
use crate::wire::load_report::reported;
use crate::wire::{Slot, UnaryReply, UnaryRequest, WireError};
use verdict::unanswered;

pub(super) use verdict::{answered, settle};

/// An attempt under way. Dropped, it is cancelled at the provider and counts neither way.
pub(super) struct Attempt {
    endpoint: Arc<Endpoint>,
    phase: Phase,
    admission: Admission,
    /// Attempts of the call before this one.
    previous: u32,
    /// Whether it went out beside one that had not answered.
    hedge: bool,
    /// Whether an earlier one may have run. For a provider that should remember the call and does not.
    repeated: bool,
    begun: Moment,
    /// When its own time is over; `None` where it has none, or it is over already.
    time_out: Option<Moment>,
}

/// Which of a call's attempts one is.
pub(super) struct Turn<'a> {
    /// So many went before.
    pub(super) previous: u32,
    /// Where they went.
    pub(super) tried: &'a [Arc<Endpoint>],
    /// Whether one of them can have reached a handler.
    pub(super) may_have_run: bool,
    pub(super) hedge: bool,
}

impl Turn<'_> {
    pub(super) fn first() -> Self {
        Turn {
            previous: 0,
            tried: &[],
            may_have_run: false,
            hedge: false,
        }
    }
}

/// How an attempt stood when it was put down.
pub(super) enum End {
    Succeeded,
    Failed(Reason),
    UnderWay,
}

enum Phase {
    Connecting(Connecting),
    Exchanging(Arc<Linked>, Slot),
    Over,
}

/// Silence until the logical deadline counts against an instance only if the instance had this long to answer, or
/// half of what policy grants: a caller that leaves a millisecond learns nothing about the provider.
const FAIR_TIME: Duration = Duration::from_millis(100);

/// The time that a service is to have for an answer where `policy` grants it so much for a call.
pub(super) fn fair_time(policy: Duration) -> Duration {
    FAIR_TIME.min(policy / 2)
}

/// An attempt that another one overtook was silent for too long from this multiple of the other one's time on.
const OVERTAKEN_RATIO: u32 = 5;

impl Attempt {
    /// Chooses an endpoint of `snapshot`, and sends. The attempt is made in `place`, because what is made elsewhere and moved
    /// there is written twice.
    #[inline(always)]
    pub(super) fn start<'a>(
        place: &'a mut Option<Attempt>,
        call: &OutboundCall,
        snapshot: &ServiceSnapshot,
        turn: Turn<'_>,
        now: Moment,
    ) -> Result<&'a mut Attempt, RpcError> {
        let pool = &snapshot.pools[call.pool];
        let Some(endpoint) = pool.pick(call.key, turn.tried, now) else {
            let problem = snapshot.explain_empty(&call.channel.key);
            return Err(RpcError::new(Reason::NoInstance, false, problem));
        };
        endpoint.enter();
        let policy = call.policy();
        let attempt = place.insert(Attempt {
            admission: endpoint.breaker.admit(now),
            phase: Phase::Over,
            previous: turn.previous,
            hedge: turn.hedge,
            repeated: turn.may_have_run && policy.dedup,
            begun: now,
            time_out: (policy.call.attempt_timeout_ms).map(|limit| now.plus_millis(limit)),
            endpoint,
        });
        attempt.phase = match attempt.endpoint.connection() {
            Some(linked) => attempt.send(linked, call, now),
            None => Phase::Connecting(attempt.endpoint.connecting()),
        };
        Ok(attempt)
    }

    /// Sends, with the time that connecting has left.
    #[inline(always)]
    fn send(&self, linked: Arc<Linked>, call: &OutboundCall, now: Moment) -> Phase {
        let shared = &call.channel.shared;
        let slot = linked.connection.send(&UnaryRequest {
            path: &call.method().path,
            frame: &call.frame,
            timeout: Some(call.deadline.since(now)),
            previous_attempts: self.previous,
            repeated: self.repeated,
            request_id: &call.request_id,
            trace: call.trace,
            // Who is called for stands among the call's own.
            caller: shared
                .caller
                .as_ref()
                .filter(|_| call.own().iter().all(|(name, _)| *name != CALLER)),
            target: self.endpoint.target_to_verify(&linked),
            implementation: call.channel.implementation.as_ref(),
            own: call.own(),
            metadata: &call.options.metadata,
        });
        Phase::Exchanging(linked, slot)
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub(super) fn is_first(&self) -> bool {
        self.previous == 0
    }

    /// When its own time will be over.
    pub(super) fn time_out(&self) -> Option<Moment> {
        self.time_out
    }

    /// Counts the attempt's timeout against its instance, once; it may still win.
    pub(super) fn count_timeout(&mut self, now: Moment) {
        self.time_out = None;
        let breaker = &self.endpoint.breaker;
        breaker.failed(&mut self.admission, Failure::Timeout, now);
        self.endpoint.observe(now, self.elapsed(now), Observed::Failed);
    }

    /// The call's time is over. Silence is a failure of the instance where it had a `fair` time to answer.
    pub(super) fn ends_in_silence(&mut self, now: Moment, fair: Duration) {
        if !self.admission.is_settled() && self.elapsed(now) >= fair {
            self.count_timeout(now);
        }
    }

    /// Another attempt of the call has succeeded, within `took`. Without this a hung instance would look idle and fast for
    /// as long as hedges cover for it.
    pub(super) fn overtaken(&mut self, now: Moment, took: Duration, fair: Duration) {
        let elapsed = self.elapsed(now);
        // Settled: its own time was over, and that has been counted.
        if self.admission.is_settled() || elapsed <= took {
            return;
        }
        let breaker = &self.endpoint.breaker;
        if elapsed >= fair && elapsed >= took.saturating_mul(OVERTAKEN_RATIO) {
            breaker.failed(&mut self.admission, Failure::Timeout, now);
        } else {
            breaker.refused(&mut self.admission, now);
        }
        self.endpoint.observe(now, elapsed, Observed::Overtaken);
    }

    /// How long it has been under way.
    #[inline(always)]
    pub(super) fn elapsed(&self, now: Moment) -> Duration {
        now.since(self.begun)
    }

    /// Whether the request has been handed to a connection.
    #[inline(always)]
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.phase, Phase::Exchanging(..))
    }

    /// What became of it, in a call that began at `call_begun`.
    pub(super) fn record(&self, call_begun: Moment, now: Moment, end: End) -> AttemptRecord {
        AttemptRecord {
            instance: self.endpoint.instance.id.clone(),
            hedge: self.hedge,
            begun: self.begun.since(call_begun),
            elapsed: self.elapsed(now),
            succeeded: matches!(end, End::Succeeded),
            reason: match end {
                End::Failed(reason) => Some(reason),
                End::Succeeded | End::UnderWay => None,
            },
        }
    }

    /// Puts its outcome into `place`, as soon as it is there. The call's clock then stands at the time when it came.
    #[inline(always)]
    pub(super) fn poll(
        &mut self,
        call: &mut OutboundCall,
        cx: &mut Context<'_>,
        place: &mut Option<Outcome>,
    ) {
        loop {
            match &mut self.phase {
                Phase::Exchanging(linked, slot) => {
                    let Poll::Ready(outcome) = linked.connection.poll(*slot, cx) else {
                        return;
                    };
                    call.now = Moment::now();
                    *place = Some(match outcome {
                        Ok(reply) if reply.result.is_ok() => {
                            linked.verify();
                            self.succeed(&reply, call);
                            Ok(reply)
                        }
                        outcome => Err(self.fail(outcome, call)),
                    });
                    return;
                }
                Phase::Connecting(connecting) => {
                    let Poll::Ready(connected) = connecting.as_mut().poll(cx) else {
                        return;
                    };
                    let now = Moment::now();
                    call.now = now;
                    match connected {
                        Ok(linked) => self.phase = self.send(linked, call, now),
                        Err(error) => {
                            self.phase = Phase::Over;
                            let endpoint = &self.endpoint;
                            endpoint.breaker.failed(&mut self.admission, Failure::Error, now);
                            endpoint.observe(now, self.elapsed(now), Observed::Failed);
                            let error = RpcError::new(Reason::Connect, false, error.to_string());
                            *place = Some(Err(error.at(&endpoint.instance.id)));
                            return;
                        }
                    }
                }
                Phase::Over => return,
            }
        }
    }

    /// Takes in a reply. It stays where it is: what goes from hand to hand is written each time.
    #[inline(always)]
    fn succeed(&mut self, reply: &UnaryReply, call: &OutboundCall) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            // By itself, because the end of all that a phase can be is a function that is called.
            Phase::Exchanging(linked, _) => drop(linked),
            other => drop(other),
        }
        let now = call.now;
        if let Some(headers) = reply.metadata.raw() {
            self.read_load(headers, now);
        }
        self.endpoint.breaker.succeeded(&mut self.admission);
        let latency = now.nanos_since(self.begun);
        self.endpoint
            .vitals
            .observe_nanos(now, latency, Observed::Answered);
    }

    #[cold]
    fn fail(&mut self, outcome: Result<UnaryReply, WireError>, call: &OutboundCall) -> RpcError {
        self.phase = Phase::Over;
        let now = call.now;
        let error = match outcome {
            Ok(UnaryReply { result, metadata }) => {
                let status = result
                    .err()
                    .unwrap_or_else(|| Status::unknown("neither a reply nor a status"));
                if let Some(headers) = status.metadata().raw() {
                    self.read_load(headers, now);
                }
                answered(status, now >= call.deadline).with_headers(&metadata)
            }
            Err(error) => unanswered(error),
        };
        let took = self.elapsed(now);
        let fair = took >= call.fair_time();
        let observed = settle(&self.endpoint, &mut self.admission, Some(&error), fair, now);
        if let Some(observed) = observed {
            self.endpoint.observe(now, took, observed);
        }
        error.at(&self.endpoint.instance.id)
    }

    /// Passes the instance's report of its load on, where the reply has one.
    fn read_load(&self, headers: &HeaderMap, now: Moment) {
        if let Some(load) = reported(headers) {
            self.endpoint.vitals.report_load(now, load);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Phase::Exchanging(linked, slot) = &self.phase {
            linked.connection.cancel(*slot);
        }
        self.endpoint.breaker.release(&mut self.admission);
        self.endpoint.leave();
    }
}
