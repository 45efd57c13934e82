//! The task that makes an endpoint's connection, replaces it, and lets it go when nobody uses it.
//!
//! connect → hold → (lost: a short random pause | failed: a growing pause | idle: sleep until wanted) → connect …
//!
//! A connection is never closed under a call: the endpoint forgets it, the calls on it hold it, and the last one that
//! ends closes it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::{Endpoint, Place, effort};
use crate::policy::ConnectionsRules;
use crate::timer::at_or_never;
use crate::wire::{ConnectError, Connection, ConnectionState, Keepalive, Target};

/// First pause after a failed attempt to connect; it doubles with each further one, with ±20 % jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A connection that lived this long was a good one.
const SETTLED: Duration = Duration::from_secs(1);
/// A waiting call may cut the pause after a failed attempt short, but not below this.
const LEAST_PAUSE: Duration = Duration::from_millis(20);
/// All consumers of an instance lose it at the same moment when it restarts; their first attempts to come back are
/// spread over this time.
const RETURN_SPREAD: Duration = Duration::from_millis(500);
/// Connections that policy wants with another keepalive are replaced within this time, not all at once.
const REPLACE_SPREAD: Duration = Duration::from_secs(1);
/// Time without a call after which the connection to an instance that is no member any more closes.
const OUTSIDE_IDLE: Duration = Duration::from_secs(1);
/// How often a time without calls is looked at before it is over: it is kept to a quarter.
const LOOKS: u32 = 4;

/// Keeps an endpoint connected for as long as somebody holds it and it is worth it.
pub(super) fn keep_connected(endpoint: &Arc<Endpoint>) -> impl Future<Output = ()> + Send + 'static {
    let keeper = Keeper {
        endpoint: Arc::downgrade(endpoint),
        wanted: endpoint.wanted.clone(),
        rules: endpoint.rules.clone(),
        pause: FIRST_PAUSE,
    };
    keeper.run().map(drop)
}

/// Holds its endpoint only between two waits, so that the endpoint can go; every step ends with `None` when it has.
struct Keeper {
    endpoint: Weak<Endpoint>,
    wanted: Arc<Notify>,
    rules: watch::Receiver<ConnectionsRules>,
    /// The next pause after a failed attempt.
    pause: Duration,
}

/// A connection, and the target that it was made for.
type Made = (Arc<dyn Connection>, Target);

/// Why a connection is held no longer.
#[derive(PartialEq)]
enum Ended {
    /// It can take calls for a while, and needs a successor by then.
    Aging,
    /// Nobody used it.
    Idle,
    /// The peer takes no more calls on it, but finishes those that run.
    Draining,
    /// It broke.
    Lost,
}

/// What came of an attempt to replace a connection.
enum Replaced {
    By(Made),
    Failed,
    /// The connection did not last so long.
    Ended(Ended),
}

impl Keeper {
    async fn run(mut self) -> Option<()> {
        let mut idle = false;
        loop {
            if idle || self.endpoint.upgrade()?.is_at(Place::Outside) {
                self.sleep().await?;
            }
            let (connection, target) = match self.connect().await? {
                Ok(made) => made,
                Err(error) => {
                    self.failed(error).await?;
                    continue;
                }
            };
            let since = Instant::now();
            let address = target.address.clone();
            let ended = self.hold(connection, target).await?;
            self.endpoint.upgrade()?.disconnected();
            idle = ended == Ended::Idle;
            if idle {
                continue;
            }
            if since.elapsed() < SETTLED {
                // Whoever accepts and closes is no better than one who refuses.
                let reason = "the connection closed as soon as it was made".to_owned();
                let refused = false;
                self.failed(ConnectError {
                    address,
                    reason,
                    refused,
                })
                .await?;
                continue;
            }
            self.pause = FIRST_PAUSE;
            if ended == Ended::Lost {
                let _ = timeout(part_of(RETURN_SPREAD), self.wanted.notified()).await;
            }
        }
    }

    async fn connect(&self) -> Option<Result<Made, ConnectError>> {
        let (target, connecting) = {
            let held = self.endpoint.upgrade()?;
            let shared = held.shared.upgrade()?;
            let target = self.target(&held);
            let connecting = shared.wire.connect(&target);
            // Neither is held while time passes, so that both can go.
            (target, connecting)
        };
        let limit = Duration::from_millis(self.rules.borrow().connect_timeout_ms);
        Some(match timeout(limit, connecting).await {
            Ok(Ok(connection)) => Ok((connection, target)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError {
                address: target.address,
                reason: format!("no connection within {} ms", limit.as_millis()),
                refused: false,
            }),
        })
    }

    fn target(&self, endpoint: &Endpoint) -> Target {
        let rules = self.rules.borrow();
        // Foreign servers take frequent PINGs for an attack and say GOAWAY; a registered instance is RSF's.
        let probed = rules.keepalive_ms > 0 && endpoint.target.is_some();
        Target {
            address: endpoint.instance.address.clone(),
            keepalive: probed.then(|| Keepalive {
                interval: Duration::from_millis(rules.keepalive_ms),
                timeout: Duration::from_millis(rules.keepalive_timeout_ms),
            }),
        }
    }

