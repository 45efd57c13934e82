//! Where the path of an incoming call is composed, and what its stages hand to each other.

use std::pin::pin;
use std::sync::Arc;
use std::task::Context as TaskContext;

use bytes::Bytes;
use tokio::time::Instant;

use super::admission::{Admit, Deadline};
use super::authorize::Authorize;
use super::blocking::on_thread;
use super::dedup::{self, Dedup};
use super::intercept::{Intercept, ServerInterceptors};
use super::limits::{Places, Pool, Threshold};
use super::observe::{Catch, Measure};
use super::provider::HostedMethod;
use super::shard::OwnShard;
use crate::context::Context;
use crate::error::REASON;
use crate::identity::{Peer, TokenVerifier};
use crate::message::{Request, Response};
use crate::outcome::Reason;
use crate::status::Status;
use crate::timer::Timers;
use crate::wire::Frame;
use crate::wire::headers::REPLAYED;

/// What decides about a call at once: lets it pass, or says why not. It waits for nothing, so it needs no future.
pub(super) trait Gate {
    fn enter(&self, call: &mut InboundCall) -> Result<(), Status>;
}

/// One stage of the path; it wraps the stages behind it. The call stays where it is and is lent from stage to stage: a
/// copy of it in each of their futures would cost more than what most of them do.
pub(super) trait Stage: Send + Sync + 'static {
    fn call(&self, call: &mut InboundCall) -> impl Future<Output = Result<Response<Frame>, Status>> + Send;
}

/// A call on its way to its handler.
pub(super) struct InboundCall {
    pub(super) method: Arc<HostedMethod>,
    /// When it came. The one look at the clock for all stages that a call passes without waiting.
    pub(super) arrived: Instant,
    pub(super) message: Result<Bytes, Status>,
    pub(super) context: Arc<Context>,
    /// Who the wire has proven to be at the other end.
    pub(super) peer: Option<Peer>,
    /// What the call has taken of the limits; set by [`Threshold`] and [`Pool`], and free again when the handler has ended.
    pub(super) places: Places,
}

impl InboundCall {
    /// The call for its handler, which takes the places along. What stays is for interceptors to look at.
    pub(super) fn for_handler(&mut self) -> InboundCall {
        InboundCall {
            method: self.method.clone(),
            arrived: self.arrived,
            message: self.message.clone(),
            context: self.context.clone(),
            peer: self.peer.clone(),
            places: std::mem::take(&mut self.places),
        }
    }
}

/// The whole path of a call.
pub(super) type ServerStack = Measure<Gated<Deadline<Pool<Dedup<Catch<Intercept<Handler>>>>>>>;

/// The gates that each call passes, in this order.
pub(super) struct Gates {
    admit: Admit,
    authorize: Authorize,
    own_shard: OwnShard,
    threshold: Threshold,
}

/// The gates, in front of the stages behind them.
pub(super) struct Gated<S> {
    gates: Gates,
    inner: S,
}

impl<S: Stage> Stage for Gated<S> {
    async fn call(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        self.gates.admit.enter(call)?;
        self.gates.authorize.enter(call)?;
        self.gates.own_shard.enter(call)?;
        self.gates.threshold.enter(call)?;
        self.inner.call(call).await
    }
}

/// Composes the path, outermost first. Tests run this very stack.
pub(super) fn server_stack(
    admit: AdmitRules,
    pool: Arc<super::limits::PoolLimits>,
    dedup: Arc<dedup::Shared>,
) -> ServerStack {
    // The handler within its context, so that calls it makes inherit deadline and trace.
    let stack = Handler {};
    // The application's own code, within the handler's context.
    let stack = Intercept::new(stack, admit.interceptors.clone());
    // Around business code, because only that panics.
    let stack = Catch::new(stack, admit.panics.clone());
    // Inside the pool, because it may run the handler; outside the catch, because a panic is an outcome too.
    let stack = Dedup::new(stack, dedup);
    // The instance's own limit: how many handlers run, how many calls wait.
    let stack = Pool::new(stack, pool);
    // Around all that waits.
    let stack = Deadline::new(stack, admit.timers);
    let gates = Gates {
        // First, because what is not meant for us, or too late, takes no place.
        admit: Admit::new(admit.identity),
        // Outside every limit, so that strangers take no place.
        authorize: Authorize::new(admit.verifier),
        // What is another instance's takes no place; inside authorization, because the refusal says who owns what.
        own_shard: OwnShard::new(admit.place),
        // Outside the queue, so that one method cannot fill it.
        threshold: Threshold {},
    };
    let stack = Gated { gates, inner: stack };
    // Outermost, so that refusals are counted too.
    Measure::new(stack)
}

/// What admission goes by.
pub(super) struct AdmitRules {
    /// `namespace/instance`; a call for another one is refused.
    pub(super) identity: Option<String>,
    /// Where this instance is, for [`OwnShard`].
    pub(super) place: super::shard::Place,
    pub(super) panics: prometheus::IntCounter,
    /// What ends calls whose deadline passes.
    pub(super) timers: Timers,
    /// Checks callers' tokens, where the provider trusts any.
    pub(super) verifier: Option<Arc<TokenVerifier>>,
    pub(super) interceptors: ServerInterceptors,
}

/// The innermost stage: runs the handler, where the call came in, or on a thread of its own where it blocks.
pub(super) struct Handler {}

impl Stage for Handler {
    async fn call(&self, call: &mut InboundCall) -> Result<Response<Frame>, Status> {
        let (method, context) = (&call.method, &call.context);
        let message = std::mem::replace(&mut call.message, Ok(Bytes::new()))?;
        let request = Request::from_parts(message, context.metadata().clone());
        let handled = method.service.clone().call(method.place, request);
        let handled = context.clone().scope(handled);
        if method.blocking || method.watched.blocks() {
            let places = std::mem::take(&mut call.places);
            // Apart, so that the other methods' futures stay small.
            let result = Box::pin(on_thread(handled, places)).await;
            return concluded(context, result);
        }
        let mut handled = pin!(handled);
        let polled = |cx: &mut TaskContext<'_>| method.watched.poll(|| handled.as_mut().poll(cx));
        let result = std::future::poll_fn(polled).await;
        call.places.finished();
        // Whatever stages do behind it.
        call.places = Places::default();
        concluded(context, result)
    }
}

/// What a handler's outcome says of this call, and not of those that it made itself.
fn concluded(context: &Context, result: Result<Response<Frame>, Status>) -> Result<Response<Frame>, Status> {
    match result {
        Ok(mut response) => {
            // A reply that it passes on was a replay perhaps; this handler did run.
            response.metadata_mut().remove_reserved(REPLAYED);
            Ok(response)
        }
        Err(status) => {
            let status = own(status);
            // What failed below after all its retries is not attempted again above, or each tier would multiply them. A
            // handler that says otherwise knows better.
            Err(match context.retries_spent() && status.pushback().is_none() {
                true => status.without_retry(),
                false => status,
            })
        }
    }
}

/// A handler that passes on the status of a call of its own must not pass on its reason: "refused by the queue" would
/// tell the caller that this handler never ran. What [`super::service::handle`] says about messages stays.
pub(super) fn own(mut status: Status) -> Status {
    let reason = status.metadata().get(REASON).and_then(Reason::from_name);
    status.metadata_mut().remove_reserved(REPLAYED);
    if !matches!(reason, None | Some(Reason::Malformed | Reason::TooLarge)) {
        status.metadata_mut().remove_reserved(REASON);
    }
    status
}
