//! The future of a call, from its first guard to its outcome.

use std::borrow::BorrowMut;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;

use super::intercept::intercepted;
use super::retry::Attempts;
use super::route::{Agreement, is_disagreement, route};
use super::stack::{Around, Before, Guard, OutboundCall, Outcome};
use crate::error::RpcError;

/// The future of a call. What most calls are lies in place: a box would cost each of them its making, its end, and a move of
/// all that the call is.
#[allow(clippy::large_enum_variant, reason = "the large one is the rule")]
pub(crate) enum Running {
    Bare(Governed),
    /// With the application's own code around it, before the first snapshot, or refused before it began.
    Boxed(BoxFuture<'static, Outcome>),
}

impl Running {
    /// The future of a call that has its snapshot.
    #[inline(always)]
    pub(super) fn new(call: OutboundCall) -> Running {
        if call.channel.shared.interceptors.is_empty() {
            Running::Bare(Governed {
                course: Course::new(call),
                surroundings: Surroundings::default(),
            })
        } else {
            Running::Boxed(Box::pin(intercepted(call)))
        }
    }
}

impl Future for Running {
    type Output = Outcome;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.get_mut() {
            Running::Bare(governed) => governed.poll(cx),
            Running::Boxed(boxed) => boxed.as_mut().poll(cx),
        }
    }
}

/// A call without interceptors: its [`Surroundings`] and its [`Course`].
pub(crate) struct Governed {
    // Before what is around it: a call that is dropped is counted as cancelled when its attempts are.
    course: Course<OutboundCall>,
    surroundings: Surroundings,
}

impl Governed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Phase::Guards = self.course.phase
            && let Err(outcome) = self.surroundings.enter(&mut self.course.call)
        {
            self.course.phase = Phase::Over;
            return Poll::Ready(outcome);
        }
        let mut outcome = ready!(Pin::new(&mut self.course).poll(cx));
        self.surroundings.leave(&mut self.course.call, &mut outcome);
        Poll::Ready(outcome)
    }
}

/// What is [`Around`] a call from its first poll to its end, whoever else stands around it. Dropped before the end, the call
/// is counted as cancelled.
#[derive(Default)]
pub(super) struct Surroundings {
    /// What the guards keep once the call has begun.
    pass: Option<<Around as Guard>::Pass>,
}

impl Surroundings {
    /// The call begins.
    #[inline(always)]
    pub(super) fn enter(&mut self, call: &mut OutboundCall) -> Result<(), Outcome> {
        call.begin();
        self.pass = Some(Around::enter(call)?);
        Ok(())
    }

    /// The call has ended.
    #[inline(always)]
    pub(super) fn leave(&mut self, call: &mut OutboundCall, outcome: &mut Outcome) {
        if let Some(pass) = self.pass.take() {
            Around::leave(pass, call, outcome);
        }
    }
}

/// What is inside the interceptors: the guards [`Before`], routing, and the attempts. The call is its own or, where
/// interceptors stand around it, lent.
pub(super) struct Course<C: BorrowMut<OutboundCall>> {
    call: C,
    // Before what the guards keep: an attempt is cancelled, and then its place is free.
    phase: Phase,
    /// What the guards keep until the end.
    before: Option<<Before as Guard>::Pass>,
    /// Where consumer and provider have disagreed about a shard; boxed, because few calls come to that.
    agreement: Option<Box<Agreement>>,
}

enum Phase {
    Guards,
    Attempts(Attempts),
    Agreement,
    Over,
}

impl<C: BorrowMut<OutboundCall>> Course<C> {
    #[inline(always)]
    pub(super) fn new(call: C) -> Self {
        Course {
            call,
            phase: Phase::Guards,
            before: None,
            agreement: None,
        }
    }

    /// Passes the guards and sends the first attempt.
    #[inline(always)]
    fn begin(&mut self) -> Result<(), Outcome> {
        let call = self.call.borrow_mut();
        self.before = Some(Before::enter(call)?);
        // Once a call, however often it is routed.
        call.snapshot.budget.deposit(call.now);
        route(call).map_err(Err)?;
        // The place first, and the attempt is made in it instead of being moved there.
        self.phase = Phase::Attempts(Attempts::new(call));
        if let Phase::Attempts(attempts) = &mut self.phase {
            attempts.start(call);
        }
        Ok(())
    }

    /// The attempts' outcome, as far as consumer and provider agree.
    #[inline(always)]
    fn poll_attempts(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Phase::Attempts(attempts) = &mut self.phase else {
            // Who calls this has looked.
            return Poll::Pending;
        };
        match ready!(attempts.poll(self.call.borrow_mut(), cx)) {
            Err(error) if is_disagreement(&error) => self.disagree(error, cx),
            outcome => Poll::Ready(outcome),
        }
    }

    #[cold]
    fn disagree(&mut self, error: RpcError, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.agreement
            .get_or_insert_default()
            .seek(self.call.borrow_mut(), error)?;
        self.phase = Phase::Agreement;
        self.poll_agreement(cx)
    }

    /// Waits for the two to agree, and attempts the call once more.
    #[cold]
    fn poll_agreement(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let call = self.call.borrow_mut();
        let agreement = self.agreement.get_or_insert_default();
        loop {
            ready!(agreement.poll(call, cx))?;
            route(call)?;
            let mut attempts = Attempts::new(call);
            attempts.start(call);
            match attempts.poll(call, cx) {
                Poll::Pending => {
                    self.phase = Phase::Attempts(attempts);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) if is_disagreement(&error) => agreement.seek(call, error)?,
                Poll::Ready(outcome) => return Poll::Ready(outcome),
            }
        }
    }
}

impl<C: BorrowMut<OutboundCall> + Unpin> Future for Course<C> {
    type Output = Outcome;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        let begun = match this.phase {
            Phase::Guards => this.begin(),
            Phase::Attempts(_) | Phase::Agreement => Ok(()),
            Phase::Over => panic!("the future of a call is polled after its end"),
        };
        let mut outcome = match (begun, &this.phase) {
            (Err(outcome), _) => outcome,
            (Ok(()), Phase::Agreement) => ready!(this.poll_agreement(cx)),
            (Ok(()), _) => ready!(this.poll_attempts(cx)),
        };
        this.phase = Phase::Over;
        if let Some(pass) = this.before.take() {
            Before::leave(pass, this.call.borrow_mut(), &mut outcome);
        }
        Poll::Ready(outcome)
    }
}

impl<C: BorrowMut<OutboundCall>> Drop for Course<C> {
    fn drop(&mut self) {
        if let Phase::Attempts(attempts) = &mut self.phase {
            attempts.abandon(self.call.borrow_mut());
        }
    }
}
