//! The future of a call, from its first guard to its outcome.

use std::borrow::BorrowMut;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::retry::Attempts;
use super::route::{Agreement, is_disagreement, route};
use super::stack::{Around, Before, Guard, OutboundCall, Outcome};

/// A call without interceptors: [`Around`] it all, and the [`Course`].
pub(super) struct Governed {
    /// What the guards around it keep once it has begun.
    around: Option<<Around as Guard>::Pass>,
    course: Course<OutboundCall>,
}

impl Governed {
    #[inline(always)]
    pub(super) fn new(call: OutboundCall) -> Self {
        Governed {
            around: None,
            course: Course::new(call),
        }
    }
}

impl Future for Governed {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        if this.around.is_none() {
            let call = &mut this.course.call;
            call.begin();
            match Around::enter(call) {
                Ok(pass) => this.around = Some(pass),
                Err(outcome) => return Poll::Ready(outcome),
            }
        }
        let mut outcome = ready!(Pin::new(&mut this.course).poll(cx));
        if let Some(pass) = this.around.take() {
            Around::leave(pass, &mut this.course.call, &mut outcome);
        }
        Poll::Ready(outcome)
    }
}

/// What is inside the interceptors: the guards [`Before`], routing, and the attempts. The call is its own or, where
/// interceptors stand around it, lent.
pub(super) struct Course<C: BorrowMut<OutboundCall>> {
    call: C,
    phase: Phase,
    /// What the guards keep until the end.
    before: Option<<Before as Guard>::Pass>,
    /// Where consumer and provider have disagreed about a shard; boxed, because few calls come to that.
    agreement: Option<Box<Agreement>>,
}

enum Phase {
    Guards,
    Routing,
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

    /// From routing to the outcome.
    #[inline(always)]
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let call = self.call.borrow_mut();
        loop {
            match &mut self.phase {
                Phase::Attempts(attempts) => match ready!(attempts.poll(call, cx)) {
                    Err(error) if is_disagreement(&error) => {
                        self.agreement.get_or_insert_default().seek(call, error)?;
                        self.phase = Phase::Agreement;
                    }
                    outcome => return Poll::Ready(outcome),
                },
                Phase::Guards | Phase::Routing => {
                    route(call)?;
                    self.phase = Phase::Attempts(Attempts::start(call));
                }
                Phase::Agreement => {
                    if let Some(agreement) = &mut self.agreement {
                        ready!(agreement.poll(call, cx))?;
                    }
                    self.phase = Phase::Routing;
                }
                Phase::Over => return Poll::Pending,
            }
        }
    }
}

impl<C: BorrowMut<OutboundCall> + Unpin> Future for Course<C> {
    type Output = Outcome;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        if let Phase::Guards = this.phase {
            let call = this.call.borrow_mut();
            match Before::enter(call) {
                Ok(pass) => this.before = Some(pass),
                Err(outcome) => {
                    this.phase = Phase::Over;
                    return Poll::Ready(outcome);
                }
            }
            // Once a call, however often it is routed.
            call.snapshot.budget.deposit(call.now);
        }
        let mut outcome = ready!(this.poll_outcome(cx));
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
