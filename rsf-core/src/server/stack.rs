//! Where the path of an incoming call is composed, and what its stages hand to each other.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use prometheus::IntCounter;
use tokio::time::Instant;

use super::admission::{Admit, Deadline};
use super::authorize::Authorize;
use super::blocking::on_thread;
use super::dedup::{self, Dedup};
use super::handling::{CallScope, Ending, Handled, calling};
use super::intercept::{Intercept, ServerInterceptors};
use super::limits::{Groups, Places, Pool, PoolLimits, ThresholdPlace, threshold};
use super::observe::{Catch, Measured, panicked, panicked_around};
use super::provider::HostedMethod;
use super::shard::OwnShard;
use crate::context::Carried;
use crate::error::REASON;
use crate::identity::{Peer, TokenVerifier};
use crate::message::{Request, Response};
use crate::outcome::Reason;
use crate::status::Status;
use crate::timer::Timers;
use crate::wire::headers::REPLAYED;
use crate::wire::{Frame, InboundReply};

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
    pub(super) context: Carried,
    /// Who the wire has proven to be at the other end.
    pub(super) peer: Option<Peer>,
    /// What the call has taken of the limits; free again when the handler has ended.
    pub(super) places: Places,
}

impl InboundCall {
    /// The call for its handler, which takes the places along. What stays is for interceptors to look at.
    pub(super) fn for_handler(&mut self) -> InboundCall {
        InboundCall {
            method: self.method.clone(),
            arrived: self.arrived,
            message: self.message.clone(),
            context: Carried::Shared(self.context.share()),
            peer: self.peer.clone(),
            places: std::mem::take(&mut self.places),
        }
    }
}

/// The whole path of a call: gates, which each call passes at once; then the handler in its scope, where nothing else is to
/// be waited for, or the stages that wait.
pub(super) struct ServerStack {
    gates: Gates,
    shared: Arc<Shared>,
    stages: Deadline<Pool<Dedup<Catch<Intercept<Handler>>>>>,
    /// Whether the application has code of its own around its handlers.
    intercepted: bool,
}

/// What calls hold of the stack while their handlers run.
pub(super) struct Shared {
    /// What ends calls whose deadline passes.
    pub(super) timers: Timers,
    pub(super) panics: IntCounter,
    /// Where their places in it come back to.
    pub(super) pool: Arc<PoolLimits>,
}

/// The gates that each call passes, in this order; behind them stands its method's threshold.
struct Gates {
    admit: Admit,
    authorize: Authorize,
    own_shard: OwnShard,
}

impl Gate for Gates {
    #[inline(always)]
    fn enter(&self, call: &mut InboundCall) -> Result<(), Status> {
        self.admit.enter(call)?;
        self.authorize.enter(call)?;
        self.own_shard.enter(call)
    }
}

impl ServerStack {
    /// Lets a call of `method` in, or refuses it, now; what is left of its path is the future. Every call is measured,
    /// refusals included.
    #[inline(always)]
    pub(super) fn run(
        self: &Arc<Self>,
        method: &Arc<HostedMethod>,
        mut call: InboundCall,
    ) -> BoxFuture<'static, InboundReply> {
        // Outside the queue, so that one method cannot fill it; inside the gates, so that strangers take no place.
        let entered = self.gates.enter(&mut call);
        let groups = match entered.and_then(|()| threshold::enter(&method.limits)) {
            Ok(groups) => groups,
            Err(status) => return refused(method, call.arrived, status),
        };
        match self.goes_straight(method) && self.shared.pool.take_at_once(&method.limits) {
            true => {
                // Taken apart where it lies: as a whole it would be copied. What is left of it is empty.
                let InboundCall {
                    method: held,
                    arrived,
                    message,
                    context,
                    ..
                } = call;
                let ending = Ending::begin(held, &self.shared, groups, arrived);
                self.handle(method, message, context, ending)
            }
            false => self.make_wait(call, groups),
        }
    }

    /// Whether calls of the method wait for nothing but a place in the pool before their handler.
    #[inline(always)]
    fn goes_straight(&self, method: &HostedMethod) -> bool {
        !self.intercepted && method.dedup.is_none() && !method.blocks()
    }

    /// Hands a call that has all its places to its handler.
    #[inline(always)]
    fn handle(
        &self,
        method: &Arc<HostedMethod>,
        message: Result<Bytes, Status>,
        context: Carried,
        mut ending: Ending,
    ) -> BoxFuture<'static, InboundReply> {
        let message = match message {
            Ok(message) => message,
            Err(status) => {
                let answer = Err(status);
                ending.end(&answer, false);
                return Box::pin(std::future::ready(answer));
            }
        };
        let request = Request::from_parts(message, context.metadata().clone());
        let (service, place) = (method.service.clone(), method.place);
        let scope = CallScope::straight(context, ending);
        // What a service does before its handler's future may panic too.
        match calling(|| service.call(place, request, scope)) {
            Some(Handled(handling)) => handling,
            None => {
                let status = panicked(method, &self.shared.panics);
                Box::pin(std::future::ready(Err(status)))
            }
        }
    }

    #[cold]
    fn make_wait(
        self: &Arc<Self>,
        mut call: InboundCall,
        groups: Groups,
    ) -> BoxFuture<'static, InboundReply> {
        let measured = Measured::begin(&call.method, call.arrived);
        call.places.threshold = Some(ThresholdPlace::of(call.method.limits.clone(), groups));
        Box::pin(self.clone().wait(call, measured))
    }

    async fn wait(self: Arc<Self>, mut call: InboundCall, mut measured: Measured) -> InboundReply {
        // A handler's panic is caught further in. This is one of what the application has put around it: a store of outcomes.
        let caught = AssertUnwindSafe(self.stages.call(&mut call)).catch_unwind().await;
        let answer = caught.unwrap_or_else(|_| Err(panicked_around(&call.method)));
        measured.end(Instant::now(), answer.as_ref().map(drop));
        answer
    }
}

