//! A process as its stores see it: it runs, stands still (SIGSTOP), or is dead; and its way to a store may be cut.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use rsf_registry::world;
use tokio::sync::Notify;

/// One process of the site.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    /// Tells this start from others of the same name.
    started: u64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    frozen: bool,
    dead: bool,
    /// The servers that it cannot reach.
    cut: BTreeSet<String>,
    /// Its main task, while it stands still.
    waiting: Option<Waker>,
}

impl Process {
    pub(crate) fn start(name: &str) -> Arc<Self> {
        Arc::new(Process {
            name: name.to_owned(),
            started: u64::try_from(world::unix_now().as_millis()).unwrap_or(u64::MAX),
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its name, and which start of it this is.
    pub(crate) fn start_of(&self) -> (String, u64) {
        (self.name.clone(), self.started)
    }

    /// SIGSTOP and SIGCONT.
    pub(crate) fn freeze(&self, frozen: bool) {
        let waiting = {
            let mut state = self.state.lock();
            state.frozen = frozen;
            if frozen { None } else { state.waiting.take() }
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
        self.changed.notify_waiters();
    }

    /// SIGKILL: nothing that it began reaches it any more, and it begins nothing.
    pub(crate) fn kill(&self) {
        self.state.lock().dead = true;
        self.changed.notify_waiters();
    }

    /// Cuts its way to a server, or mends it.
    pub(crate) fn cut(&self, server: &str, cut: bool) {
        let mut state = self.state.lock();
        if cut {
            state.cut.insert(server.to_owned());
        } else {
            state.cut.remove(server);
        }
    }

    pub(crate) fn is_cut(&self, server: &str) -> bool {
        self.state.lock().cut.contains(server)
    }

    pub(crate) fn is_running(&self) -> bool {
        let state = self.state.lock();
        !state.frozen && !state.dead
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Waits until it runs; for ever where it is dead.
    pub(crate) async fn running(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_running() {
                return;
            }
            changed.await;
        }
    }
}

/// The main task of a process: it is not polled while the process stands still or is dead, whatever its clock says.
pub(crate) struct Main<F> {
    process: Arc<Process>,
    task: Pin<Box<F>>,
}

impl<F: Future> Main<F> {
    pub(crate) fn new(process: Arc<Process>, task: F) -> Self {
        Main {
            process,
            task: Box::pin(task),
        }
    }
}

impl<F: Future> Future for Main<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut state = self.process.state.lock();
            if state.frozen || state.dead {
                state.waiting = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.task.as_mut().poll(context)
    }
}
