//! A handler's future and what stands around it, in one allocation: most calls wait for nothing else, and theirs is all
//! that is left of the path once they are let in.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::admission::{GRACE, outlived};
use super::limits::{Groups, threshold};
use super::observe::{failure, panicked};
use super::provider::HostedMethod;
use super::stack::{Shared, own};
use crate::context::{Carried, Context, Scoped};
use crate::metadata::Metadata;
use crate::moment::{Moment, nanos};
use crate::outcome::Reason;
use crate::status::{Code, Status};
use crate::timer::Timer;
use crate::wire::InboundReply;
use crate::wire::headers::REPLAYED;

/// What a handler runs within: its call's [`Context`], the watchdog, and where nothing else stands between, all that ends
/// with the handler: deadline, limits, metrics, panics.
///
/// A [`Service`](super::Service) gets one with each call and hands the handler's future to it.
pub struct CallScope {
    context: Carried,
    around: Around,
}

/// What is done around a handler, beside its context.
enum Around {
    /// No provider stands around it.
    Nothing,
    /// Other stages do the rest; where `true`, its polls are watched.
    Watch(Arc<HostedMethod>, bool),
    /// All that ends with it.
    All(Ending),
}

impl std::fmt::Debug for CallScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = match &self.around {
            Around::Nothing => None,
            Around::Watch(method, _) => Some(&method.path),
            Around::All(ending) => Some(&ending.method.path),
        };
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
            around: Around::Nothing,
        }
    }

    /// Around a handler to which the call goes straight.
    #[inline(always)]
    pub(super) fn straight(context: Carried, ending: Ending) -> Self {
        CallScope {
            context,
            around: Around::All(ending),
        }
    }

    /// Around a handler behind stages that do the rest. `watched`: it is polled where the I/O is done.
    pub(super) fn of_handler(method: Arc<HostedMethod>, context: Carried, watched: bool) -> Self {
        CallScope {
            context,
            around: Around::Watch(method, watched),
        }
    }

    /// The handler's future, within the scope.
    pub fn run<F>(self, handled: F) -> Handled
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
        Handled(Box::into_pin(handling))
    }
}

/// A handler's future within its call's scope: what [`Service::call`](super::Service::call) returns. Only [`CallScope::run`]
/// makes one. A service that drops its call's scope and takes another ([`CallScope::alone`]) runs the handler outside the
/// call's context; a call that went straight to it is then counted as cancelled, and no deadline or limit binds what runs.
#[must_use = "the call is handled where this is awaited"]
pub struct Handled(pub(super) BoxFuture<'static, InboundReply>);

impl std::fmt::Debug for Handled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handled").finish_non_exhaustive()
    }
}

impl Future for Handled {
    type Output = InboundReply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<InboundReply> {
        self.0.as_mut().poll(cx)
    }
}

pin_project! {
    struct Handling<F> {
        // Dropped first: a call's places are free when its handler has gone.
        #[pin]
        handled: Scoped<F>,
        around: Around,
    }
}

impl<F: Future<Output = InboundReply>> Future for Handling<F> {
    type Output = InboundReply;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<InboundReply> {
        let mut this = self.project();
        match this.around {
            Around::All(ending) => poll_to_the_end(this.handled, ending, cx),
            Around::Watch(method, watched) => {
                let mut answer = ready!(method.watched.poll(*watched, || this.handled.as_mut().poll(cx)));
                conclude(this.handled.context(), &mut answer);
                Poll::Ready(answer)
            }
            Around::Nothing => this.handled.poll(cx),
        }
    }
}

/// One poll of a handler to which its call went straight.
#[inline(always)]
fn poll_to_the_end<F: Future<Output = InboundReply>>(
    mut handled: Pin<&mut Scoped<F>>,
    ending: &mut Ending,
    cx: &mut TaskContext<'_>,
) -> Poll<InboundReply> {
    // The answer is left in its place: what passes through `catch_unwind` is moved twice.
    let mut answer = None;
    let poll = || {
        ending.method.watched.poll(true, || {
            if let Poll::Ready(result) = handled.as_mut().poll(cx) {
                answer = Some(result);
            }
        });
    };
    // Nothing of ours is left half-changed, and nobody looks at what is left of the handler.
    let caught = catch_unwind(AssertUnwindSafe(poll));
    let returned = caught.is_ok() && answer.is_some();
    if let (true, Some(answer)) = (returned, &mut answer) {
        conclude(handled.context(), answer);
    } else {
        answer = without_return(caught.is_err(), handled, ending, cx).map(Err);
    }
    if let Some(answer) = &answer {
        ending.end(answer, returned);
    }
    answer.map_or(Poll::Pending, Poll::Ready)
}

