//! A watched value: the newest state, never a queue of the states between.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What a watcher knows of a value.
#[derive(Debug)]
pub enum Observed<T> {
    /// Not read yet since the watch began.
    Unknown,
    /// Read, and there is none.
    Absent,
    /// The newest value that was read. It stays while the backend is away.
    Present(Arc<T>),
}

impl<T> Clone for Observed<T> {
    fn clone(&self) -> Self {
        match self {
            Observed::Unknown => Observed::Unknown,
            Observed::Absent => Observed::Absent,
            Observed::Present(value) => Observed::Present(value.clone()),
        }
    }
}

/// A live watch of one value; dropping it ends the watch at the backend.
///
/// The task behind it reconnects by itself with jitter, and after every reconnect reads the value again.
#[derive(Debug)]
pub struct Watch<T> {
    receiver: watch::Receiver<Observed<T>>,
    _task: Option<AbortOnDropHandle<()>>,
}

impl<T> Watch<T> {
    /// A watch fed by `receiver` and kept up by `task`, which ends with it.
    pub fn new(receiver: watch::Receiver<Observed<T>>, task: Option<tokio::task::JoinHandle<()>>) -> Self {
        Watch {
            receiver,
            _task: task.map(AbortOnDropHandle::new),
        }
    }

    /// The newest state.
    pub fn current(&self) -> Observed<T> {
        self.receiver.borrow().clone()
    }

    /// Waits for a state that was not seen yet and marks it seen. `None` when the source is gone for good.
    pub async fn changed(&mut self) -> Option<Observed<T>> {
        self.receiver.changed().await.ok()?;
        Some(self.receiver.borrow_and_update().clone())
    }
}