#[cold]
fn refused(method: &Arc<HostedMethod>, arrived: Instant, status: Status) -> BoxFuture<'static, InboundReply> {
    Measured::begin(method, arrived).end(Instant::now(), Err(&status));
    Box::pin(std::future::ready(Err(status)))
}

/// Composes the path. Tests run this very stack.
pub(super) fn server_stack(
    admit: AdmitRules,
    pool: Arc<PoolLimits>,
    dedup: Arc<dedup::Shared>,
) -> ServerStack {
    let stack = Handler {};
    // The application's own code, within the handler's context.
    let stack = Intercept::new(stack, admit.interceptors.clone());
    // Around business code, because only that panics.
    let stack = Catch::new(stack, admit.panics.clone());
    // Inside the pool, because it may run the handler; outside the catch, because a panic is an outcome too.
    let stack = Dedup::new(stack, dedup);
    // The instance's own limit: how many handlers run, how many calls wait.
    let stack = Pool::new(stack, pool.clone());
    // Around all that waits.
    let stages = Deadline::new(stack, admit.timers.clone());
    let gates = Gates {
        // First, because what is not meant for us, or too late, takes no place.
        admit: Admit::new(admit.identity),
        // Outside every limit, so that strangers take no place.
        authorize: Authorize::new(admit.verifier),
        // What is another instance's takes no place; inside authorization, because the refusal says who owns what.
        own_shard: OwnShard::new(admit.place),
    };
    let shared = Shared {
        timers: admit.timers,
        panics: admit.panics,
        pool,
    };
    ServerStack {
        gates,
        shared: Arc::new(shared),
        stages,
        intercepted: !admit.interceptors.is_empty(),
    }
}

/// What admission goes by.
pub(super) struct AdmitRules {
    /// `namespace/instance`; a call for another one is refused.
    pub(super) identity: Option<String>,
    /// Where this instance is, for [`OwnShard`].
    pub(super) place: super::shard::Place,
    pub(super) panics: IntCounter,
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
        let message = std::mem::replace(&mut call.message, Ok(Bytes::new()))?;
        let request = Request::from_parts(message, call.context.metadata().clone());
        // Within the handler's context, so that calls it makes inherit deadline and trace.
        let context = Carried::Shared(call.context.share());
        let (method, blocks) = (&call.method, call.method.blocks());
        let scope = CallScope::of_handler(method.clone(), context, !blocks);
        let handled = method.service.clone().call(method.place, request, scope);
        if blocks {
            let places = std::mem::take(&mut call.places);
            // Apart, so that the other methods' futures stay small.
            return Box::pin(on_thread(handled, places)).await.map_err(owned);
        }
        let result = handled.await;
        call.places.finished(Instant::now());
        // Whatever stages do behind it.
        call.places = Places::default();
        result
    }
}

/// A handler that passes on the status of a call of its own must not pass on its reason: "refused by the queue" would
/// tell the caller that this handler never ran. What [`super::service::handle`] says about messages stays.
pub(super) fn owned(mut status: Status) -> Status {
    own(&mut status);
    status
}

/// The same in its place.
pub(super) fn own(status: &mut Status) {
    let reason = status.metadata().get(REASON).and_then(Reason::from_name);
    status.metadata_mut().remove_reserved(REPLAYED);
    if !matches!(reason, None | Some(Reason::Malformed | Reason::TooLarge)) {
        status.metadata_mut().remove_reserved(REASON);
    }
}
