//! The future of a call, from its first guard to its outcome.

use std::borrow::BorrowMut;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;

use super::intercept::intercepted;
use super::retry::Attempts;
use super::route::{Agreement, is_disagreement, route};
use super::stack::{Around, Before, Guard, OutboundCall, Outcome};

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
        // Made where it is, and looked at there by all that it passes: what goes from hand to hand is written each time.
        let mut place = None;
        self.course.go_on(cx, &mut place);
        if let Some(outcome) = &mut place {
            self.surroundings.leave(&mut self.course.call, outcome);
        }
        place.map_or(Poll::Pending, Poll::Ready)
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

    /// Goes on, and puts the outcome into `place` as soon as it is there.
    #[inline(always)]
    fn go_on(&mut self, cx: &mut Context<'_>, place: &mut Option<Outcome>) {
        match self.phase {
            Phase::Guards => match self.begin() {
                Ok(()) => self.poll_attempts(cx, place),
                Err(outcome) => *place = Some(outcome),
            },
            Phase::Attempts(_) => self.poll_attempts(cx, place),
            Phase::Agreement => {
                if let Poll::Ready(outcome) = self.poll_agreement(cx) {
                    *place = Some(outcome);
                }
            }
            Phase::Over => panic!("the future of a call is polled after its end"),
        }
        if let Some(outcome) = place {
            self.phase = Phase::Over;
            if let Some(pass) = self.before.take() {
                Before::leave(pass, self.call.borrow_mut(), outcome);
            }
        }
    }

    /// The attempts' outcome, as far as consumer and provider agree.
    #[inline(always)]
    fn poll_attempts(&mut self, cx: &mut Context<'_>, place: &mut Option<Outcome>) {
        let Phase::Attempts(attempts) = &mut self.phase else {
            // Who calls this has looked.
            return;
        };
        attempts.poll(self.call.borrow_mut(), cx, place);
        if let Some(Err(error)) = place
            && is_disagreement(error)
        {
            self.disagree(cx, place);
        }
    }

    #[cold]
    fn disagree(&mut self, cx: &mut Context<'_>, place: &mut Option<Outcome>) {
        let Some(Err(error)) = place.take() else {
            return;
        };
        let agreement = self.agreement.get_or_insert_default();
        if let Err(error) = agreement.seek(self.call.borrow_mut(), error) {
            *place = Some(Err(error));
            return;
        }
        self.phase = Phase::Agreement;
        if let Poll::Ready(outcome) = self.poll_agreement(cx) {
            *place = Some(outcome);
        }
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
            let mut outcome = None;
            attempts.poll(call, cx, &mut outcome);
            match outcome {
                None => {
                    self.phase = Phase::Attempts(attempts);
                    return Poll::Pending;
                }
                Some(Err(error)) if is_disagreement(&error) => agreement.seek(call, error)?,
                Some(outcome) => return Poll::Ready(outcome),
            }
        }
    }
}

impl<C: BorrowMut<OutboundCall> + Unpin> Future for Course<C> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut place = None;
        self.go_on(cx, &mut place);
        place.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<C: BorrowMut<OutboundCall>> Drop for Course<C> {
    fn drop(&mut self) {
        if let Phase::Attempts(attempts) = &mut self.phase {
            attempts.abandon(self.call.borrow_mut());
        }
    }
}
