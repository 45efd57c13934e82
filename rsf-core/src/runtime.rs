//! The runtime that RSF does its I/O on, and the threads that run callbacks.

pub(crate) mod watch;

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

use crate::permits::Permits;
use crate::timer::Timers;

/// Threads at most that block at once in a runtime of RSF's own: in handlers, callbacks, files. More wait for one.
const BLOCKING_THREADS: usize = 1536;

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
        builder
            .enable_all()
            .thread_name("rsf-io")
            .max_blocking_threads(BLOCKING_THREADS);
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

/// Runs blocking code on this thread and lets calls inside [`wait`](crate::call::Call::wait).
///
/// It may be used anywhere: on threads without a runtime, on those that a runtime keeps for blocking work, such as
/// tokio's `spawn_blocking`, and on the workers of a multi-threaded runtime, whose other tasks move to another thread
/// meanwhile (tokio's `block_in_place`). A runtime with one thread alone stands still as long as it takes; where RSF
/// itself runs on that very thread, a call inside would never end.
pub fn blocking<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            MAY_BLOCK.set(self.0);
        }
    }
    let lent = || {
        let _restore = Restore(MAY_BLOCK.replace(true));
        watch::unwatched(work)
    };
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(lent),
        _ => lent(),
    }
}

/// Drives a future on this thread, which may be blocked. Unlike tokio's own `block_on` it may be used within another one
/// and within `enter`, which timers need.
pub(crate) fn drive<F: Future>(future: F) -> F::Output {
    struct Unpark {
        thread: std::thread::Thread,
        woken: AtomicBool,
    }
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            if !self.woken.swap(true, Ordering::Release) {
                self.thread.unpark();
            }
        }
    }
    let unpark = Arc::new(Unpark {
        thread: std::thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(unpark.clone());
    // Without tokio's budget, which only a return to the runtime would refill.
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !unpark.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}
