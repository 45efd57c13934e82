//! A wire that remembers whom it connected to, when, and which of the connections still live.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program compiles the harness for itself and uses a part of it"
)]

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rsf_core::wire::{ConnectError, Connection, ConnectionState, Target, Wire};
use tokio::sync::watch;
use tokio::time::Instant;

/// Another wire, watched.
#[derive(Clone)]
pub struct Watched {
    inner: Arc<dyn Wire>,
    attempts: Arc<Mutex<Vec<(Instant, Target)>>>,
    lives: Arc<Mutex<Vec<watch::Receiver<ConnectionState>>>>,
}

impl Watched {
    pub fn new(inner: Arc<dyn Wire>) -> Watched {
        Watched {
            inner,
            attempts: Arc::default(),
            lives: Arc::default(),
        }
    }

    /// When it was asked to connect, and to whom.
    pub fn attempts(&self) -> Vec<(Instant, Target)> {
        self.attempts.lock().clone()
    }

    /// The connections that are not closed.
    pub fn live(&self) -> usize {
        let closed = |life: &watch::Receiver<ConnectionState>| *life.borrow() == ConnectionState::Closed;
        self.lives.lock().iter().filter(|life| !closed(life)).count()
    }
}

impl Wire for Watched {
    fn connect(&self, target: &Target) -> BoxFuture<'static, Result<Arc<dyn Connection>, ConnectError>> {
        self.attempts.lock().push((Instant::now(), target.clone()));
        let lives = self.lives.clone();
        let connecting = self.inner.connect(target);
        let watch = move |made: Result<Arc<dyn Connection>, ConnectError>| {
            if let Ok(connection) = &made {
                lives.lock().push(connection.state());
            }
            made
        };
        connecting.map(watch).boxed()
    }
}
