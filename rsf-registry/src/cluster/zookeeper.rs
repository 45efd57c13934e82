//! One ZooKeeper session for the whole process: made again when it expires, with a time limit on every request.

pub(crate) mod namespace;
pub(crate) mod place;
pub(crate) mod watched;

use std::future::Future;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use zookeeper_client::{Client, Error, SessionState};

use crate::StoreError;
use crate::backoff::Backoff;
use crate::error::REQUEST_TIMEOUT;
use place::{Credentials, Place};

/// A session that may lead: how long a silent client keeps its ephemeral nodes, what a dead leader costs before another
/// takes over.
pub(crate) const LEADER_SESSION: Duration = Duration::from_secs(6);

/// A session that only reads. It holds no node that others wait for, and its connection is given up after two fifths of
/// this, 12 s: servers that a whole fleet came back to answer late, and who gives them up asks for everything anew.
pub(crate) const READER_SESSION: Duration = Duration::from_secs(30);

/// A session that did not last this long counts as an attempt that failed: a fleet whose sessions expire before they
/// are served must not come back faster than one that is refused.
const LASTING: Duration = Duration::from_secs(10);

/// How many watched nodes a process reads at once: what a fleet may ask of servers that are back.
const READINGS_AT_ONCE: usize = 8;

/// The session, whichever one it is now. Clients of it never hold a [`Client`] across a lost connection.
#[derive(Debug)]
pub(crate) struct Session {
    place: Place,
    link: watch::Receiver<Link>,
    /// Permits to read a watched node.
    pub(crate) readings: Semaphore,
    /// How many nodes are watched over it.
    pub(crate) watches: AtomicU32,
    _keeper: AbortOnDropHandle<()>,
}

/// A connection that stands now.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) client: Client,
    /// Rises with every reconnect and every new session of this process.
    pub(crate) number: u64,
}

#[derive(Debug, Clone)]
enum Link {
    Away(String),
    Up(Connection),
}

