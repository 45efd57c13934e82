//! One try of a call at one endpoint: balance → node breaker → endpoint → wire.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::balance::Observed;
use super::breaker::{Admission, Failure};
use super::endpoint::{Connecting, Endpoint, Linked, PendingPlace};
use super::snapshot::ServiceSnapshot;
use super::stack::OutboundCall;
use crate::error::{AttemptRecord, REASON, RpcError};
use crate::outcome::Reason;
use crate::status::{Code, Status};
use crate::wire::headers::{REPEATED, REPLAYED};
use crate::wire::load_report::reported;
use crate::wire::{Exchange, Fate, UnaryReply, UnaryRequest, WireError};

/// An attempt under way. Dropped, it is cancelled at the provider and counts neither way, but for silence until the
/// deadline.
pub(super) struct Attempt {
    endpoint: Arc<Endpoint>,
    phase: Phase,
    admission: Admission,
    /// Attempts of the call before this one.
    previous: u32,
    /// Whether it went out beside one that had not answered.
    hedge: bool,
    begun: Instant,
    /// When its own time is over; `None` where it has none, or it is over already.
    time_out: Option<Instant>,
    deadline: Instant,
    fair_time: Duration,
    _pending: PendingPlace,
}

/// How an attempt stood when it was put down.
pub(super) enum End {
    Succeeded,
    Failed(Reason),
    UnderWay,
}

enum Phase {
    Connecting(Connecting, Box<UnaryRequest>),
    Exchanging(Exchange, Arc<Linked>),
}

/// Silence until the logical deadline counts against an instance only if the instance had this long to answer, or
/// half of what policy grants: a caller that leaves a millisecond learns nothing about the provider.
pub(super) const FAIR_TIME: Duration = Duration::from_millis(100);

/// An attempt that another one overtook was silent for too long from this multiple of the other one's time on.
const OVERTAKEN_RATIO: u32 = 5;

impl Attempt {
    /// Chooses an endpoint of `snapshot` that is not in `tried`, and sends. `previous` attempts went before; `may_have_run`
    /// says whether one of them can have reached a handler.
    pub(super) fn start(
        call: &OutboundCall,
        snapshot: &ServiceSnapshot,
        previous: u32,
        tried: &[Arc<Endpoint>],
        may_have_run: bool,
        hedge: bool,
    ) -> Result<Attempt, RpcError> {
        let now = Instant::now();
        let pool = &snapshot.pools[call.pool];
        let Some(endpoint) = pool.pick(call.key, tried, now) else {
            let problem = snapshot.explain_empty(&call.channel.key);
            return Err(RpcError::new(Reason::NoInstance, false, problem));
        };
        let admission = endpoint.breaker.admit(now);
        let pending = endpoint.enter();
        let request = request(call, previous, may_have_run);
        let phase = match endpoint.connection() {
            Some(linked) => exchange(linked, &endpoint, request, call.deadline),
            None => Phase::Connecting(endpoint.connecting(), Box::new(request)),
        };
        let policy = &call.policy().call;
        let time_out = policy
            .attempt_timeout_ms
            .map(|limit| now + Duration::from_millis(limit));
        Ok(Attempt {
            endpoint,
            phase,
            admission,
            previous,
            hedge,
            begun: now,
            time_out,
            deadline: call.deadline,
            fair_time: FAIR_TIME.min(Duration::from_millis(policy.timeout_ms) / 2),
            _pending: pending,
        })
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub(super) fn is_first(&self) -> bool {
        self.previous == 0
    }

    /// When its own time will be over, where that is before the call's.
    pub(super) fn time_out(&self) -> Option<Instant> {
        self.time_out.filter(|end| *end < self.deadline)
    }

    /// Counts the attempt's timeout against its instance, once; it may still win.
    pub(super) fn count_timeout(&mut self, now: Instant) {
        self.time_out = None;
        let breaker = &self.endpoint.breaker;
        breaker.failed(&mut self.admission, Failure::Timeout, now);
        self.endpoint.observe(now, now - self.begun, Observed::Failed);
    }

    /// Another attempt of the call has succeeded, within `took`. Without this a hung instance would look idle and fast for
    /// as long as hedges cover for it.
    pub(super) fn overtaken(&mut self, now: Instant, took: Duration) {
        let elapsed = now - self.begun;
        // Settled: its own time was over, and that has been counted.
        if self.admission.is_settled() || elapsed <= took {
            return;
        }
        let breaker = &self.endpoint.breaker;
        if elapsed >= self.fair_time && elapsed >= took.saturating_mul(OVERTAKEN_RATIO) {
            breaker.failed(&mut self.admission, Failure::Timeout, now);
        } else {
            breaker.refused(&mut self.admission, now);
        }
        self.endpoint.observe(now, elapsed, Observed::Overtaken);
    }

    /// How long it has been under way.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether the request has been handed to a connection.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.phase, Phase::Exchanging(..))
    }

