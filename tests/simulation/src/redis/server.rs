//! The server: its data, what may be wrong with it, and what it forgets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_registry::StoreError;
use rsf_registry::error::REQUEST_TIMEOUT;
use rsf_registry::lease::LiveLease;
use rsf_registry::record::{Lease, LeaseState};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::chance::Chance;
use crate::process::Process;

/// How far back the writes go that a promoted replica may have missed.
const REPLICA_LAG: Duration = Duration::from_secs(10);

/// One Redis server.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) name: String,
    pub(crate) chance: Arc<Chance>,
    state: Mutex<State>,
    goes_on: Notify,
}

/// What the server holds and how it is.
#[derive(Debug)]
pub(super) struct State {
    leases: BTreeMap<String, Stored>,
    pub(super) notifies: bool,
    /// Notifications vanish on the way, and nobody knows.
    deaf: bool,
    /// `run_id`, `master_replid`.
    run: u64,
    history: u64,
    canary: Option<u64>,
    canaries: u64,
    subscribers: BTreeMap<u64, mpsc::UnboundedSender<Notification>>,
    subscribed: u64,
    up: bool,
    stalled: bool,
    writable: bool,
    slow: bool,
    /// What was there before each of the last writes, newest last.
    undo: VecDeque<(Instant, String, Option<Stored>)>,
    dump: (BTreeMap<String, Stored>, Option<u64>),
}

#[derive(Debug, Clone)]
struct Stored {
    lease: Lease,
    until: Instant,
}

/// A keyspace notification, and when it arrives.
#[derive(Debug)]
pub(super) struct Notification {
    pub(super) instance: String,
    pub(super) at: Instant,
}

/// How a server that was killed comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comeback {
    /// With all it had.
    Whole,
    /// Without anything.
    Empty,
    /// With what its last dump holds.
    Dump,
}

impl Redis {
    pub(crate) fn start(name: &str, chance: Arc<Chance>) -> Arc<Self> {
        let state = State {
            leases: BTreeMap::new(),
            notifies: true,
            deaf: false,
            run: 1,
            history: 1,
            canary: None,
            canaries: 0,
            subscribers: BTreeMap::new(),
            subscribed: 0,
            up: true,
            stalled: false,
            writable: true,
            slow: false,
            undo: VecDeque::new(),
            dump: (BTreeMap::new(), None),
        };
        let redis = Arc::new(Redis {
            name: name.to_owned(),
            chance,
            state: Mutex::new(state),
            goes_on: Notify::new(),
        });
        tokio::spawn(redis.clone().expire());
        redis
    }

    /// Kills the server: connections end, requests are refused.
    pub(crate) fn kill(&self) {
        let mut state = self.state.lock();
        state.up = false;
        state.stalled = false;
        state.subscribers.clear();
        drop(state);
        self.goes_on.notify_waiters();
    }

    /// Starts it again.
    pub(crate) fn come_back(&self, how: Comeback) {
        let mut state = self.state.lock();
        state.up = true;
        state.run += 1;
        if how != Comeback::Whole {
            state.history += 1;
            state.undo.clear();
        }
        match how {
            Comeback::Whole => {}
            Comeback::Empty => {
                state.leases.clear();
                state.canary = None;
            }
            Comeback::Dump => (state.leases, state.canary) = state.dump.clone(),
        }
    }

    /// `FLUSHALL`.
    pub(crate) fn flush(&self) {
        let mut state = self.state.lock();
        state.leases.clear();
        state.undo.clear();
        state.canary = None;
    }

    /// A replica takes its place that has missed the last writes.
    pub(crate) fn promote(&self, missed: Duration) {
        let now = Instant::now();
        let mut state = self.state.lock();
        while state.undo.back().is_some_and(|(at, ..)| *at + missed > now) {
            match state.undo.pop_back() {
                Some((_, instance, Some(former))) => drop(state.leases.insert(instance, former)),
                Some((_, instance, None)) => drop(state.leases.remove(&instance)),
                None => {}
            }
        }
        state.run += 1;
        state.history += 1;
        state.subscribers.clear();
    }

    /// Saves a dump (RDB).
    pub(crate) fn dump(&self) {
        let mut state = self.state.lock();
        state.dump = (state.leases.clone(), state.canary);
    }

