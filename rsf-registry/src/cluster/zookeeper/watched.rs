//! A watch of one node: a one-shot watch, armed again after each event and each reconnect.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use zookeeper_client::{Client, Error, OneshotWatcher, Stat};

use super::namespace::Namespace;
use super::{Connection, Session};
use crate::backoff::{Backoff, jittered};
use crate::error::REQUEST_TIMEOUT;
use crate::{Observed, StoreError, Watch};

/// Read again about this often even if no watch fires. Persistent watches of the client die with a reconnect and
/// one-shot watches should not, but a watch that is silently lost must cost half a minute and not for ever.
const INSURANCE: Duration = Duration::from_secs(30);

/// A reconnect is followed by a reading within this time, spread so that a fleet does not read everything at once. What
/// changed meanwhile is known earlier: the server resets one-shot watches and fires those that missed something.
const SPREAD: Duration = Duration::from_secs(1);

/// Turns what a node holds into the watched value.
#[async_trait]
pub(crate) trait Decode<T>: Send + 'static {
    /// The value, or what is wrong with it.
    async fn decode(&mut self, data: &[u8]) -> Result<T, Undecoded>;
}

/// Why there is no value.
pub(crate) enum Undecoded {
    /// It is refused; the last good value stays.
    Refused(String),
    /// What it needs beside is not there, or no longer: read it again.
    Again(String),
}

/// Watches the node at `tail`. Returns at once; what cannot be decoded is logged and leaves the last good value.
pub(crate) fn watch_node<T, D>(namespace: Arc<Namespace>, tail: &str, decode: D) -> Watch<T>
where
    T: Send + Sync + 'static,
    D: Decode<T>,
{
    let (sender, receiver) = watch::channel(Observed::Unknown);
    let watched = Watched {
        path: namespace.path(tail),
        namespace,
        decode,
        sender,
        last: None,
        warned: false,
    };
    Watch::new(receiver, Some(tokio::spawn(watched.keep())))
}

struct Watched<T, D> {
    namespace: Arc<Namespace>,
    path: String,
    decode: D,
    sender: watch::Sender<Observed<T>>,
    /// What was read last, so that reading it again wakes nobody.
    last: Option<Option<Print>>,
    /// Whether the missing namespace was reported.
    warned: bool,
}

/// Tells two contents of a node apart, even across a wiped ZooKeeper whose counters began again.
#[derive(Debug, PartialEq, Eq)]
struct Print {
    created: i64,
    modified: i64,
    length: usize,
    checksum: u32,
}

impl<T: Send + Sync + 'static, D: Decode<T>> Watched<T, D> {
    async fn keep(mut self) {
        let mut backoff = Backoff::default();
        let session = self.namespace.session.clone();
        loop {
            let Connection { client, number } = session.connected().await;
            match tokio::time::timeout(REQUEST_TIMEOUT, read_and_watch(&client, &self.path)).await {
                Ok(Ok((data, watcher))) => {
                    if let Err(reason) = self.publish(data).await {
                        tracing::debug!(
                            path = self.path,
                            reason,
                            "the watched value is not whole; reading it again"
                        );
                        tokio::time::sleep(backoff.next()).await;
                        continue;
                    }
                    backoff.reset();
                    tokio::select! {
                        _ = watcher.changed() => {}
                        () = reconnected(&session, number) => {}
                        () = tokio::time::sleep(jittered(INSURANCE)) => {}
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(path = self.path, %error, "cannot read the watched node; trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(_) => {
                    tracing::debug!(path = self.path, "no answer about the watched node; trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Hands a new value on; what is to be read again is an error.
    async fn publish(&mut self, data: Option<(Vec<u8>, Stat)>) -> Result<(), String> {
        let print = data.as_ref().map(|(data, stat)| Print {
            created: stat.czxid,
            modified: stat.mzxid,
            length: data.len(),
            checksum: crc32fast::hash(data),
        });
        if self.last.as_ref() == Some(&print) {
            return Ok(());
        }
        match data {
            None => {
                self.sender.send_replace(Observed::Absent);
                self.report_unknown_namespace().await;
            }
            Some((data, _)) => match self.decode.decode(&data).await {
                Ok(value) => drop(self.sender.send_replace(Observed::Present(Arc::new(value)))),
                Err(Undecoded::Refused(reason)) => {
                    tracing::warn!(path = self.path, reason, "refused; keeping the last good value");
                }
                Err(Undecoded::Again(reason)) => return Err(reason),
            },
        }
        self.last = Some(print);
        Ok(())
    }

    async fn report_unknown_namespace(&mut self) {
        if self.warned {
            return;
        }
        if let Err(error @ StoreError::UnknownNamespace { .. }) = self.namespace.check().await {
            tracing::warn!(path = self.path, %error, "watching a namespace that is not there yet");
            self.warned = true;
        }
    }
}

/// Waits for the connection after the one of that number, and then a part of [`SPREAD`].
async fn reconnected(session: &Session, number: u64) {
    session.moved_on(number).await;
    session.connected().await;
    tokio::time::sleep(SPREAD.mul_f64(fastrand::f64())).await;
}

/// Reads a node and arms a one-shot watch: on its data, or on its coming into being.
async fn read_and_watch(
    client: &Client,
    path: &str,
) -> Result<(Option<(Vec<u8>, Stat)>, OneshotWatcher), Error> {
    loop {
        match client.get_and_watch_data(path).await {
            Ok((data, stat, watcher)) => return Ok((Some((data, stat)), watcher)),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
        // Created between the two requests: read it after all.
        if let (None, watcher) = client.check_and_watch_stat(path).await? {
            return Ok((None, watcher));
        }
    }
}
