//! A handler's future and what stands around it, in one allocation: most calls wait for nothing else, and theirs is all
//! that is left of the path once they are let in.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::future::BoxFuture;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::admission::{GRACE, outlived};
use super::limits::Places;
use super::observe::{Measured, panicked};
use super::provider::HostedMethod;
use super::stack::{Shared, own};
use crate::context::{Carried, Context, Scoped};
use crate::metadata::Metadata;
use crate::moment::Moment;
use crate::timer::Timer;
use crate::wire::InboundReply;
use crate::wire::headers::REPLAYED;

/// What a handler runs within: its call's [`Context`], the watchdog, and where nothing else stands between, all that ends
/// with the handler: deadline, limits, metrics, panics.
///
/// A [`Service`](super::Service) gets one with each call and hands the handler's future to it.
pub struct CallScope {
    context: Carried,
    /// `None` where no provider stands around.
    around: Option<Around>,
}

impl std::fmt::Debug for CallScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.around.as_ref().map(|around| &around.method.path);
        f.debug_struct("CallScope")
            .field("method", &path)
            .finish_non_exhaustive()
    }
}

impl CallScope {
    /// Around a handler that is tried by itself, without a provider: an empty context, and nothing that governs it.
    pub fn alone() -> Self {
        CallScope {
            context: Carried::Own(Context::new(None, Metadata::new())),
            around: None,
        }
    }

    /// Around a handler to which the call goes straight.
    pub(super) fn straight(method: Arc<HostedMethod>, context: Carried, ending: Ending) -> Self {
        let around = Around {
            method,
            watched: true,
            ending: Some(ending),
        };
        CallScope {
            context,
            around: Some(around),
        }
    }

    /// Around a handler behind stages that do the rest. `watched`: it is polled where the I/O is done.
    pub(super) fn of_handler(method: Arc<HostedMethod>, context: Carried, watched: bool) -> Self {
        let around = Around {
            method,
            watched,
            ending: None,
        };
        CallScope {
            context,
            around: Some(around),
        }
    }

    /// The handler's future, within the scope.
    pub fn run<F>(self, handled: F) -> BoxFuture<'static, InboundReply>
    where
        F: Future<Output = InboundReply> + Send + 'static,
    {
        // The place first, and what goes there is made in it instead of being moved there.
        let place = Box::new_uninit();
        let handling = Handling {
            handled: Scoped::new(self.context, handled),
            around: self.around,
        };
        let handling: Box<Handling<F>> = Box::write(place, handling);
        Box::into_pin(handling)
    }
}

pin_project! {
    struct Handling<F> {
        // Dropped first: a call's places are free when its handler has gone.
        #[pin]
        handled: Scoped<F>,
        around: Option<Around>,
    }
}

impl<F: Future<Output = InboundReply>> Future for Handling<F> {
    type Output = InboundReply;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<InboundReply> {
        let mut this = self.project();
        let Some(around) = this.around else {
            return this.handled.poll(cx);
        };
        let handled = this.handled.as_mut();
        // Nothing of ours is left half-changed, and nobody looks at what is left of the handler.
        let poll = AssertUnwindSafe(|| around.method.watched.poll(around.watched, || handled.poll(cx)));
        let polled = catch_unwind(poll);
        let returned = matches!(polled, Ok(Poll::Ready(_)));
        let answer = match (polled, &mut around.ending) {
            (Ok(Poll::Ready(result)), _) => concluded(this.handled.context(), result),
            (Ok(Poll::Pending), None) => return Poll::Pending,
            (Ok(Poll::Pending), Some(ending)) => {
                let context = this.handled.as_mut().context();
                if !ending.is_late(context, cx) {
                    return Poll::Pending;
                }
                this.handled.cancel();
                Err(outlived(&around.method))
            }
            (Err(panic), None) => resume_unwind(panic),
            (Err(_), Some(ending)) => {
                // What is left of it goes before its places do, and may panic as well.
                let _ = catch_unwind(AssertUnwindSafe(|| this.handled.as_mut().cancel()));
                Err(panicked(&around.method, &ending.shared.panics))
            }
        };
        if let Some(ending) = &mut around.ending {
            ending.end(&answer, returned);
        }
        Poll::Ready(answer)
    }
}

struct Around {
    method: Arc<HostedMethod>,
    watched: bool,
    /// `None` where other stages do it.
    ending: Option<Ending>,
}

/// What ends with the handler where no other stage stands between.
pub(super) struct Ending {
    shared: Arc<Shared>,
    places: Places,
    measured: Measured,
    /// Only where it is needed: most handlers are done when they are first polled.
    timer: Option<Timer>,
}

impl Ending {
    pub(super) fn new(shared: Arc<Shared>, places: Places, measured: Measured) -> Self {
        Ending {
            shared,
            places,
            measured,
            timer: None,
        }
    }

    /// Whether the deadline has passed; wakes the task when it does.
    fn is_late(&mut self, context: Option<&Context>, cx: &TaskContext<'_>) -> bool {
        let Some(deadline) = context.and_then(Context::deadline) else {
            return false;
        };
        let timers = &self.shared.timers;
        let timer = self
            .timer
            .get_or_insert_with(|| timers.at(Moment::from(deadline) + GRACE));
        timer.poll(cx).is_ready()
    }

    /// One look at the clock for all who want to know how long it took. Where the handler has not `returned`, its time says
    /// only that it would have taken longer: then its places are given back as those of a call that is given up.
    #[inline]
    fn end(&mut self, answer: &InboundReply, returned: bool) {
        let now = Instant::now();
        if returned {
            self.places.finished(now);
        }
        self.places = Places::default();
        self.measured.end(now, answer.as_ref().map(drop));
    }
}

/// What a handler's outcome says of this call, and not of those that it made itself.
fn concluded(context: Option<&Context>, result: InboundReply) -> InboundReply {
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
            let spent = context.is_some_and(Context::retries_spent);
            Err(match spent && status.pushback().is_none() {
                true => status.without_retry(),
                false => status,
            })
        }
    }
}
