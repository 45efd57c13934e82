//! Unchanged tonic clients over a channel: routed, balanced and broken like every call.
//!
//! What a client asks of its transport is a request with a body and a response with one; whether that is a unary call
//! or a stream, and whether the method is idempotent, is not known here. So a request is sent again only where it
//! provably reached nobody and all of its body that was read is still at hand ([`outgoing`]); the policy's timeout holds
//! from the end of the request to the response's headers, and what streams then has the caller's `grpc-timeout` alone.
//! The verdict on the instance falls with the stream's end ([`incoming`]).

mod incoming;
mod outgoing;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use self::incoming::{Incoming, Pass};
use self::outgoing::Outgoing;
use super::balance::Pool;
use super::channel::{Channel, ChannelState};
use super::endpoint::{Endpoint, Linked};
use super::route::route_headers;
use super::snapshot::ServiceSnapshot;
use crate::outcome::Reason;
use crate::wire::headers::{
    CALLER, REQUEST_ID, TARGET, TOKEN, TRACEPARENT, hex, traceparent, without_reason,
};
use crate::wire::status_header::{GRPC_TIMEOUT, read_timeout, write_timeout};
use crate::wire::{Fate, TraceParent, WireError};

/// A `tower::Service` that tonic's generated clients take as their transport:
/// `GreeterClient::new(app.tonic_channel("greet.v1.Greeter"))`.
#[derive(Clone)]
pub struct TonicChannel {
    channel: Channel,
}

impl TonicChannel {
    pub(super) fn new(channel: Channel) -> Self {
        TonicChannel { channel }
    }
}

type Answer = Result<http::Response<tonic::body::Body>, tonic::Status>;

impl tower::Service<http::Request<tonic::body::Body>> for TonicChannel {
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::Status;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let state = self.channel.state().clone();
        let begun = Instant::now();
        let parent = crate::context::Context::current();
        Box::pin(async move {
            let timeout = read_timeout(request.headers())?;
            let deadline = timeout.and_then(|timeout| begun.checked_add(timeout));
            let call = StreamCall::new(state, request, begun, deadline);
            let call = StreamCall { parent, ..call };
            match deadline {
                None => call.run().await,
                Some(end) => {
                    let timer = call.state.sleep_until(end);
                    tokio::select! {
                        biased;
                        answer = call.run() => answer,
                        () = timer => Err(over(end - begun)),
                    }
                }
            }
        })
    }
}

/// A request of a tonic client on its way.
struct StreamCall {
    state: Arc<ChannelState>,
    /// What each try sends, but for its body and what is known only then.
    head: http::Request<()>,
    outgoing: Outgoing,
    begun: Instant,
    deadline: Option<Instant>,
    /// The call that is being handled where this one is made.
    parent: Option<Arc<crate::context::Context>>,
}

impl StreamCall {
    fn new(
        state: Arc<ChannelState>,
        request: http::Request<tonic::body::Body>,
        begun: Instant,
        deadline: Option<Instant>,
    ) -> StreamCall {
        let (mut parts, body) = request.into_parts();
        if let Some(caller) = &state.shared.caller {
            parts.headers.insert(CALLER, caller.clone());
        }
        if let Some(token) = state.shared.token.header() {
            parts.headers.insert(TOKEN, token);
        }
        // A trace or an id that the client's own code has set goes on.
        parts.headers.entry(TRACEPARENT).or_insert_with(|| {
            let trace = TraceParent {
                trace_id: fastrand::u128(1..),
                span_id: fastrand::u64(1..),
                sampled: false,
            };
            text(&traceparent(trace))
        });
        let id = || text(&hex::<16>(fastrand::u64(..)));
        parts.headers.entry(REQUEST_ID).or_insert_with(id);
        StreamCall {
            state,
            head: http::Request::from_parts(parts, ()),
            outgoing: Outgoing::new(body),
            begun,
            deadline,
            parent: None,
        }
    }

