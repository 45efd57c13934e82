//! Where the path of an outgoing call is composed, and what it hands from one part to the next.
//!
//! [`Around`] → the application's interceptors → [`Before`] → routing → attempts, each of which goes balance → node breaker →
//! endpoint → wire. All attempts of a call belong to the one pool that routing chose, or a retry could leave its zone or shard.
//! Guards do not wait; what waits is one future written by hand ([`Governed`](super::governed::Governed)), because each layer
//! of an asynchronous function would cost every call its own place, its own moves and its own poll. What every call passes
//! through is marked `inline(always)` and becomes one function; left to itself the compiler makes a dozen of it, and each call
//! pays for their beginnings and ends (docs/performance.md).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::attempt::fair_time;
use super::balance::Pool;
use super::budget::Credit;
use super::channel::{ChannelState, MethodState};
use super::deadline::Deadline;
use super::degrade::Degrade;
use super::guards::Guards;
use super::limit::Limit;
use super::method_breaker::MethodBreaker;
use super::observe::{Measure, Trace};
use super::snapshot::ServiceSnapshot;
use crate::call::CallOptions;
use crate::error::RpcError;
use crate::moment::Moment;
use crate::policy::MethodPolicy;
use crate::wire::{Frame, OwnHeaders, RequestId, TraceParent, UnaryReply};

/// How a call ends, as what it passes sees it.
pub(crate) type Outcome = Result<UnaryReply, RpcError>;

/// A part of the path that does not wait: it acts before what is behind it and after. Two of them, one behind the other,
/// are one; however many there are, a call holds only what each keeps for the time between.
pub(crate) trait Guard {
    /// What it keeps. Dropped without [`Guard::leave`]: nobody waits for the call any more.
    type Pass: Send;

    /// Lets the call pass, or ends it.
    fn enter(call: &mut OutboundCall) -> Result<Self::Pass, Outcome>;

    /// Takes in how the call ended behind it, and may change that for those before it.
    #[inline(always)]
    fn leave(_pass: Self::Pass, _call: &mut OutboundCall, _outcome: &mut Outcome) {}
}

impl<A: Guard, B: Guard> Guard for (A, B) {
    type Pass = (A::Pass, B::Pass);

    #[inline(always)]
    fn enter(call: &mut OutboundCall) -> Result<Self::Pass, Outcome> {
        let outer = A::enter(call)?;
        match B::enter(call) {
            Ok(inner) => Ok((outer, inner)),
            Err(mut outcome) => {
                A::leave(outer, call, &mut outcome);
                Err(outcome)
            }
        }
    }

    #[inline(always)]
    fn leave((outer, inner): Self::Pass, call: &mut OutboundCall, outcome: &mut Outcome) {
        B::leave(inner, call, outcome);
        A::leave(outer, call, outcome);
    }
}

/// Around all that a call meets, outermost first: its span, then its measurement, so that every call is counted once, as
/// its caller saw it. The application's interceptors stand between these and [`Before`], so that they see the call, and RSF's
/// own answers to it, as its caller does.
pub(crate) type Around = (Trace, Measure);

/// Before the call is routed and sent, outermost first.
pub(crate) type Before = (
    // Outside the deadline, so that a call that ran out of time can still be answered.
    Degrade,
    (
        // Outside everything that can take time and is bounded by it.
        Deadline,
        (
            // Outside the breaker, so that what is not sent is not counted.
            Limit,
            // Outside routing, so that an open breaker costs nothing; inside the limits, whose refusals say nothing about
            // the method.
            MethodBreaker,
        ),
    ),
);

/// A logical call on its way down the stack. Each part fills in what the ones behind it need.
pub(crate) struct OutboundCall {
    pub(crate) channel: Arc<ChannelState>,
    pub(crate) snapshot: Arc<ServiceSnapshot>,
    pub(crate) method: usize,
    pub(crate) frame: Frame,
    pub(crate) options: CallOptions,
    pub(crate) request_id: RequestId,
    /// Drawn for this call: its span, its id where the caller named none, and its lot where routing goes
    /// by shares: however often it is routed, it stays on one side.
    pub(crate) number: u64,
    /// [`Moment::epoch`] until it has begun.
    pub(crate) begun: Moment,
    /// Read from the clock when the call began, and again after whatever took time: one clock read serves them all.
    pub(crate) now: Moment,
    /// Set by [`Trace`].
    pub(crate) trace: Option<TraceParent>,
    /// Set by [`Deadline`].
    pub(crate) deadline: Moment,
    /// The place of the pool in the snapshot; set by [`route`](super::route::route).
    pub(crate) pool: usize,
    /// The hash of the routing key where the call has one; set by [`route`](super::route::route).
    pub(crate) key: Option<u64>,
    /// RSF's own headers. Boxed, because most calls have none.
    pub(crate) own: Option<Box<OwnHeaders>>,
}

impl OutboundCall {
    /// The call's time begins, however long its future has lain about, unless it has begun.
    #[inline(always)]
    pub(crate) fn begin(&mut self) {
        self.now = Moment::now();
        if self.begun == Moment::epoch() {
            self.begun = self.now;
        }
    }

    #[inline(always)]
    pub(crate) fn policy(&self) -> &MethodPolicy {
        &self.snapshot.methods[self.method]
    }

    /// What stands before the method's calls.
    #[inline(always)]
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
        self.policy().may_repeat() && self.options.one_way().is_none()
    }

    /// RSF's own headers that most calls do not have.
    #[inline(always)]
    pub(crate) fn own(&self) -> &[(HeaderName, HeaderValue)] {
        self.own.as_ref().map_or(&[], |own| own)
    }

    /// The instances that the call may go to.
    #[inline(always)]
    pub(crate) fn pool(&self) -> &Pool {
        &self.snapshot.pools[self.pool]
    }

    #[inline(always)]
    pub(crate) fn method(&self) -> &MethodState {
        &self.channel.methods[self.method]
    }
}