/// What is said for a handler that has not returned, where anything is to be said by now.
#[inline(never)]
fn without_return<F: Future<Output = InboundReply>>(
    has_panicked: bool,
    mut handled: Pin<&mut Scoped<F>>,
    ending: &mut Ending,
    cx: &TaskContext<'_>,
) -> Option<Status> {
    if has_panicked {
        // What is left of it goes before its places do, and may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| handled.cancel()));
        return Some(panicked(&ending.method, &ending.shared.panics));
    }
    // Where it has answered and is polled again, against the rules, what it had taken is given back already.
    if ending.over || !ending.is_late(handled.as_mut().context(), cx) {
        return None;
    }
    handled.cancel();
    Some(outlived(&ending.method))
}

thread_local! {
    /// Whether a service is being called on this thread, which makes a handler's future and polls none.
    static CALLING: Cell<bool> = const { Cell::new(false) };
}

/// What `call` makes, which calls a service; `None` where it panics. Then its call's [`Ending`] is counted as such.
#[inline(always)]
pub(super) fn calling<T>(call: impl FnOnce() -> T) -> Option<T> {
    // Services may call others in their place.
    let before = CALLING.replace(true);
    // What a service leaves behind is its own.
    let made = catch_unwind(AssertUnwindSafe(call)).ok();
    CALLING.set(before);
    made
}

/// What a call has taken that goes straight to its handler, and gives back with it: its places in the limits, and its part of
/// what is counted. One record with one holder of the method, because each further one would cost each call its making and its
/// end.
pub(super) struct Ending {
    method: Arc<HostedMethod>,
    shared: Arc<Shared>,
    groups: Groups,
    arrived: Instant,
    /// Whether its handler's time is noted.
    timed: bool,
    over: bool,
    /// Only where it is needed: most handlers are done when they are first polled.
    timer: Option<Box<Timer>>,
}

impl Ending {
    /// For a call that has taken its places in the method's threshold and in the pool.
    #[inline(always)]
    pub(super) fn begin(
        method: Arc<HostedMethod>,
        shared: &Arc<Shared>,
        groups: Groups,
        arrived: Instant,
    ) -> Self {
        method.metrics.begun();
        Ending {
            timed: shared.pool.is_timed(&method.limits),
            method,
            shared: shared.clone(),
            groups,
            arrived,
            over: false,
            timer: None,
        }
    }

    /// Whether the deadline has passed; wakes the task when it does.
    #[inline(never)]
    fn is_late(&mut self, context: Option<&Context>, cx: &TaskContext<'_>) -> bool {
        let Some(deadline) = context.and_then(Context::deadline) else {
            return false;
        };
        let timers = &self.shared.timers;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::new(timers.at(Moment::from(deadline) + GRACE)));
        timer.poll(cx).is_ready()
    }

    /// One look at the clock for all who want to know how long it took. Where the handler has not `returned`, its time says
    /// only that it would have taken longer: then its places are given back as those of a call that is given up.
    #[inline(always)]
    pub(super) fn end(&mut self, answer: &InboundReply, returned: bool) {
        let took = self.arrived.elapsed();
        self.give_back(took, returned);
        let error = answer.as_ref().err().map(failure);
        self.method.metrics.ended(nanos(took), error);
    }

    #[inline(always)]
    fn give_back(&mut self, took: Duration, returned: bool) {
        self.over = true;
        if self.timed {
            self.shared.pool.timed(&self.method.limits, took, returned);
        }
        self.shared.pool.leave();
        threshold::leave(&self.method.limits, &self.groups);
    }

    /// Nobody waits for the handler any more, or the service has panicked before there was one.
    #[cold]
    fn abandon(&mut self) {
        let took = self.arrived.elapsed();
        self.give_back(took, false);
        // A handler's own panic is caught where it is polled. What else unwinds here is somebody else's on the same task, unless
        // the service itself is being called.
        match CALLING.get() && std::thread::panicking() {
            true => {
                let error = Some((Code::Internal, Reason::Panic));
                self.method.metrics.ended(nanos(took), error);
            }
            false => self.method.metrics.cancelled(),
        }
    }
}

impl Drop for Ending {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.over {
            self.abandon();
        }
    }
}

/// Makes of a handler's outcome what is said of this call, and not of those that it made itself.
#[inline(always)]
fn conclude(context: Option<&Context>, answer: &mut InboundReply) {
    match answer {
        // A reply that it passes on was a replay perhaps; this handler did run.
        Ok(response) => response.metadata_mut().remove_reserved(REPLAYED),
        Err(status) => {
            own(status);
            // What failed below after all its retries is not attempted again above, or each tier would multiply them. A
            // handler that says otherwise knows better.
            let spent = context.is_some_and(Context::retries_spent);
            if spent && status.pushback().is_none() {
                status.forbid_retry();
            }
        }
    }
}
