//! What a handler knows about its call, and what the calls that it makes inherit.
//!
//! [`scope`] has how a context comes to the code that runs within it.

mod scope;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::identity::Identity;
use crate::metadata::Metadata;
use crate::policy::Priority;
use crate::runtime::blocking;
use crate::wire::headers::{BAGGAGE, CALLER, DYE, PRIORITY, REQUEST_ID, RETRIED, TRACEPARENT};
use crate::wire::priority;
use crate::wire::status_header::{PREVIOUS_ATTEMPTS, percent_decode};
use crate::wire::{OwnHeaders, TraceParent};

/// What a call made inside another one takes over from it, beside deadline and trace. One place for all of them: a
/// header that is to travel down the chain of calls gets a line here.
const INHERITED: [HeaderName; 2] = [BAGGAGE, DYE];
/// Bytes of baggage that travel on; the W3C recommendation asks every platform to carry so many.
const MAX_BAGGAGE: usize = 8192;

pub(crate) use scope::{Carried, Scoped};

/// The surroundings of a call that is being handled.
///
/// A handler gets it with [`Context::current`]. Calls made inside inherit the deadline, the trace, the baggage, the
/// priority, the colour of the traffic and the retry credit (in a further attempt none is left). Work that is handed to
/// another task keeps them with [`spawn`] or [`Context::scope`], work on another thread with [`spawn_blocking`] or
/// [`Context::sync_scope`].
#[derive(Debug, Clone)]
pub struct Context {
    deadline: Option<Instant>,
    metadata: Metadata,
    identity: Identity,
    /// The highest priority that the call has here.
    max_priority: Priority,
    retries_spent: RetriesSpent,
}

/// Whether a call that was made inside has spent its retries and failed. A clone goes its own way.
#[derive(Debug, Default)]
struct RetriesSpent(AtomicBool);

impl Clone for RetriesSpent {
    fn clone(&self) -> Self {
        RetriesSpent(AtomicBool::new(self.0.load(Ordering::Relaxed)))
    }
}

/// Runs `future` on a task of its own, within the context of the call that is being handled here; outside of one, like
/// `tokio::spawn`. The task outlives the handler; the calls that it makes keep to the handler's deadline.
///
/// # Panics
/// Outside of a tokio runtime, as `tokio::spawn` does. Handlers run in one.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match Context::current() {
        Some(context) => tokio::spawn(context.scope(future)),
        None => tokio::spawn(future),
    }
}

/// Runs blocking code on a thread that the runtime keeps for it, within the context of the call that is being handled
/// here. Calls inside may [`wait`](crate::call::Call::wait).
///
/// # Panics
/// Outside of a tokio runtime, as `tokio::task::spawn_blocking` does.
pub fn spawn_blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    let context = Context::current();
    tokio::task::spawn_blocking(move || match context {
        Some(context) => context.sync_scope(|| blocking(work)),
        None => blocking(work),
    })
}

impl Context {
    /// The context of the handler that runs on this task; `None` outside of one.
    pub fn current() -> Option<Arc<Context>> {
        scope::current()
    }

    /// Runs `future` within this context, on whichever task it is polled.
    pub fn scope<F: Future>(self: Arc<Self>, future: F) -> impl Future<Output = F::Output> {
        Scoped::new(Carried::Shared(self), future)
    }

    /// Runs `work` on this thread within this context, for threads that no task carries it to.
    pub fn sync_scope<R>(self: Arc<Self>, work: impl FnOnce() -> R) -> R {
        scope::within(&mut Some(Carried::Shared(self)), work)
    }

    /// How much the call matters: what policy says at its caller, or before that in the chain, and at most what the
    /// provider's policy allows (`provider.max_priority`).
    pub fn priority(&self) -> Priority {
        self.carried_priority().unwrap_or_default()
    }

    /// The priority that came with the call, as far as it holds here; none where nobody in the chain has set one.
    pub(crate) fn carried_priority(&self) -> Option<Priority> {
        let said = self.metadata.header(&PRIORITY).and_then(priority::read);
        match said {
            None if self.max_priority >= Priority::default() => None,
            said => Some(said.unwrap_or_default().min(self.max_priority)),
        }
    }