    /// What became of it, in a call that began at `call_begun`.
    pub(super) fn record(&self, call_begun: Instant, end: End) -> AttemptRecord {
        AttemptRecord {
            instance: self.endpoint.instance.id.clone(),
            hedge: self.hedge,
            begun: self.begun.saturating_duration_since(call_begun),
            elapsed: self.begun.elapsed(),
            succeeded: matches!(end, End::Succeeded),
            reason: match end {
                End::Failed(reason) => Some(reason),
                End::Succeeded | End::UnderWay => None,
            },
        }
    }

    /// Passes the instance's report of its load on, where the reply has one.
    fn read_load(&self, reply: &UnaryReply, now: Instant) {
        let headers = match &reply.result {
            Ok(_) => reply.metadata.raw(),
            Err(status) => status.metadata().raw(),
        };
        if let Some(load) = headers.and_then(reported) {
            self.endpoint.vitals.report_load(now, load);
        }
    }

    fn conclude(&mut self, outcome: Result<UnaryReply, WireError>) -> Result<UnaryReply, RpcError> {
        let now = Instant::now();
        if let Ok(reply) = &outcome {
            self.read_load(reply, now);
        }
        let result = match outcome {
            Ok(reply) => match reply.result {
                Ok(message) => {
                    if let Phase::Exchanging(_, linked) = &self.phase {
                        linked.verify();
                    }
                    Ok(UnaryReply {
                        result: Ok(message),
                        metadata: reply.metadata,
                    })
                }
                Err(status) => Err(answered(status, now >= self.deadline).with_headers(&reply.metadata)),
            },
            Err(error) => Err(unanswered(error)),
        };
        let fair = now - self.begun >= self.fair_time;
        let observed = settle(&self.endpoint, &mut self.admission, result.as_ref().err(), fair);
        if let Some(observed) = observed {
            self.endpoint.observe(now, now - self.begun, observed);
        }
        result.map_err(|error| error.at(&self.endpoint.instance.id))
    }
}

impl Future for Attempt {
    type Output = Result<UnaryReply, RpcError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let attempt = &mut *self;
        loop {
            match &mut attempt.phase {
                Phase::Exchanging(exchange, _) => {
                    let outcome = std::task::ready!(Pin::new(exchange).poll(cx));
                    return Poll::Ready(attempt.conclude(outcome));
                }
                Phase::Connecting(connecting, request) => {
                    match std::task::ready!(connecting.as_mut().poll(cx)) {
                        Ok(linked) => {
                            let request = (**request).clone();
                            attempt.phase = exchange(linked, &attempt.endpoint, request, attempt.deadline);
                        }
                        Err(error) => {
                            let (endpoint, now) = (&attempt.endpoint, Instant::now());
                            endpoint
                                .breaker
                                .failed(&mut attempt.admission, Failure::Error, now);
                            endpoint.observe(now, now - attempt.begun, Observed::Failed);
                            let error = RpcError::new(Reason::Connect, false, error.to_string());
                            return Poll::Ready(Err(error.at(&attempt.endpoint.instance.id)));
                        }
                    }
                }
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Ended by the logical deadline: silence is a failure of the instance. A caller that goes away says nothing.
        if !self.admission.is_settled() {
            let now = Instant::now();
            if now >= self.deadline && now - self.begun >= self.fair_time {
                let breaker = &self.endpoint.breaker;
                breaker.failed(&mut self.admission, Failure::Timeout, now);
                self.endpoint.observe(now, now - self.begun, Observed::Failed);
            } else {
                self.endpoint.breaker.release(&mut self.admission);
            }
        }
    }
}

/// Sends, with what is known only now: whom to verify, and the time that connecting has left.
fn exchange(linked: Arc<Linked>, endpoint: &Endpoint, mut request: UnaryRequest, deadline: Instant) -> Phase {
    request.target = endpoint.target_to_verify(&linked);
    request.timeout = Some(deadline.saturating_duration_since(Instant::now()));
    Phase::Exchanging(Exchange::start(linked.connection.clone(), request), linked)
}

/// The request, but for what [`exchange`] adds.
fn request(call: &OutboundCall, previous: u32, may_have_run: bool) -> UnaryRequest {
    let mut own = call.own.clone();
    // For a provider that should remember the call and does not. Nobody else asks.
    if may_have_run && call.policy().dedup {
        own.push((REPEATED, HeaderValue::from_static("1")));
    }
    UnaryRequest {
        path: call.method().path.clone(),
        frame: call.frame.clone(),
        timeout: None,
        previous_attempts: previous,
        request_id: call.request_id.clone(),
        trace: call.trace,
        caller: call.channel.shared.caller.clone(),
        target: None,
        implementation: call.channel.implementation.clone(),
        own,
        metadata: call.metadata.clone(),
    }
}

/// Whether the instance refused because it has too much to do.
fn is_busy(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ProviderLimit | Reason::QueueFull | Reason::QueueTimeout
    )
}

