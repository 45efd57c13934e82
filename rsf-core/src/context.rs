//! What a handler knows about its call, and what the calls that it makes inherit.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::metadata::Metadata;
use crate::wire::TraceParent;
use crate::wire::headers::{CALLER, REQUEST_ID, TRACEPARENT};

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

/// The surroundings of a call that is being handled.
///
/// A handler gets it with [`Context::current`]. Calls made inside inherit the deadline and the trace; work that is
/// handed to another task keeps them with [`Context::scope`].
#[derive(Debug)]
pub struct Context {
    deadline: Option<Instant>,
    metadata: Metadata,
}

impl Context {
    /// The context of the handler that runs on this task; `None` outside of one.
    pub fn current() -> Option<Arc<Context>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs `future` within this context, on whichever task it is polled.
    pub fn scope<F: Future>(self: Arc<Self>, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// When the caller stops waiting; `None` where it waits for ever.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What is left until the deadline; zero once it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }

    /// The calling application as it named itself. Not proven unless the provider demands a proof.
    pub fn caller(&self) -> Option<&str> {
        self.metadata.get(CALLER.as_str())
    }

    /// Identifies the logical call: the same for all its attempts.
    pub fn request_id(&self) -> Option<&str> {
        self.metadata.get(REQUEST_ID.as_str())
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

    /// A context for calls on behalf of somebody who is not handled here, such as a gateway's caller: they keep to
    /// `deadline` and go on with the trace that `metadata` names in `traceparent`.
    pub fn new(deadline: Option<Instant>, metadata: Metadata) -> Self {
        Context { deadline, metadata }
    }
}
