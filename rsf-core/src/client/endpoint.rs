//! A consumer's connection to one instance, with its breaker and what was measured of it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Shared;
use super::balance::{Observed, Vitals};
use super::breaker::{BreakerGroup, NodeBreaker};
use crate::control::Instance;
use crate::wire::{ConnectError, Connection, ConnectionState, Target};

/// Time for a connection to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// First and longest pause between connection attempts; between them it doubles, with ±20 % jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one; the next attempt follows without a pause.
const SETTLED: Duration = Duration::from_secs(1);
/// A waiting call may cut a pause short, but not below this.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// A future for a connection that is not there yet.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Arc<Linked>, ConnectError>> + Send>>;

/// One instance as this process reaches it. It outlives snapshots as long as the instance stays the same.
pub(crate) struct Endpoint {
    pub(crate) instance: Instance,
    pub(super) breaker: NodeBreaker,
    /// Pending calls, and what the balancer goes by.
    pub(crate) vitals: Vitals,
    connection: ArcSwapOption<Linked>,
    link: watch::Sender<Link>,
    /// Rung by a call that waits for a connection.
    wanted: Arc<Notify>,
    started: AtomicBool,
    /// `namespace/instance` of a registered instance; `None` in static lists, where whoever answers is meant.
    target: Option<HeaderValue>,
    shared: Weak<Shared>,
}

/// A connection, and whether its peer has proven to be the instance that the list names.
pub(super) struct Linked {
    pub(super) connection: Arc<dyn Connection>,
    verified: AtomicBool,
}

impl Linked {
    /// The peer has answered a call that named it.
    pub(super) fn verify(&self) {
        if !self.verified.load(Ordering::Relaxed) {
            self.verified.store(true, Ordering::Relaxed);
        }
    }
}

/// The connection's story so far.
#[derive(Clone, Default)]
struct Link {
    /// Rises with each attempt to connect that ended.
    tries: u64,
    /// Why the last one failed; `None` where it did not, or there was none.
    failure: Option<ConnectError>,
}

/// A call's place among the pending ones.
pub(super) struct PendingPlace(Arc<Endpoint>);

impl Drop for PendingPlace {
    fn drop(&mut self) {
        self.0.vitals.leave();
    }
}

impl Endpoint {
    pub(super) fn new(shared: &Arc<Shared>, instance: Instance, breakers: Arc<BreakerGroup>) -> Arc<Self> {
        // Static lists name no incarnation: whoever answers there is meant.
        let target = (instance.incarnation != 0)
            .then(|| HeaderValue::from_str(&format!("{}/{}", shared.namespace, instance.id)).ok())
            .flatten();
        Arc::new(Endpoint {
            breaker: NodeBreaker::new(breakers),
            vitals: Vitals::new(Instant::now()),
            connection: ArcSwapOption::empty(),
            link: watch::Sender::new(Link::default()),
            wanted: Arc::default(),
            started: AtomicBool::new(false),
            target,
            shared: Arc::downgrade(shared),
            instance,
        })
    }

    /// Whether this endpoint can stand for `instance` in a new snapshot. Weight, zone and tags are the snapshot's.
    pub(super) fn is_for(&self, instance: &Instance) -> bool {
        self.instance.id == instance.id
            && self.instance.incarnation == instance.incarnation
            && self.instance.address == instance.address
    }

    pub(super) fn enter(self: &Arc<Self>) -> PendingPlace {
        self.vitals.enter();
        PendingPlace(self.clone())
    }

    pub(super) fn pending(&self) -> u32 {
        self.vitals.pending()
    }

    /// Tells the balancer what an attempt that took `latency` says about the instance.
    pub(super) fn observe(&self, now: Instant, latency: Duration, observed: Observed) {
        self.vitals.observe(now, latency, observed);
    }