    /// The same context for a call that has no higher priority than `most` here.
    pub(crate) fn capped(mut self, most: Priority) -> Self {
        self.max_priority = most;
        self
    }

    /// When the caller stops waiting; `None` where it waits for ever.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What is left until the deadline; zero once it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    /// The calling application. [`Context::identity`] says whether that is proven, or only what it calls itself; `None`
    /// where it does neither.
    pub fn caller(&self) -> Option<&str> {
        match &self.identity {
            Identity::Proven(application) => Some(application),
            Identity::Asserted => self.metadata.get(CALLER.as_str()),
        }
    }

    /// Whether the caller has proven who it is, by a signed token or by its certificate.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Identifies the logical call: the same for all its attempts.
    pub fn request_id(&self) -> Option<&str> {
        self.metadata.get(REQUEST_ID.as_str())
    }

    /// The call's colour, which the calls made inside inherit: routing rules of the kind `dye` go by it.
    pub fn colour(&self) -> Option<&str> {
        self.metadata.get(DYE.as_str())
    }

    /// The caller's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The trace that the call belongs to. Read out of the metadata each time: most handlers never ask.
    pub fn trace(&self) -> Option<TraceParent> {
        self.metadata
            .get(TRACEPARENT.as_str())
            .and_then(TraceParent::parse)
    }

    /// The W3C baggage of the chain of calls, as it came: `tenant=north,campaign=autumn`. Whoever begins a chain sets it
    /// as the metadata `baggage`; every call made inside passes it on, unless it has a `baggage` of its own.
    pub fn baggage(&self) -> Option<&str> {
        self.metadata.get(BAGGAGE.as_str())
    }

    /// The value of one entry of the baggage, percent-decoded; its properties are left out.
    pub fn baggage_entry(&self, key: &str) -> Option<String> {
        self.baggage()?.split(',').find_map(|entry| {
            let (name, value) = entry.split_once('=')?;
            let value = value.split(';').next().unwrap_or_default().trim();
            (name.trim() == key).then(|| percent_decode(value.as_bytes()))
        })
    }

    /// What a call made inside this one sends of it. `own` is the call's own metadata, which wins.
    pub(crate) fn inherited(&self, own: Option<&HeaderMap>) -> OwnHeaders {
        let mut inherited = OwnHeaders::new();
        for name in INHERITED {
            let Some(value) = self.metadata.header(&name) else {
                continue;
            };
            if own.is_none_or(|own| !own.contains_key(&name))
                && value.len() <= MAX_BAGGAGE
                && let Ok(mut value) = HeaderValue::from_bytes(value)
            {
                // It says nothing about the next call: no place in a header table for it.
                value.set_sensitive(true);
                inherited.push((name, value));
            }
        }
        inherited
    }

    /// The caller has proven who it is.
    pub(crate) fn proven(&mut self, application: Arc<str>) {
        self.identity = Identity::Proven(application);
    }

    pub(crate) fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// A context for calls on behalf of somebody who is not handled here, such as a gateway's caller: they keep to
    /// `deadline` and go on with the trace that `metadata` names in `traceparent`.
    pub fn new(deadline: Option<Instant>, metadata: Metadata) -> Self {
        Context {
            deadline,
            metadata,
            identity: Identity::Asserted,
            max_priority: Priority::High,
            retries_spent: RetriesSpent::default(),
        }
    }

    /// Whether somebody above has spent retry credit on this call: it is a further attempt, or made within one. Calls made
    /// inside inherit that no credit is left.
    pub(crate) fn is_retried(&self) -> bool {
        let further = self.metadata.header(&PREVIOUS_ATTEMPTS);
        further.is_some_and(|number| number != b"0") || self.metadata.header(&RETRIED).is_some()
    }

    /// Notes that a call made inside has spent its retries and failed.
    pub(crate) fn spend_retries(&self) {
        self.retries_spent.0.store(true, Ordering::Relaxed);
    }

    /// Whether a call made inside has spent its retries and failed.
    pub(crate) fn retries_spent(&self) -> bool {
        self.retries_spent.0.load(Ordering::Relaxed)
    }
}
