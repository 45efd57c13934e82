//! Where the path of an outgoing call is composed, and what its stages hand to each other.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::fair_time;
use super::balance::Pool;
use super::channel::{ChannelState, MethodState};
use super::deadline::Deadline;
use super::degrade::Degrade;
use super::guards::Guards;
use super::intercept::Intercept;
use super::limit::Limit;
use super::method_breaker::MethodBreaker;
use super::observe::{Measure, Trace};
use super::retry::Retry;
use super::route::Route;
use super::snapshot::ServiceSnapshot;
use crate::call::HandOver;
use crate::context::Context;
use crate::error::{AttemptLog, RpcError};
use crate::metadata::Metadata;
use crate::moment::Moment;
use crate::policy::MethodPolicy;
use crate::wire::{Frame, OwnHeaders, RequestId, TraceParent, UnaryReply};

/// One stage of the path; it wraps the stages behind it.
pub(crate) trait Stage: Send + Sync + 'static {
    fn call(&self, call: &mut OutboundCall) -> impl Future<Output = Result<UnaryReply, RpcError>> + Send;
}

/// A logical call on its way down the stack. Stages fill in what the ones below need.
pub(crate) struct OutboundCall {
    pub(crate) channel: Arc<ChannelState>,
    pub(crate) snapshot: Arc<ServiceSnapshot>,
    pub(crate) method: usize,
    pub(crate) frame: Frame,
    pub(crate) metadata: Metadata,
    pub(crate) request_id: RequestId,
    /// What the caller set for this call.
    pub(crate) timeout: Option<Duration>,
    /// The call that is being handled while this one is made.
    pub(crate) parent: Option<Arc<Context>>,
    pub(crate) begun: Instant,
    /// Read from the clock when the call began, and again after whatever took time: one clock read serves all stages.
    pub(crate) now: Moment,
    /// Set by [`Trace`].
    pub(crate) trace: Option<TraceParent>,
    /// Set by [`Deadline`].
    pub(crate) deadline: Instant,
    /// The place of the pool in the snapshot; set by [`Route`].
    pub(crate) pool: usize,
    /// The hash of the routing key where the call has one; set by [`Route`].
    pub(crate) key: Option<u64>,
    /// The routing key that the caller named.
    pub(crate) routing_key: Option<Box<str>>,
    /// RSF's own headers that most calls do not have.
    pub(crate) own: OwnHeaders,
    /// Whom to tell that the request is handed over; `None` where the caller waits for the reply.
    pub(crate) one_way: Option<HandOver>,
    /// Where somebody wants to know every attempt, those of a success too.
    pub(crate) log: Option<AttemptLog>,
}

impl OutboundCall {
    pub(crate) fn policy(&self) -> &MethodPolicy {
        &self.snapshot.methods[self.method]
    }

    /// What stands before the method's calls.
    pub(crate) fn guards(&self) -> &Guards {
        &self.snapshot.guards[self.method]
    }

    /// The time that the service is to have for an answer before its silence says anything.
    pub(crate) fn fair_time(&self) -> Duration {
        fair_time(Duration::from_millis(self.policy().call.timeout_ms))
    }

    /// Whether the call may be attempted again after its handler may have run. A one-way call may not: nobody would
    /// learn how often it ran.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.policy().may_repeat() && self.one_way.is_none()
    }

    /// The instances that the call may go to.
    pub(crate) fn pool(&self) -> &Pool {
        &self.snapshot.pools[self.pool]
    }

    pub(crate) fn method(&self) -> &MethodState {
        &self.channel.methods[self.method]
    }
}

/// The whole path of a call.
pub(crate) type ClientStack =
    Trace<Measure<Intercept<Degrade<Deadline<Limit<MethodBreaker<Route<Retry>>>>>>>>;

/// Composes the path, outermost first. Tests run this very stack.
pub(crate) fn client_stack() -> ClientStack {
    // What is sent: the retry stage starts attempts, and each goes balance → node breaker → endpoint → wire.
    let stack = Retry::new();
    // Outside retry: all attempts of a call belong to one pool, or a retry could leave its zone or shard.
    let stack = Route::new(stack);
    // Outside routing, so that an open breaker costs nothing; inside the limits, whose refusals say nothing about the
    // method.
    let stack = MethodBreaker::new(stack);
    // Outside the breaker, so that what is not sent is not counted.
    let stack = Limit::new(stack);
    // Outside everything that can take time and is bounded by it.
    let stack = Deadline::new(stack);
    // Outside the deadline, so that a call that ran out of time can still be answered.
    let stack = Degrade::new(stack);
    // Outside all of RSF's own answers, so that the application's code sees the call as its caller does.
    let stack = Intercept::new(stack);
    // Outside whatever can answer, so that every call is counted once, as its caller saw it.
    let stack = Measure::new(stack);
    // Outermost, because all the others happen within the span.
    Trace::new(stack)
}