    pub(super) fn connection(&self) -> Option<Arc<Linked>> {
        self.connection.load_full()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Whether the last attempt to connect failed.
    pub(super) fn is_unreachable(&self) -> bool {
        self.link.borrow().failure.is_some()
    }

    /// Begins to connect, unless that has begun.
    pub(super) fn keep_connected(self: &Arc<Self>) {
        if !self.started.load(Ordering::Relaxed)
            && !self.started.swap(true, Ordering::Relaxed)
            && let Some(shared) = self.shared.upgrade()
        {
            shared
                .runtime
                .handle()
                .spawn(keep_connected(Arc::downgrade(self)));
        }
    }

    /// The next connection, or why there is none. Cuts a pause between attempts short.
    pub(super) fn connecting(self: &Arc<Self>) -> Connecting {
        self.keep_connected();
        let endpoint = self.clone();
        let mut link = self.link.subscribe();
        // Read before the bell is rung: an attempt that ends in between is the one that was asked for.
        let before = link.borrow().tries;
        self.wanted.notify_one();
        Box::pin(async move {
            if let Some(connection) = endpoint.connection() {
                return Ok(connection);
            }
            let gone = |reason: &str| ConnectError {
                address: endpoint.instance.address.clone(),
                reason: reason.to_owned(),
            };
            let ended = link.wait_for(|link| link.tries > before).await;
            let failure = ended.map_err(|_| gone("the endpoint is gone"))?.failure.clone();
            match (endpoint.connection(), failure) {
                (Some(connection), _) => Ok(connection),
                (None, Some(failure)) => Err(failure),
                (None, None) => Err(gone("the connection closed as soon as it was made")),
            }
        })
    }

    /// `namespace/instance`, until the peer of that connection has proven to be it.
    pub(super) fn target_to_verify(&self, linked: &Linked) -> Option<HeaderValue> {
        if linked.verified.load(Ordering::Relaxed) {
            None
        } else {
            self.target.clone()
        }
    }

    pub(super) fn connected(&self, connection: Arc<dyn Connection>) {
        let verified = AtomicBool::new(self.target.is_none());
        self.connection
            .store(Some(Arc::new(Linked { connection, verified })));
        self.link.send_modify(|link| {
            link.tries += 1;
            link.failure = None;
        });
    }

    fn failed(&self, error: ConnectError) {
        self.link.send_modify(|link| {
            link.tries += 1;
            link.failure = Some(error);
        });
    }
}

/// Keeps an endpoint connected for as long as somebody holds it.
async fn keep_connected(endpoint: Weak<Endpoint>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(held) = endpoint.upgrade() else { return };
        let Some(shared) = held.shared.upgrade() else {
            return;
        };
        let target = Target {
            address: held.instance.address.clone(),
            // Foreign servers take frequent PINGs for an attack and say GOAWAY; a registered instance is RSF's.
            keepalive: held.target.is_some(),
        };
        let connecting = shared.wire.connect(&target);
        // Neither is held while time passes, so that both can go.
        drop((held, shared));
        let outcome = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let failure = match outcome {
            Ok(Ok(connection)) => {
                let Some(held) = endpoint.upgrade() else { return };
                let since = Instant::now();
                let mut state = connection.state();
                held.connected(connection);
                drop(held);
                let _ = state.wait_for(|state| *state != ConnectionState::Ready).await;
                let Some(held) = endpoint.upgrade() else { return };
                held.connection.store(None);
                if since.elapsed() >= SETTLED {
                    pause = FIRST_PAUSE;
                    continue;
                }
                // Whoever accepts and closes is no better than one who refuses.
                failure(&target, "the connection closed as soon as it was made".to_owned())
            }
            Ok(Err(error)) => error,
            Err(_) => failure(
                &target,
                format!("no connection within {} ms", CONNECT_TIMEOUT.as_millis()),
            ),
        };
        let Some(held) = endpoint.upgrade() else { return };
        held.failed(failure);
        let begun = Instant::now();
        let jittered = pause.mul_f64(0.8 + 0.4 * fastrand::f64());
        pause = (pause * 2).min(LONGEST_PAUSE);
        // Ends early for a waiting call.
        let wanted = held.wanted.clone();
        drop(held);
        let _ = tokio::time::timeout(jittered, wanted.notified()).await;
        tokio::time::sleep_until(begun + LEAST_PAUSE).await;
    }
}

fn failure(target: &Target, reason: String) -> ConnectError {
    ConnectError {
        address: target.address.clone(),
        reason,
    }
}
