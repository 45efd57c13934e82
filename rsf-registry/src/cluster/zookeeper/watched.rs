//! A watch of one node: a one-shot watch, armed again after each event and each reconnect.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use zookeeper_client::{Client, Error, EventType, OneshotWatcher, Stat};

use super::namespace::Namespace;
use super::{Connection, Session};
use crate::backoff::{Backoff, jittered};
use crate::{Observed, StoreError, Watch};

/// Read again about this often even if no watch fires. Persistent watches of the client die with a reconnect and
/// one-shot watches should not, but a watch that is silently lost must not cost for ever: of a policy half a minute. A
/// process that watches more than ten lists reads one every three seconds, each in its turn; one of more than 200 each
/// every ten minutes.
const INSURANCE: Pace = Pace {
    least: Duration::from_secs(30),
    each: Duration::from_secs(3),
    most: Duration::from_secs(600),
};

/// A reconnect is followed by a reading within this time, spread so that a fleet does not read everything at once. Where
/// the session lives on, what changed meanwhile is known earlier: the server resets one-shot watches and fires those
/// that missed something.
const SPREAD: Pace = Pace {
    least: Duration::from_secs(1),
    each: Duration::from_millis(100),
    most: Duration::from_secs(30),
};

/// How long an answer may take. A dead connection is noticed earlier; a server that a whole fleet came back to is only
/// slower for being asked again while it still works on the first question.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a reading may be put off, so that a process costs its servers little more for watching more.
struct Pace {
    least: Duration,
    /// For each watched node.
    each: Duration,
    most: Duration,
}

impl Pace {
    /// For a process that watches so many nodes.
    fn of(&self, watches: u32) -> Duration {
        self.each.saturating_mul(watches).clamp(self.least, self.most)
    }
}

/// Turns what a node holds into the watched value.
#[async_trait]
pub(crate) trait Decode<T>: Send + 'static {
    /// Whether a process watches as many as it calls services; those pace themselves.
    const MANY: bool;

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
        let _counted = D::MANY.then(|| Counted::new(&session));
        let watches = || match D::MANY {
            true => session.watches.load(Ordering::Relaxed),
            false => 1,
        };
        loop {
            let permit = session.readings.acquire().await;
            let Connection { client, number } = session.connected().await;
            match tokio::time::timeout(PATIENCE, read_and_watch(&client, &self.path)).await {
                Ok(Ok((data, watcher))) => {
                    let published = self.publish(data).await;
                    drop(permit);
                    if let Err(reason) = published {
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
                        event = watcher.changed() => if event.event_type == EventType::Session {
                            // All watches of the session end with it.
                            reconnected(&session, number, SPREAD.of(watches())).await;
                        },
                        () = reconnected(&session, number, SPREAD.of(watches())) => {}
                        () = tokio::time::sleep(jittered(INSURANCE.of(watches()))) => {}
                    }
                }
                Ok(Err(error)) => {
                    drop(permit);
                    tracing::debug!(path = self.path, %error, "cannot read the watched node; trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(_) => {
                    drop(permit);
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

/// A watch of this session, as long as it is kept.
struct Counted<'a>(&'a Session);

impl<'a> Counted<'a> {
    fn new(session: &'a Session) -> Self {
        session.watches.fetch_add(1, Ordering::Relaxed);
        Counted(session)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for the connection after the one of that number, and then a part of `spread`.
async fn reconnected(session: &Session, number: u64, spread: Duration) {
    session.moved_on(number).await;
    session.connected().await;
    tokio::time::sleep(spread.mul_f64(fastrand::f64())).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_reads_little_more_for_watching_more() {
        assert_eq!(INSURANCE.of(1), Duration::from_secs(30));
        assert_eq!(INSURANCE.of(10), Duration::from_secs(30));
        assert_eq!(INSURANCE.of(100), Duration::from_secs(300));
        assert_eq!(INSURANCE.of(2_000), Duration::from_secs(600));
        assert_eq!(SPREAD.of(3), Duration::from_secs(1));
        assert_eq!(SPREAD.of(100), Duration::from_secs(10));
        assert_eq!(SPREAD.of(2_000), Duration::from_secs(30));

        let session = Session::open("127.0.0.1:1", Duration::from_secs(30)).expect("an address");
        {
            let _two = (Counted::new(&session), Counted::new(&session));
            assert_eq!(session.watches.load(Ordering::Relaxed), 2);
        }
        assert_eq!(
            session.watches.load(Ordering::Relaxed),
            0,
            "a watch that ended counts no more"
        );
    }
}
