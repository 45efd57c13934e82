//! Where the path of an outgoing call is composed, and what its stages hand to each other.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::fair_time;
use super::balance::Pool;
use super::budget::Credit;
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

/// How a call ends, as its stages see it.
pub(crate) type Outcome = Result<UnaryReply, RpcError>;

/// One stage of the path that waits; it wraps the stages behind it.
pub(crate) trait Stage: Send + Sync + 'static {
    fn call(&self, call: &mut OutboundCall) -> impl Future<Output = Outcome> + Send;
}

/// One stage of the path that does not wait: it acts before what is behind it and after. Two of them, one behind the other,
/// are one; however many there are, the future of a call holds only what each keeps for the time between.
pub(crate) trait Guard: Send + Sync + 'static {
    /// What it keeps. Dropped without [`Guard::leave`]: nobody waits for the call any more.
    type Pass: Send;

    /// Lets the call pass, or ends it.
    fn enter(&self, call: &mut OutboundCall) -> Result<Self::Pass, Outcome>;

    /// Takes in how the call ended behind it; what it returns is how the call ends for those before it.
    #[inline]
    fn leave(&self, _pass: Self::Pass, _call: &mut OutboundCall, outcome: Outcome) -> Outcome {
        outcome
    }
}

impl<A: Guard, B: Guard> Guard for (A, B) {
    type Pass = (A::Pass, B::Pass);

    #[inline]
    fn enter(&self, call: &mut OutboundCall) -> Result<Self::Pass, Outcome> {
        let outer = self.0.enter(call)?;
        match self.1.enter(call) {
            Ok(inner) => Ok((outer, inner)),
            Err(outcome) => Err(self.0.leave(outer, call, outcome)),
        }
    }

    #[inline]
    fn leave(&self, (outer, inner): Self::Pass, call: &mut OutboundCall, outcome: Outcome) -> Outcome {
        let outcome = self.1.leave(inner, call, outcome);
        self.0.leave(outer, call, outcome)
    }
}

/// Guards, and the stage behind them.
pub(crate) struct Guarded<G, S> {
    guard: G,
    inner: S,
}

impl<G, S> Guarded<G, S> {
    fn new(guard: G, inner: S) -> Self {
        Guarded { guard, inner }
    }
}

impl<G: Guard, S: Stage> Stage for Guarded<G, S> {
    async fn call(&self, call: &mut OutboundCall) -> Outcome {
        match self.guard.enter(call) {
            Ok(pass) => {
                let outcome = self.inner.call(call).await;
                self.guard.leave(pass, call, outcome)
            }
            Err(outcome) => outcome,
        }
    }
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
    /// The call's time begins.
    pub(crate) fn begin(&mut self) {
        self.now = Moment::now();
        self.begun = self.now.instant();
    }

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

    /// Takes the credit of one further request of the call; counts where there is none.
    pub(super) fn credit(&self, now: Moment) -> Option<Credit> {
        let credit = self.snapshot.budget.withdraw(now);
        if credit.is_none() {
            self.channel.shared.metrics.retry_budget_exhausted.inc();
        }
        credit
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
pub(crate) type ClientStack = Guarded<
    (Trace, Measure),
    Intercept<Guarded<(Degrade, (Deadline, (Limit, MethodBreaker))), Route<Retry>>>,
>;

/// Composes the path, outermost first. Tests run this very stack.
pub(crate) fn client_stack() -> ClientStack {
    // What is sent: the retry stage starts attempts, and each goes balance → node breaker → endpoint → wire.
    let stack = Retry::new();
    // Outside retry: all attempts of a call belong to one pool, or a retry could leave its zone or shard.
    let stack = Route::new(stack);
    // Outside routing, so that an open breaker costs nothing; inside the limits, whose refusals say nothing about the
    // method.
    let guards = MethodBreaker {};
    // Outside the breaker, so that what is not sent is not counted.
    let guards = (Limit {}, guards);
    // Outside everything that can take time and is bounded by it.
    let guards = (Deadline {}, guards);
    // Outside the deadline, so that a call that ran out of time can still be answered.
    let guards = (Degrade {}, guards);
    let stack = Guarded::new(guards, stack);
    // Outside all of RSF's own answers, so that the application's code sees the call as its caller does.
    let stack = Intercept::new(stack);
    // Outside whatever can answer, so that every call is counted once, as its caller saw it.
    let guards = Measure {};
    // Outermost, because all the others happen within the span.
    let guards = (Trace {}, guards);
    Guarded::new(guards, stack)
}
