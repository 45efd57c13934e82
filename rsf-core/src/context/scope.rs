//! How a context comes to the code that runs within it: a place of the thread, which a future takes for each of its polls.

use std::cell::RefCell;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use pin_project_lite::pin_project;

use super::Context;
use crate::metadata::Metadata;

thread_local! {
    /// The context of what runs on this thread now.
    static CURRENT: RefCell<Option<Carried>> = const { RefCell::new(None) };
}

/// A context as its call carries it: the call's own until somebody asks for it, and shared from then on. Few handlers
/// ask, and for the others nothing is allocated.
#[derive(Debug)]
pub(crate) enum Carried {
    Own(Context),
    Shared(Arc<Context>),
}

impl Carried {
    pub(crate) fn share(&mut self) -> Arc<Context> {
        let context = match self {
            Carried::Shared(context) => return context.clone(),
            Carried::Own(context) => std::mem::replace(context, Context::new(None, Metadata::new())),
        };
        let context = Arc::new(context);
        *self = Carried::Shared(context.clone());
        context
    }

    /// To change it; whoever has it already keeps it as it was.
    pub(crate) fn make_mut(&mut self) -> &mut Context {
        match self {
            Carried::Own(context) => context,
            Carried::Shared(context) => Arc::make_mut(context),
        }
    }
}

impl Deref for Carried {
    type Target = Context;

    fn deref(&self) -> &Context {
        match self {
            Carried::Own(context) => context,
            Carried::Shared(context) => context,
        }
    }
}

/// The context that this code runs within.
pub(super) fn current() -> Option<Arc<Context>> {
    let share = |current: &RefCell<Option<Carried>>| current.borrow_mut().as_mut().map(Carried::share);
    CURRENT.try_with(share).ok()?
}

/// Runs `work` within `context`, which is lent to the thread meanwhile.
#[inline(always)]
pub(super) fn within<R>(context: &mut Option<Carried>, work: impl FnOnce() -> R) -> R {
    struct Return<'a>(&'a mut Option<Carried>);
    impl Drop for Return<'_> {
        #[inline(always)]
        fn drop(&mut self) {
            swap(self.0);
        }
    }
    swap(context);
    // After a panic too.
    let _return = Return(context);
    work()
}

#[inline(always)]
fn swap(context: &mut Option<Carried>) {
    // Where the thread ends its place is gone, both times.
    let _ = CURRENT.try_with(|current| std::mem::swap(&mut *current.borrow_mut(), context));
}

pin_project! {
    /// A future that is polled, and dropped, within a context.
    pub(crate) struct Scoped<F> {
        #[pin]
        future: Option<F>,
        // `None` while it is lent to the thread.
        context: Option<Carried>,
    }

    impl<F> PinnedDrop for Scoped<F> {
        fn drop(this: Pin<&mut Self>) {
            this.cancel();
        }
    }
}

impl<F> Scoped<F> {
    pub(crate) fn new(context: Carried, future: F) -> Self {
        Scoped {
            future: Some(future),
            context: Some(context),
        }
    }

    /// The context, between polls.
    pub(crate) fn context(self: Pin<&mut Self>) -> Option<&Context> {
        self.project().context.as_deref()
    }

    /// Drops the future where it has not ended.
    pub(crate) fn cancel(self: Pin<&mut Self>) {
        let mut this = self.project();
        if this.future.is_some() {
            within(this.context, || this.future.set(None));
        }
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        within(this.context, || {
            let Some(future) = this.future.as_mut().as_pin_mut() else {
                // It has ended and is polled again, against the rules.
                return Poll::Pending;
            };
            let output = ready!(future.poll(cx));
            this.future.set(None);
            Poll::Ready(output)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Option<Option<String>> {
        Context::current().map(|context| context.caller().map(str::to_owned))
    }

    fn named(name: &str) -> Arc<Context> {
        let mut context = Context::new(None, Metadata::new());
        context.proven(name.into());
        Arc::new(context)
    }

    #[test]
    fn scopes_nest_and_end_with_a_panic() {
        assert_eq!(caller(), None);
        named("outer").sync_scope(|| {
            named("inner").sync_scope(|| assert_eq!(caller(), Some(Some("inner".to_owned()))));
            let panicked =
                std::panic::catch_unwind(|| named("inner").sync_scope(|| panic!("the work's own")));
            assert!(panicked.is_err());
            assert_eq!(caller(), Some(Some("outer".to_owned())));
        });
        assert_eq!(caller(), None);
    }

    #[test]
    fn what_is_asked_for_is_one_context_for_all() {
        let mut carried = Some(Carried::Own(Context::new(None, Metadata::new())));
        within(&mut carried, || {
            let first = Context::current().unwrap();
            let second = Context::current().unwrap();
            assert!(Arc::ptr_eq(&first, &second));
            first.spend_retries();
        });
        assert!(carried.unwrap().retries_spent());
    }

    /// What a handler leaves behind when it is cancelled may call others, in the handler's name.
    #[tokio::test]
    async fn a_future_is_dropped_within_its_context() {
        struct Notes<'a>(&'a RefCell<Vec<Option<Option<String>>>>);
        impl Drop for Notes<'_> {
            fn drop(&mut self) {
                self.0.borrow_mut().push(caller());
            }
        }
        let seen = RefCell::new(Vec::new());
        let waiting = async {
            let _notes = Notes(&seen);
            std::future::pending::<()>().await;
        };
        let mut waiting = Box::pin(named("one").scope(waiting));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(waiting);
        let notes = Notes(&seen);
        named("two").scope(async move { drop(notes) }).await;
        assert_eq!(
            seen.take(),
            ["one", "two"].map(|name| Some(Some(name.to_owned())))
        );
        assert_eq!(caller(), None);
    }
}