    /// Offers a connection to calls until it ends or is idle for too long. Where policy wants another keepalive, or it has
    /// grown old, its replacement is opened before it is let go.
    async fn hold(&mut self, connection: Arc<dyn Connection>, mut target: Target) -> Option<Ended> {
        let mut state = connection.state();
        self.endpoint.upgrade()?.connected(connection);
        let mut replace_at = None;
        let mut aging = false;
        let mut idle = Idle::default();
        loop {
            let held = self.endpoint.upgrade()?;
            let stale = self.target(&held) != target;
            let look = idle.next_look(&held, &self.rules.borrow());
            drop(held);
            match (stale || aging, replace_at) {
                (true, None) => replace_at = Some(Instant::now() + part_of(REPLACE_SPREAD)),
                (false, _) => replace_at = None,
                (true, Some(_)) => {}
            }
            let until = match aging {
                true => ConnectionState::Draining,
                false => ConnectionState::Aging,
            };
            tokio::select! {
                ended = reached(&mut state, until) => match ended {
                    Ended::Aging => {
                        aging = true;
                        replace_at = Some(Instant::now());
                    }
                    ended => return Some(ended),
                },
                () = at_or_never(look) => {
                    let held = self.endpoint.upgrade()?;
                    if idle.is_over(&held) {
                        return Some(Ended::Idle);
                    }
                }
                () = at_or_never(replace_at) => match self.replace(&mut state).await? {
                    Replaced::By((connection, made_for)) => {
                        (state, target) = (connection.state(), made_for);
                        (aging, replace_at) = (false, None);
                        self.endpoint.upgrade()?.connected(connection);
                    }
                    // The connection serves for as long as it can, and its successor is tried for again.
                    Replaced::Failed => {
                        let pause = REPLACE_SPREAD.mul_f64(0.5 + fastrand::f64());
                        replace_at = Some(Instant::now() + pause);
                    }
                    Replaced::Ended(ended) => return Some(ended),
                },
                // Either may have changed how long the connection is kept, and how it is probed.
                changed = self.rules.changed() => changed.ok()?,
                () = self.wanted.notified() => {}
            }
        }
    }

    /// One attempt at a successor to a connection, for as long as that one is there to wait with.
    async fn replace(&self, state: &mut watch::Receiver<ConnectionState>) -> Option<Replaced> {
        tokio::select! {
            biased;
            made = self.connect() => Some(made?.map_or(Replaced::Failed, Replaced::By)),
            ended = reached(state, ConnectionState::Draining) => Some(Replaced::Ended(ended)),
        }
    }

    /// The attempt failed: waiting calls are told, and there is a pause, which further waiting calls may cut short.
    async fn failed(&mut self, error: ConnectError) -> Option<()> {
        self.endpoint.upgrade()?.failed(error);
        let longest = Duration::from_millis(self.rules.borrow().max_pause_ms);
        let begun = Instant::now();
        let jittered = self.pause.min(longest).mul_f64(0.8 + 0.4 * fastrand::f64());
        self.pause = (self.pause * 2).min(longest);
        let _ = timeout(jittered, self.wanted.notified()).await;
        sleep_until(begun + LEAST_PAUSE).await;
        Some(())
    }

    /// Waits until the endpoint is wanted.
    async fn sleep(&mut self) -> Option<()> {
        let wanted = {
            let held = self.endpoint.upgrade()?;
            // A ring from before says nothing; who comes from now on finds no connection, and rings or is seen here.
            let _ = self.wanted.notified().now_or_never();
            held.vitals.effort.store(effort::ASLEEP, Ordering::SeqCst);
            held.vitals.used.swap(false, Ordering::SeqCst) || held.is_at(Place::Floor)
        };
        if !wanted {
            self.wanted.notified().await;
        }
        self.endpoint
            .upgrade()?
            .vitals
            .effort
            .store(effort::ACTIVE, Ordering::SeqCst);
        Some(())
    }
}

/// When a connection that nobody uses is to close.
#[derive(Default)]
struct Idle {
    /// The time without calls that ends it; `None`: none does.
    limit: Option<Duration>,
    next_look: Option<Instant>,
    /// Looks in a row that found no call.
    silent: u32,
}

impl Idle {
    /// When to look again whether there were calls.
    fn next_look(&mut self, endpoint: &Endpoint, rules: &ConnectionsRules) -> Option<Instant> {
        let idle = (rules.idle_close_ms > 0).then(|| Duration::from_millis(rules.idle_close_ms));
        let limit = match endpoint.place() {
            Place::Floor => None,
            Place::Member => idle,
            Place::Outside => Some(idle.unwrap_or(OUTSIDE_IDLE).min(OUTSIDE_IDLE)),
        };
        if self.limit != limit {
            *self = Idle {
                limit,
                next_look: limit.map(|limit| Instant::now() + limit / LOOKS),
                silent: 0,
            };
        }
        self.next_look
    }

    /// Looks. The calls that still run on a connection to a non-member hold it by themselves.
    fn is_over(&mut self, endpoint: &Endpoint) -> bool {
        let used = endpoint.vitals.used.swap(false, Ordering::SeqCst);
        let busy = endpoint.pending() > 0 && !endpoint.is_at(Place::Outside);
        self.silent = if used || busy { 0 } else { self.silent + 1 };
        self.next_look = self.limit.map(|limit| Instant::now() + limit / LOOKS);
        self.silent >= LOOKS
    }
}

/// Waits until the connection is in the state `until`, or beyond.
async fn reached(state: &mut watch::Receiver<ConnectionState>, until: ConnectionState) -> Ended {
    let state = state.wait_for(|state| *state >= until).await;
    match state.as_deref() {
        Ok(ConnectionState::Aging) => Ended::Aging,
        Ok(ConnectionState::Draining) => Ended::Draining,
        _ => Ended::Lost,
    }
}

/// A random part of a time.
fn part_of(time: Duration) -> Duration {
    time.mul_f64(fastrand::f64())
}
