//! Unchanged tonic clients over a channel: routed, balanced and broken like every call.
//!
//! What a client asks of its transport is a request with a body and a response with one; whether that is a unary call
//! or a stream, and whether the method is idempotent, is not known here. So a request is sent again only where it
//! provably reached nobody and all of its body that was read is still at hand ([`outgoing`]); the policy's timeout holds
//! from the end of the request to the response's headers, and what streams then has the caller's `grpc-timeout` alone.
//! The verdict on the instance falls with the stream's end ([`incoming`]). What a call hands down to the calls made
//! inside it, these get like all others ([`inherit`]).

mod incoming;
mod inherit;
mod outgoing;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use self::incoming::{Incoming, Pass};
use self::inherit::inherit;
use self::outgoing::Outgoing;
use super::balance::Pool;
use super::channel::{Channel, ChannelState};
use super::endpoint::{Endpoint, Linked};
use super::route::route_headers;
use super::snapshot::ServiceSnapshot;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::wire::headers::{TARGET, without_reason};
use crate::wire::status_header::{GRPC_TIMEOUT, read_timeout, write_timeout};
use crate::wire::{Fate, WireError};

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

/// The key that a tonic client's request is routed by, as an extension of the request:
/// `request.extensions_mut().insert(RoutingKey::new("member-7"))`. What [`Call::routing_key`](crate::call::Call::routing_key)
/// is to calls of RSF's own clients: consistent hashing, shards and percentages go by it, unless policy takes the key
/// out of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingKey(pub(super) Arc<str>);

impl RoutingKey {
    /// The key, of any characters; where shards go by it, without control characters. Empty: none.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        RoutingKey(key.into())
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
            let due = Due::of(read_timeout(request.headers())?, begun, parent.as_deref());
            let call = StreamCall::new(state, request, begun, due, parent);
            match due.at {
                None => call.run().await,
                // Nothing is sent, and no instance is blamed for a time that was over before.
                Some(end) if end <= begun => Err(due.over(begun)),
                Some(end) => {
                    let timer = call.state.sleep_until(end);
                    tokio::select! {
                        biased;
                        answer = call.run() => answer,
                        () = timer => Err(due.over(begun)),
                    }
                }
            }
        })
    }
}

/// When a request's time is over, and who says so.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// `None` where neither its caller nor the call around it has set a time.
    at: Option<Instant>,
    /// The caller has set one.
    own: bool,
    /// The call that is being handled while this one is made leaves less than that.
    inherits: bool,
}

impl Due {
    fn of(timeout: Option<Duration>, begun: Instant, parent: Option<&crate::context::Context>) -> Due {
        let own = timeout.and_then(|timeout| begun.checked_add(timeout));
        let inherited = parent.and_then(crate::context::Context::deadline);
        Due {
            at: own.into_iter().chain(inherited).min(),
            own: own.is_some(),
            inherits: inherited.is_some_and(|inherited| own.is_none_or(|own| inherited < own)),
        }
    }

    fn over(&self, begun: Instant) -> tonic::Status {
        let problem = match (self.inherits, self.at) {
            (false, Some(end)) => format!(
                "no response within {} ms (grpc-timeout of the caller)",
                (end - begun).as_millis()
            ),
            _ => "the time left by the call that made this one is over".to_owned(),
        };
        tonic::Status::deadline_exceeded(problem)
    }
}

/// A request of a tonic client on its way.
struct StreamCall {
    state: Arc<ChannelState>,
    /// What each try sends, but for its body and what is known only then.
    head: http::Request<()>,
    outgoing: Outgoing,
    begun: Instant,
    due: Due,
    /// The call that is being handled where this one is made.
    parent: Option<Arc<crate::context::Context>>,
}

impl StreamCall {
    fn new(
        state: Arc<ChannelState>,
        request: http::Request<tonic::body::Body>,
        begun: Instant,
        due: Due,
        parent: Option<Arc<crate::context::Context>>,
    ) -> StreamCall {
        let (parts, body) = request.into_parts();
        StreamCall {
            state,
            head: http::Request::from_parts(parts, ()),
            outgoing: Outgoing::new(body),
            begun,
            due,
            parent,
        }
    }

    async fn run(mut self) -> Answer {
        let remaining = self.due.at.map(|end| end.saturating_duration_since(self.begun));
        let snapshot = self.state.snapshot(remaining).await;
        let snapshot = snapshot.map_err(|error| refusal(&error.to_string()))?;
        let (shared, parent) = (&self.state.shared, self.parent.as_deref());
        inherit(shared, &snapshot.service.call, self.head.headers_mut(), parent);
        let routed = route_headers(&snapshot, &self.state.key, &mut self.head, parent);
        let (pool, key) = routed.map_err(|error| refusal(&error.to_string()))?;
        let pool = &snapshot.pools[pool];
        let mut tried = Vec::new();
        loop {
            let (endpoint, failure) = match self.attempt(&snapshot, pool, key, &tried).await {
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
        key: Option<u64>,
        tried: &[Arc<Endpoint>],
    ) -> Result<http::Response<tonic::body::Body>, Failed> {
        let now = Moment::now();
        let endpoint = pool.pick(key, tried, now);
        let endpoint =
            endpoint.ok_or_else(|| Failed::Finally(refusal(&snapshot.explain_empty(&self.state.key))))?;
        let policy = Duration::from_millis(snapshot.service.call.timeout_ms);
        let mut pass = Pass::through(endpoint.clone(), now, self.due.at.map(Moment::from), policy);
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
                let timer = self.due.at.map(|end| Box::pin(self.state.sleep_until(end)));
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
            headers.insert(TARGET, target.clone());
        }
        if let Some(end) = self.due.at {
            // What waiting and connecting have left.
            let left = end.saturating_duration_since(Instant::now());
            headers.insert(GRPC_TIMEOUT, write_timeout(left).to_value());
        }
        request
    }

    /// Ends when the peer has had all of the request for the policy's time; never where the caller has set a time.
    async fn silence(&self, policy: Duration) {
        if self.due.own {
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

fn refusal(message: &str) -> tonic::Status {
    tonic::Status::unavailable(message)
}
