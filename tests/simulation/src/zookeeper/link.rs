//! One process's session and connection.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_registry::StoreError;
use rsf_registry::error::REQUEST_TIMEOUT;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::server::State;
use super::{SERVERS, ZooKeeper};
use crate::process::Process;

/// A process's way to the ensemble.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) process: Arc<Process>,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    session: Option<u64>,
    up: bool,
    /// Rises with every connection.
    number: u64,
    server: usize,
    heard: Instant,
}

impl Link {
    pub(crate) fn open(zookeeper: &ZooKeeper, process: Arc<Process>) -> Arc<Self> {
        let link = Arc::new(Link {
            process,
            now: Mutex::new(Now {
                session: None,
                up: false,
                number: 0,
                server: 0,
                heard: Instant::now(),
            }),
        });
        zookeeper.state.lock().links.push(link.clone());
        link
    }

    /// Its connection stands, in a new session where the last one ended.
    pub(super) fn connect(&self, server: usize, session: impl FnOnce() -> u64) {
        let mut now = self.now.lock();
        now.heard = Instant::now();
        if now.up {
            return;
        }
        now.session.get_or_insert_with(session);
        now.up = true;
        now.number += 1;
        now.server = server % SERVERS;
    }

    pub(super) fn drop_connection(&self) {
        self.now.lock().up = false;
    }

    pub(super) fn heard(&self) {
        self.now.lock().heard = Instant::now();
    }

    /// Ends the session and answers which it was.
    pub(super) fn expire(&self) -> Option<u64> {
        let mut now = self.now.lock();
        now.up = false;
        now.session.take()
    }

    pub(super) fn silent_for(&self) -> Duration {
        self.now.lock().heard.elapsed()
    }

    pub(super) fn is_up(&self) -> bool {
        self.now.lock().up
    }

    pub(super) fn has_session(&self) -> bool {
        self.now.lock().session.is_some()
    }

    pub(super) fn session(&self) -> Option<u64> {
        self.now.lock().session
    }

    /// The number of the connection that stands.
    pub(super) fn number(&self) -> Option<u64> {
        let now = self.now.lock();
        now.up.then_some(now.number)
    }

    /// Which server it reads from.
    pub(super) fn server(&self) -> usize {
        self.now.lock().server
    }

    /// Waits for a connection and answers its number.
    pub(super) async fn connected(&self, zookeeper: &ZooKeeper) -> u64 {
        loop {
            let changed = zookeeper.changed.notified();
            if let Some(number) = self.number() {
                self.process.running().await;
                return number;
            }
            changed.await;
        }
    }

    /// Waits until that connection no longer stands.
    pub(super) async fn moved_on(&self, zookeeper: &ZooKeeper, number: u64) {
        loop {
            let changed = zookeeper.changed.notified();
            if self.number() != Some(number) {
                return;
            }
            changed.await;
        }
    }

    /// Sends a request within the time that RSF gives one, the wait for a connection included.
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        zookeeper: &Arc<ZooKeeper>,
        work: impl FnOnce(&ZooKeeper, &mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.process.running().await;
        let asked = async {
            let number = self.connected(zookeeper).await;
            let (answer, answered) = oneshot::channel();
            let most = if zookeeper.state.lock().slow { 500 } else { 3 };
            let (there, back) = (zookeeper.chance.millis(0, most), zookeeper.chance.millis(0, most));
            let (link, zookeeper) = (self.clone(), zookeeper.clone());
            tokio::spawn(async move {
                sleep(there).await;
                let result = {
                    let mut state = zookeeper.state.lock();
                    if link.number() != Some(number) || !state.quorum {
                        return;
                    }
                    work(&zookeeper, &mut state)
                };
                zookeeper.changed.notify_waiters();
                sleep(back).await;
                // An answer that its connection did not outlive is lost: whether it was done is unknown.
                if link.number() == Some(number) {
                    let _ = answer.send(result);
                }
            });
            answered.await
        };
        let answer = timeout(REQUEST_TIMEOUT, asked).await;
        self.process.running().await;
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unavailable("the connection was lost")),
            Err(_) => Err(unavailable("no answer in time")),
        }
    }
}

pub(super) fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        backend: "zookeeper",
        address: "zookeeper".to_owned(),
        reason: reason.to_owned(),
    }
}