impl Session {
    /// Opens a session to `[user:password@]host:port[,host:port…][/chroot]` in the background, which ends when it was
    /// silent for `timeout`; must be called inside a Tokio runtime.
    ///
    /// Returns at once, whether or not a server is up; [`StoreError::Refused`] where the addresses make no sense.
    pub(crate) fn open(servers: &str, timeout: Duration) -> Result<Arc<Self>, StoreError> {
        let place = Place::parse(servers)?;
        let mut hosts = place.hosts.clone();
        // Each process starts at another server, or the first one would carry the whole fleet.
        fastrand::shuffle(&mut hosts);
        let (sender, link) = watch::channel(Link::Away("no connection yet".to_owned()));
        let keeper = keep_session(hosts.join(","), timeout, place.credentials.clone(), sender);
        Ok(Arc::new(Session {
            place,
            link,
            readings: Semaphore::new(READINGS_AT_ONCE),
            watches: AtomicU32::new(0),
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper)),
        }))
    }

    /// The servers, for messages; without credentials.
    pub(crate) fn address(&self) -> String {
        self.place.to_string()
    }

    /// The path before all of RSF's; empty where there is none.
    pub(crate) fn chroot(&self) -> &str {
        &self.place.chroot
    }

    /// Whether it brings a user and a password.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.place.credentials.is_some()
    }

    /// Waits for a standing connection.
    pub(crate) async fn connected(&self) -> Connection {
        let mut link = self.link.clone();
        loop {
            if let Link::Up(connection) = &*link.borrow_and_update() {
                return connection.clone();
            }
            if link.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the connection of that number no longer stands.
    pub(crate) async fn moved_on(&self, number: u64) {
        let mut link = self.link.clone();
        let moved = link
            .wait_for(|link| !matches!(link, Link::Up(now) if now.number == number))
            .await
            .map(drop);
        if moved.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Runs one request within [`REQUEST_TIMEOUT`], the wait for a connection included. `key` is for the messages.
    pub(crate) async fn run<T, F, R>(&self, key: &str, request: R) -> Result<T, StoreError>
    where
        R: FnOnce(Client) -> F,
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let Ok(connection) = tokio::time::timeout_at(deadline, self.connected()).await else {
            return Err(self.unavailable(match &*self.link.borrow() {
                Link::Away(reason) => reason.clone(),
                Link::Up(_) => "no connection in time".to_owned(),
            }));
        };
        match tokio::time::timeout_at(deadline, request(connection.client)).await {
            Ok(result) => result.map_err(|error| self.store_error(key, error)),
            Err(_) => Err(self.unavailable(format!("no answer about {key} within {REQUEST_TIMEOUT:?}"))),
        }
    }

    /// [`StoreError::Unavailable`] with this reason.
    pub(crate) fn unavailable(&self, reason: String) -> StoreError {
        StoreError::Unavailable {
            backend: "zookeeper",
            address: self.address(),
            reason,
        }
    }

    /// What an error of the client means to the caller of a store.
    pub(crate) fn store_error(&self, key: &str, error: Error) -> StoreError {
        let refused = |todo: &str| StoreError::Refused {
            backend: "zookeeper",
            reason: format!("{key}: {error}{}{todo}", if todo.is_empty() { "" } else { "; " }),
        };
        match error {
            Error::NoAuth | Error::AuthFailed | Error::InvalidAcl => refused(
                "give the user and password of a ZooKeeper ACL that lets RSF in: zk://user:password@host:port, and \
                     setAcl on /rsf (docs/zookeeper.md)",
            ),
            Error::QuotaExceeded => refused("raise the quota of /rsf (zkCli: listquota, setquota)"),
            Error::NotReadOnly => refused("the server is read-only: it has lost its quorum"),
            Error::BadArguments(_) | Error::Unimplemented | Error::MarshallingError => refused(""),
            // A request that timed out, or was cut off with its connection, may have been carried out.
            error => self.unavailable(format!("{key}: {error}")),
        }
    }
}

/// The runtime that sessions run on: one thread for the whole process, which no application's end takes away. The
/// client library panics in every watch whose session is dropped first, and a runtime that ends drops in no order.
fn sessions() -> Handle {
    static SESSIONS: OnceLock<Option<Runtime>> = OnceLock::new();
    let start = || {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(1)
            .thread_name("rsf-zookeeper")
            .enable_all()
            .build()
            .ok()
    };
    SESSIONS
        .get_or_init(start)
        .as_ref()
        .map_or_else(Handle::current, |runtime| runtime.handle().clone())
}

/// Opens sessions one after another and publishes each connection, until nobody listens any more.
async fn keep_session(
    servers: String,
    timeout: Duration,
    credentials: Option<Credentials>,
    link: watch::Sender<Link>,
) {
    let mut number = 0;
    let mut backoff = Backoff::default();
    while !link.is_closed() {
        let mut connector = Client::connector()
            .with_session_timeout(timeout)
            .with_fail_eagerly();
        if let Some(credentials) = &credentials {
            connector = connector.with_auth("digest", credentials.expose().as_bytes());
        }
        let hosts = servers.clone();
        // The client drives its session on the runtime that it was connected on.
        let connecting = sessions().spawn(async move { connector.connect(&hosts).await });
        match connecting.await.unwrap_or(Err(Error::SessionExpired)) {
            Ok(client) => {
                tracing::info!(servers, session = %client.session_id(), "connected to ZooKeeper");
                let begun = Instant::now();
                let ended = follow_session(client, &mut number, &link).await;
                if begun.elapsed() >= LASTING {
                    backoff.reset();
                }
                tracing::warn!(servers, state = %ended, "the ZooKeeper session ended; opening another");
                link.send_replace(Link::Away(format!("the session ended: {ended}")));
            }
            Err(error) => {
                // Once for each time that it is away: where a session ended, that was said.
                match backoff.attempts() {
                    0 => tracing::warn!(servers, %error, "ZooKeeper does not answer; it is tried on"),
                    _ => tracing::debug!(servers, %error, "no ZooKeeper session"),
                }
                link.send_replace(Link::Away(error.to_string()));
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Publishes what becomes of one session's connection until the session is over.
async fn follow_session(client: Client, number: &mut u64, link: &watch::Sender<Link>) -> SessionState {
    let mut states = client.state_watcher();
    let mut state = client.state();
    loop {
        match state {
            SessionState::SyncConnected => {
                *number += 1;
                link.send_replace(Link::Up(Connection {
                    client: client.clone(),
                    number: *number,
                }));
            }
            SessionState::Disconnected | SessionState::ConnectedReadOnly => {
                link.send_replace(Link::Away(format!("the connection is lost ({state})")));
            }
            ended => return ended,
        }
        state = states.changed().await;
    }
}
