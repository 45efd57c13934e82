//! One try of a call at one endpoint: balance → node breaker → endpoint → wire.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::breaker::{Admission, Failure};
use super::endpoint::{Connecting, Endpoint, Linked, PendingPlace};
use super::stack::OutboundCall;
use crate::error::{AttemptRecord, REASON, RpcError};
use crate::outcome::Reason;
use crate::status::{Code, Status};
use crate::wire::headers::REPEATED;
use crate::wire::{Exchange, Fate, UnaryReply, UnaryRequest, WireError};

/// An attempt under way. Dropped, it is cancelled at the provider and counts neither way.
pub(super) struct Attempt {
    endpoint: Arc<Endpoint>,
    phase: Phase,
    admission: Admission,
    begun: Instant,
    deadline: Instant,
    fair_time: Duration,
    _pending: PendingPlace,
}

enum Phase {
    Connecting(Connecting, Box<UnaryRequest>),
    Exchanging(Exchange, Arc<Linked>),
}

/// Silence until the logical deadline counts against an instance only if the instance had this long to answer, or
/// half of what policy grants: a caller that leaves a millisecond learns nothing about the provider.
pub(super) const FAIR_TIME: Duration = Duration::from_millis(100);

impl Attempt {
    /// Chooses an endpoint that is not in `tried`, and sends. `previous` attempts went before; `may_have_run` says whether
    /// one of them can have reached a handler.
    pub(super) fn start(
        call: &OutboundCall,
        previous: u32,
        tried: &[Arc<Endpoint>],
        may_have_run: bool,
    ) -> Result<Attempt, RpcError> {
        let service = &call.snapshot.service;
        let now = Instant::now();
        let Some(endpoint) = call.pool().pick(service.call.balance, tried, now) else {
            let problem = call.snapshot.explain_empty(&call.channel.key);
            return Err(RpcError::new(Reason::NoInstance, false, problem));
        };
        let admission = endpoint.breaker.admit(now);
        let pending = endpoint.enter();
        let request = request(call, previous, may_have_run);
        let phase = match endpoint.connection() {
            Some(linked) => exchange(linked, &endpoint, request, call.deadline),
            None => Phase::Connecting(endpoint.connecting(), Box::new(request)),
        };
        Ok(Attempt {
            endpoint,
            phase,
            admission,
            begun: now,
            deadline: call.deadline,
            fair_time: FAIR_TIME.min(Duration::from_millis(call.policy().call.timeout_ms) / 2),
            _pending: pending,
        })
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Counts the attempt's timeout against its instance, once; it may still win.
    pub(super) fn count_timeout(&mut self) {
        let breaker = &self.endpoint.breaker;
        breaker.failed(&mut self.admission, Failure::Timeout, Instant::now());
    }

    /// Whether the request has been handed to a connection.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.phase, Phase::Exchanging(..))
    }

    pub(super) fn record(&self, reason: Option<Reason>) -> AttemptRecord {
        AttemptRecord {
            instance: self.endpoint.instance.id.clone(),
            reason,
            elapsed: self.begun.elapsed(),
        }
    }

    fn conclude(&mut self, outcome: Result<UnaryReply, WireError>) -> Result<UnaryReply, RpcError> {
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
                Err(status) => Err(answered(status)),
            },
            Err(error) => Err(unanswered(error)),
        };
        settle(&self.endpoint, &mut self.admission, result.as_ref().err());
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
                            let breaker = &attempt.endpoint.breaker;
                            breaker.failed(&mut attempt.admission, Failure::Error, Instant::now());
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
        // Ended by the logical deadline: silence is a failure of the instance. Everything else is neutral.
        if !self.admission.is_settled() {
            let now = Instant::now();
            if now >= self.deadline && now - self.begun >= self.fair_time {
                let breaker = &self.endpoint.breaker;
                breaker.failed(&mut self.admission, Failure::Timeout, now);
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

/// What an attempt's outcome says about its instance.
pub(super) fn settle(endpoint: &Endpoint, admission: &mut Admission, error: Option<&RpcError>) {
    let breaker = &endpoint.breaker;
    match error {
        Some(error) if error.reason().outcome().node_breaker => {
            breaker.failed(admission, Failure::Error, Instant::now());
        }
        Some(error) if matches!(error.reason(), Reason::ProviderLimit | Reason::QueueFull) => {
            breaker.failed(admission, Failure::Busy, Instant::now());
        }
        // Refused before the handler: says nothing about the instance's health either way.
        Some(error) if !error.may_have_run() => breaker.refused(admission, Instant::now()),
        _ => breaker.succeeded(admission),
    }
}

/// What a status that came back means: RSF's reason where the provider named it, else gRPC's conventions.
pub(super) fn answered(status: Status) -> RpcError {
    let named = status.metadata().get(REASON).and_then(Reason::from_name);
    let reason = named.unwrap_or(match status.code() {
        Code::Unavailable => Reason::Unavailable,
        Code::Unimplemented => Reason::Unimplemented,
        _ => Reason::Handler,
    });
    // Only a provider that names its reason promises that; a bare code may be the handler's own.
    let never_ran = matches!(
        named,
        Some(
            Reason::ProviderLimit
                | Reason::QueueFull
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