/// What an attempt's outcome says about its instance: to its breaker here, to the balancer by the answer; `None` where
/// it says nothing. `fair` tells whether the instance had the time to answer.
pub(super) fn settle(
    endpoint: &Endpoint,
    admission: &mut Admission,
    error: Option<&RpcError>,
    fair: bool,
) -> Option<Observed> {
    let breaker = &endpoint.breaker;
    Some(match error {
        // The provider has looked at the clock first. It means the same as its silence would have.
        Some(error) if error.reason() == Reason::Deadline => {
            if !fair {
                breaker.release(admission);
                return None;
            }
            breaker.failed(admission, Failure::Timeout, Instant::now());
            Observed::Failed
        }
        Some(error) if error.reason().outcome().node_breaker => {
            breaker.failed(admission, Failure::Error, Instant::now());
            Observed::Failed
        }
        Some(error) if is_busy(error.reason()) => {
            breaker.failed(admission, Failure::Busy, Instant::now());
            Observed::Refused
        }
        // Refused before the handler: says nothing about the instance's health either way.
        Some(error) if !error.may_have_run() => {
            breaker.refused(admission, Instant::now());
            Observed::Refused
        }
        _ => {
            breaker.succeeded(admission);
            Observed::Answered
        }
    })
}

/// What a status that came back means: RSF's reason where the provider named it, else gRPC's conventions. `overdue` tells
/// whether the call's time was over by then.
pub(super) fn answered(status: Status, overdue: bool) -> RpcError {
    let named = status.metadata().get(REASON).and_then(Reason::from_name);
    let reason = named.unwrap_or(match status.code() {
        // A replay is the handler's own word: it stays the same, and the instance that passes it on is well.
        _ if status.metadata().get(REPLAYED).is_some() => Reason::Handler,
        Code::Unavailable => Reason::Unavailable,
        Code::Unimplemented => Reason::Unimplemented,
        // A peer that only knows gRPC watches the same clock, and may look at it a moment before this side does.
        Code::DeadlineExceeded if overdue => Reason::Deadline,
        _ => Reason::Handler,
    });
    // Only a provider that names its reason promises that; a bare code may be the handler's own.
    let never_ran = matches!(
        named,
        Some(
            Reason::ProviderLimit
                | Reason::QueueFull
                | Reason::QueueTimeout
                | Reason::Denied
                | Reason::Unauthenticated
                | Reason::WrongInstance
                | Reason::WrongShard
                | Reason::Refused
                | Reason::Unimplemented
                | Reason::DedupUnavailable
        )
    );
    RpcError::with_status(reason, !never_ran, status)
}

fn unanswered(error: WireError) -> RpcError {
    let (reason, reached) = match error.fate {
        // The connection was closing: no word about the instance, which a new connection may reach.
        Fate::NotWritten | Fate::Refused => (Reason::Refused, false),
        Fate::Written => (Reason::ConnectionLost, true),
    };
    let message = match error.fate {
        Fate::NotWritten => format!("not sent: {}", error.reason),
        Fate::Refused => format!("refused unseen by the provider: {}", error.reason),
        Fate::Written => format!(
            "the connection broke before the reply; the handler may have run: {}",
            error.reason
        ),
    };
    RpcError::new(reason, reached, message)
}
