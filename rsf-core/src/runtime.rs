//! The runtime that RSF does its I/O on, and the threads that run callbacks.

use std::cell::Cell;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::permits::Permits;
use crate::timer::Timers;

/// Callback threads where no policy says otherwise.
const CALLBACK_THREADS: usize = 4;

thread_local! {
    /// Set on threads that RSF lends to blocking code: waiting there stops nobody else.
    static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Where RSF's own tasks run. Clones share it; the threads end with the last clone.
#[derive(Debug, Clone)]
pub struct IoRuntime {
    handle: Handle,
    callbacks: Arc<Permits>,
    timers: Timers,
    _owned: Option<Arc<Owned>>,
}

#[derive(Debug)]
struct Owned(Option<Runtime>);

impl Drop for Owned {
    fn drop(&mut self) {
        // In the background, because the last clone may go inside another runtime, where blocking panics.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl IoRuntime {
    /// A runtime of its own, with `threads` threads (0: one per core).
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.enable_all().thread_name("rsf-io");
        if threads > 0 {
            builder.worker_threads(threads);
        }
        let runtime = builder.build()?;
        let handle = runtime.handle().clone();
        Ok(IoRuntime {
            timers: timers(&handle),
            handle,
            callbacks: Permits::new(CALLBACK_THREADS),
            _owned: Some(Arc::new(Owned(Some(runtime)))),
        })
    }

    /// Shares a runtime that exists. It must have timers and I/O enabled.
    pub fn shared(handle: Handle) -> Self {
        IoRuntime {
            timers: timers(&handle),
            handle,
            callbacks: Permits::new(CALLBACK_THREADS),
            _owned: None,
        }
    }

    /// The runtime's handle.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Coarse timers for calls.
    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Whether this thread may be blocked: it is no asynchronous runtime's, or RSF lent it out for that.
    pub(crate) fn may_block() -> bool {
        MAY_BLOCK.get() || Handle::try_current().is_err()
    }

    /// Runs `callback` on a callback thread. A panic in it ends nothing else and is returned.
    pub(crate) async fn run_callback(
        &self,
        callback: impl FnOnce() + Send + 'static,
    ) -> Result<(), tokio::task::JoinError> {
        let _permit = self.callbacks.acquire().await;
        self.handle.spawn_blocking(move || blocking(callback)).await
    }

    /// Sets how many callbacks run at once. Holds no runtime, so that whoever follows the policy keeps none alive.
    pub(crate) fn callback_threads(&self) -> impl Fn(Option<u32>) + Send + Sync + 'static {
        let callbacks = self.callbacks.clone();
        move |threads| callbacks.resize(threads.map_or(CALLBACK_THREADS, |threads| threads as usize))
    }
}

/// A shard for each thread of the runtime, and one for those that only wait.
fn timers(runtime: &Handle) -> Timers {
    Timers::start(runtime, runtime.metrics().num_workers() + 1)
}

/// Runs blocking code on this thread and lets calls inside `wait`. For threads that a runtime keeps for blocking
/// work, such as tokio's `spawn_blocking`; on a thread that drives a runtime it would stop the runtime.
pub fn blocking<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            MAY_BLOCK.set(self.0);
        }
    }
    let _restore = Restore(MAY_BLOCK.replace(true));
    work()
}