    async fn run(mut self) -> Answer {
        let remaining = self.deadline.map(|end| end.saturating_duration_since(self.begun));
        let snapshot = self.state.snapshot(remaining).await;
        let snapshot = snapshot.map_err(|error| refusal(&error.to_string()))?;
        let routed = route_headers(&snapshot, &self.state.key, &mut self.head, self.parent.as_deref());
        let pool = &snapshot.pools[routed.map_err(|error| refusal(&error.to_string()))?];
        let mut tried = Vec::new();
        loop {
            let (endpoint, failure) = match self.attempt(&snapshot, pool, &tried).await {
                Ok(response) => return Ok(response),
                Err(Failed::Finally(status)) => return Err(status),
                Err(Failed::Unseen(endpoint, status)) => (endpoint, status),
            };
            tried.push(endpoint);
            // It cost no provider anything, so it takes no credit.
            let again = tried.len() < snapshot.service.call.retry.attempts as usize;
            if !again || !self.outgoing.is_whole() {
                return Err(failure);
            }
        }
    }

    async fn attempt(
        &self,
        snapshot: &ServiceSnapshot,
        pool: &Pool,
        tried: &[Arc<Endpoint>],
    ) -> Result<http::Response<tonic::body::Body>, Failed> {
        let now = Instant::now();
        let endpoint = pool.pick(None, tried, now);
        let endpoint =
            endpoint.ok_or_else(|| Failed::Finally(refusal(&snapshot.explain_empty(&self.state.key))))?;
        let policy = Duration::from_millis(snapshot.service.call.timeout_ms);
        let mut pass = Pass::through(endpoint.clone(), now, self.deadline, policy);
        let linked = match endpoint.connection() {
            Some(linked) => linked,
            None => endpoint.connecting().await.map_err(|error| {
                pass.failed();
                let problem = refusal(&format!("{} ({error})", Reason::Connect));
                Failed::Unseen(endpoint.clone(), problem)
            })?,
        };
        let sent = linked.connection.http(self.request(&endpoint, &linked));
        let answer = tokio::select! {
            biased;
            answer = sent => answer,
            () = self.silence(policy) => {
                pass.timed_out();
                let problem = format!(
                    "{} no response within {} ms after the request (policy timeout_ms); set a grpc-timeout to wait for longer",
                    Reason::Deadline,
                    policy.as_millis()
                );
                return Err(Failed::Finally(tonic::Status::deadline_exceeded(problem)));
            }
        };
        match answer {
            Ok(response) => {
                if pass.begins(&response) {
                    linked.verify();
                }
                let timer = self.deadline.map(|end| Box::pin(self.state.sleep_until(end)));
                let response = without_reason(response);
                Ok(response.map(|body| tonic::body::Body::new(Incoming::new(body, pass, timer))))
            }
            Err(WireError { fate, reason }) => {
                let problem = refusal(&reason);
                if fate == Fate::Written {
                    pass.failed();
                    return Err(Failed::Finally(problem));
                }
                Err(Failed::Unseen(endpoint, problem))
            }
        }
    }

    /// The request for one try.
    fn request(&self, endpoint: &Endpoint, linked: &Linked) -> http::Request<tonic::body::Body> {
        let body = tonic::body::Body::new(self.outgoing.lend());
        let mut request = self.head.clone().map(|()| body);
        let headers = request.headers_mut();
        if let Some(target) = endpoint.target_to_verify(linked) {
            headers.insert(TARGET, target);
        }
        if let Some(end) = self.deadline {
            // What waiting and connecting have left.
            let left = end.saturating_duration_since(Instant::now());
            headers.insert(GRPC_TIMEOUT, write_timeout(left));
        }
        request
    }

    /// Ends when the peer has had all of the request for the policy's time; never where the caller has set a time.
    async fn silence(&self, policy: Duration) {
        if self.deadline.is_some() {
            return std::future::pending().await;
        }
        self.outgoing.ended().await;
        self.state.sleep_until(Instant::now() + policy).await;
    }
}

/// Why a try brought no response.
enum Failed {
    /// It provably reached nobody.
    Unseen(Arc<Endpoint>, tonic::Status),
    Finally(tonic::Status),
}

impl ChannelState {
    /// A timer for callers whose executor may know none.
    fn sleep_until(&self, end: Instant) -> tokio::time::Sleep {
        let _timers = self.shared.runtime.handle().enter();
        tokio::time::sleep_until(end)
    }
}

/// What RSF writes itself is visible ASCII.
fn text(value: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn refusal(message: &str) -> tonic::Status {
    tonic::Status::unavailable(message)
}

fn over(timeout: Duration) -> tonic::Status {
    let problem = format!(
        "no response within {} ms (grpc-timeout of the caller)",
        timeout.as_millis()
    );
    tonic::Status::deadline_exceeded(problem)
}