    /// SIGSTOP and SIGCONT: what clients sent meanwhile is executed when it goes on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.state.lock().stalled = stalled;
        self.goes_on.notify_waiters();
    }

    /// Refuses writes (a replica, a full disk), or takes them again.
    pub(crate) fn set_writable(&self, writable: bool) {
        self.state.lock().writable = writable;
    }

    /// Takes up to a second for every request.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.state.lock().slow = slow;
    }

    /// `CONFIG SET notify-keyspace-events`.
    pub(crate) fn set_notifies(&self, notifies: bool) {
        self.state.lock().notifies = notifies;
    }

    /// Notifications vanish on their way, as hints may.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.state.lock().deaf = deaf;
    }

    /// `CLIENT KILL TYPE pubsub`.
    pub(crate) fn end_subscriptions(&self) {
        self.state.lock().subscribers.clear();
    }

    /// Sends a request of `process` and waits for the answer. A request that the client has given up on may still be
    /// executed.
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        process: &Process,
        work: impl FnOnce(&mut State, Instant) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        process.running().await;
        if process.is_cut(&self.name) {
            sleep(Duration::from_secs(1)).await;
            process.running().await;
            return Err(self.unavailable("no connection"));
        }
        let (answer, answered) = oneshot::channel();
        let redis = self.clone();
        let most = if self.state.lock().slow { 500 } else { 3 };
        let (there, back) = (self.chance.millis(0, most), self.chance.millis(0, most));
        tokio::spawn(async move {
            sleep(there).await;
            let run = redis.state.lock().run;
            redis.moving().await;
            let result = redis.execute(run, work);
            sleep(back).await;
            // Nobody waits for it any more.
            let _ = answer.send(result);
        });
        let answer = timeout(REQUEST_TIMEOUT, answered).await;
        process.running().await;
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.unavailable("the connection was lost")),
            Err(_) => Err(self.unavailable("no answer in time")),
        }
    }

    async fn moving(&self) {
        loop {
            let goes_on = self.goes_on.notified();
            if !self.state.lock().stalled {
                return;
            }
            goes_on.await;
        }
    }

    fn execute<T>(
        &self,
        run: u64,
        work: impl FnOnce(&mut State, Instant) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state.lock();
        if !state.up || state.run != run {
            return Err(self.unavailable("connection refused"));
        }
        work(&mut state, Instant::now())
    }

    pub(super) fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable {
            backend: "redis",
            address: self.name.clone(),
            reason: reason.to_owned(),
        }
    }

    /// The cycle that finds expired keys; it tells of some of them, some time later.
    async fn expire(self: Arc<Self>) {
        loop {
            sleep(self.chance.millis(100, 3_000)).await;
            let now = Instant::now();
            let mut state = self.state.lock();
            if !state.up || state.stalled {
                continue;
            }
            let gone: Vec<String> = state
                .leases
                .iter()
                .filter(|(_, stored)| stored.until <= now)
                .map(|(instance, _)| instance.clone())
                .collect();
            for instance in gone {
                state.leases.remove(&instance);
                if self.chance.happens(70) {
                    state.notify(&instance, now + self.chance.millis(0, 50));
                }
            }
        }
    }
}

impl State {
    pub(super) fn put(&mut self, lease: Lease, ttl: Duration, now: Instant) -> Result<(), StoreError> {
        self.check_writable()?;
        let stored = self.alive(&lease.instance, now).map(|stored| &stored.lease);
        if let Some(stored) = stored
            && (stored.incarnation, stored.sequence) > (lease.incarnation, lease.sequence)
        {
            return Err(StoreError::Superseded {
                instance: lease.instance.clone(),
                incarnation: stored.incarnation,
                sequence: stored.sequence,
                left: stored.state() == LeaseState::Deregistered,
            });
        }
        let instance = lease.instance.clone();
        self.write(
            &instance,
            Stored {
                lease,
                until: now + ttl,
            },
            now,
        );
        self.notify(&instance, now);
        Ok(())
    }

    /// Whether the lease was there to be renewed.
    pub(super) fn renew(
        &mut self,
        instance: &str,
        incarnation: u64,
        ttl: Duration,
        now: Instant,
    ) -> Result<bool, StoreError> {
        self.check_writable()?;
        let Some(stored) = self
            .alive(instance, now)
            .filter(|stored| stored.lease.incarnation == incarnation)
        else {
            return Ok(false);
        };
        let renewed = Stored {
            lease: stored.lease.clone(),
            until: now + ttl,
        };
        self.write(instance, renewed, now);
        Ok(true)
    }

    pub(super) fn read(&self, instances: &[String], now: Instant) -> Vec<Option<LiveLease>> {
        let live = |instance: &String| {
            self.alive(instance, now).map(|stored| LiveLease {
                lease: stored.lease.clone(),
                remaining: stored.until - now,
            })
        };
        instances.iter().map(live).collect()
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.leases.keys().cloned().collect()
    }

    /// Which server this is, with which data; see `rsf-registry/src/cluster/redis/sweep.rs`.
    pub(super) fn identity(&mut self) -> Result<String, StoreError> {
        self.check_writable()?;
        let canary = match self.canary {
            Some(canary) => canary,
            None => {
                self.canaries += 1;
                *self.canary.insert(self.canaries)
            }
        };
        Ok(format!("{}/{}/{canary}", self.run, self.history))
    }

    pub(super) fn subscribe(&mut self) -> mpsc::UnboundedReceiver<Notification> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.subscribed += 1;
        self.subscribers.insert(self.subscribed, sender);
        receiver
    }

    fn notify(&mut self, instance: &str, at: Instant) {
        if !self.notifies || self.deaf {
            return;
        }
        self.subscribers.retain(|_, subscriber| {
            let instance = instance.to_owned();
            subscriber.send(Notification { instance, at }).is_ok()
        });
    }

    fn alive(&self, instance: &str, now: Instant) -> Option<&Stored> {
        self.leases.get(instance).filter(|stored| stored.until > now)
    }

    fn write(&mut self, instance: &str, stored: Stored, now: Instant) {
        let former = self.leases.insert(instance.to_owned(), stored);
        self.undo.push_back((now, instance.to_owned(), former));
        while self.undo.front().is_some_and(|(at, ..)| *at + REPLICA_LAG < now) {
            self.undo.pop_front();
        }
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.writable {
            return Ok(());
        }
        Err(StoreError::Refused {
            backend: "redis",
            reason: "READONLY it is a replica".to_owned(),
        })
    }
}
