//! The ensemble: its data, its sessions, and what may become of either.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_registry::directory::{ListOpener, ListSealer, SealedList};
use rsf_registry::record::ServiceList;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Link;
use crate::chance::Chance;
use crate::judge::{Judge, Writer};

/// How many servers consumers read from.
pub(crate) const SERVERS: usize = 3;
/// How long a silent client keeps its ephemeral nodes; as in `rsf-registry/src/cluster/zookeeper.rs`.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// How often the ensemble looks after its sessions.
const TICK: Duration = Duration::from_millis(250);

/// The ensemble.
#[derive(Debug)]
pub(crate) struct ZooKeeper {
    pub(crate) chance: Arc<Chance>,
    pub(super) judge: Arc<Judge>,
    pub(super) state: Mutex<State>,
    /// Sessions, candidates or the epoch changed.
    pub(super) changed: Notify,
    /// Whether a write is refused whose epoch is no longer the stored one.
    pub(super) fenced: bool,
    /// Whether a new epoch is greater than all that the clock and the pump's own file know.
    pub(super) epochs_rise: bool,
}

/// The version of a list node: contents, and the moment from which they count.
type Kept = (Instant, Option<Arc<ServiceList>>);

/// What the ensemble holds and how it is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) quorum: bool,
    pub(super) slow: bool,
    /// Watches are lost without a word.
    pub(super) watches_lost: bool,
    /// How far each server is behind.
    pub(super) lags: [Duration; SERVERS],
    /// The epoch and the version of its node.
    pub(super) epoch: Option<(u64, i32)>,
    /// The lists as they are stored, and what they say.
    pub(super) sealed: BTreeMap<String, SealedList>,
    lists: BTreeMap<String, Arc<ServiceList>>,
    history: BTreeMap<String, VecDeque<Kept>>,
    /// Sequence → session.
    pub(super) candidates: BTreeMap<u64, u64>,
    pub(super) stood: u64,
    pub(super) sessions: u64,
    pub(super) links: Vec<Arc<Link>>,
    pub(super) watchers: BTreeMap<String, Vec<Arc<Notify>>>,
    backup: Backup,
}

/// All data at one moment.
#[derive(Debug, Clone, Default)]
struct Backup {
    epoch: Option<(u64, i32)>,
    sealed: BTreeMap<String, SealedList>,
    lists: BTreeMap<String, Arc<ServiceList>>,
}

impl ZooKeeper {
    pub(crate) fn start(
        chance: Arc<Chance>,
        judge: Arc<Judge>,
        fenced: bool,
        epochs_rise: bool,
    ) -> Arc<Self> {
        let state = State {
            quorum: true,
            slow: false,
            watches_lost: false,
            lags: [Duration::ZERO; SERVERS],
            epoch: None,
            sealed: BTreeMap::new(),
            lists: BTreeMap::new(),
            history: BTreeMap::new(),
            candidates: BTreeMap::new(),
            stood: 0,
            sessions: 0,
            links: Vec::new(),
            watchers: BTreeMap::new(),
            backup: Backup::default(),
        };
        let zookeeper = Arc::new(ZooKeeper {
            chance,
            judge,
            state: Mutex::new(state),
            changed: Notify::new(),
            fenced,
            epochs_rise,
        });
        tokio::spawn(zookeeper.clone().tick());
        zookeeper
    }

    /// Loses its quorum, or has it again; sessions get their whole timeouts anew then.
    pub(crate) fn set_quorum(&self, quorum: bool) {
        let mut state = self.state.lock();
        state.quorum = quorum;
        for link in &state.links {
            if quorum {
                link.heard()
            } else {
                link.drop_connection()
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes up to a second for every request.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.state.lock().slow = slow;
    }

    /// Tells of no change; clients read again by themselves some time.
    pub(crate) fn set_watches_lost(&self, lost: bool) {
        self.state.lock().watches_lost = lost;
    }

    /// One server is so far behind the others.
    pub(crate) fn set_lag(&self, server: usize, lag: Duration) {
        self.state.lock().lags[server % SERVERS] = lag;
    }

    /// Loses all data and all sessions.
    pub(crate) fn wipe(&self) {
        self.replace(Backup::default());
    }

    /// Remembers all data for [`ZooKeeper::restore`].
    pub(crate) fn back_up(&self) {
        let mut state = self.state.lock();
        state.backup = Backup {
            epoch: state.epoch,
            sealed: state.sealed.clone(),
            lists: state.lists.clone(),
        };
    }

    /// Comes back from the last backup, without a session.
    pub(crate) fn restore(&self) {
        let backup = self.state.lock().backup.clone();
        self.replace(backup);
    }

    fn replace(&self, backup: Backup) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.candidates.clear();
        for link in &state.links {
            link.expire();
        }
        state.epoch = backup.epoch;
        state.sealed = backup.sealed;
        let mut services: Vec<String> = state.lists.keys().cloned().collect();
        services.extend(backup.lists.keys().cloned());
        state.lists = backup.lists;
        for service in services {
            let list = state.lists.get(&service).cloned();
            state.keep(&service, now, list);
            state.fire(&service);
        }
        let stored = state
            .lists
            .values()
            .map(|list| ServiceList::clone(list))
            .collect();
        drop(state);
        self.judge.replaced(stored);
        self.changed.notify_waiters();
    }

    /// Ends one session, as an ensemble does that heard nothing of its client for too long.
    pub(crate) fn expire(&self, link: &Link) {
        let mut state = self.state.lock();
        state.end_session(link);
        drop(state);
        self.changed.notify_waiters();
    }

    /// An operator deletes the leading candidate's node.
    pub(crate) fn depose(&self) {
        self.state.lock().candidates.pop_first();
        self.changed.notify_waiters();
    }

    /// Overwrites a list, as no pump would. Shards are nodes of their own: those that were there stay.
    pub(crate) fn plant(&self, list: &ServiceList) {
        match ListSealer::unsigned().seal(list) {
            Ok(mut sealed) => {
                let mut state = self.state.lock();
                let former = state.sealed.get(&list.service);
                let shards = former.map(|former| former.shards.clone());
                sealed.shards.extend(shards.unwrap_or_default());
                state.store(sealed, list.clone(), Instant::now());
            }
            Err(error) => self.judge.broken(format!("a list cannot be planted: {error}")),
        }
    }

    /// A list as it is stored.
    pub(crate) fn list(&self, service: &str) -> Option<Arc<ServiceList>> {
        self.state.lock().lists.get(service).cloned()
    }

    /// A write of a pump takes effect.
    pub(super) fn write(&self, state: &mut State, writer: &Writer, sealed: SealedList) {
        let service = sealed.service.clone();
        let new = sealed.shards.len();
        let sealed = sealed.over(state.sealed.get(&service));
        if !sealed.names.is_empty() {
            let shards = sealed.names.len();
            let trace = &self.judge.trace;
            trace.note(
                "directory",
                format_args!("{service} stands in {shards} shards, {new} of them new"),
            );
        }
        match ListOpener::unverified().open(&sealed) {
            Ok(opened) => {
                let former = state.lists.get(&service).cloned();
                self.judge
                    .written(writer.clone(), former.as_deref(), &opened.list);
                state.store(sealed, opened.list, Instant::now());
            }
            Err(error) => self.judge.broken(format!(
                "a list of {service} is stored that nobody can open: {error}"
            )),
        }
    }

    async fn tick(self: Arc<Self>) {
        loop {
            sleep(TICK).await;
            let mut state = self.state.lock();
            let quorum = state.quorum;
            for link in state.links.clone() {
                if link.process.is_dead() || !link.process.is_running() {
                    if quorum && link.silent_for() > SESSION_TIMEOUT {
                        state.end_session(&link);
                    }
                } else if link.process.is_cut("zookeeper") {
                    link.drop_connection();
                    if quorum && link.silent_for() > SESSION_TIMEOUT {
                        state.end_session(&link);
                    }
                } else if quorum && (link.is_up() || self.chance.happens(50)) {
                    let sessions = &mut state.sessions;
                    link.connect(self.chance.index(SERVERS - 1), || {
                        *sessions += 1;
                        *sessions
                    });
                }
            }
            state
                .links
                .retain(|link| !link.process.is_dead() || link.has_session());
            drop(state);
            self.changed.notify_waiters();
        }
    }
}

impl State {
    /// What a server that is `lag` behind has of a list.
    pub(super) fn seen(&self, service: &str, lag: Duration) -> Option<Arc<ServiceList>> {
        let now = Instant::now();
        let history = self.history.get(service)?;
        let seen = history.iter().rev().find(|(at, _)| *at + lag <= now);
        seen.and_then(|(_, list)| list.clone())
    }

    /// Whether this session's candidate is the oldest.
    pub(super) fn leads(&self, candidate: u64) -> bool {
        self.candidates
            .first_key_value()
            .is_some_and(|(first, _)| *first == candidate)
    }

    fn store(&mut self, sealed: SealedList, list: ServiceList, now: Instant) {
        let (service, list) = (list.service.clone(), Arc::new(list));
        self.sealed.insert(service.clone(), sealed);
        self.lists.insert(service.clone(), list.clone());
        self.keep(&service, now, Some(list));
        self.fire(&service);
    }

    fn keep(&mut self, service: &str, now: Instant, list: Option<Arc<ServiceList>>) {
        let history = self.history.entry(service.to_owned()).or_default();
        history.push_back((now, list));
        // No server is ever further behind than this.
        while history.len() > 1
            && history
                .get(1)
                .is_some_and(|(at, _)| *at + Duration::from_secs(30) < now)
        {
            history.pop_front();
        }
    }

    fn fire(&mut self, service: &str) {
        for watcher in self.watchers.remove(service).unwrap_or_default() {
            if !self.watches_lost {
                watcher.notify_one();
            }
        }
    }

    fn end_session(&mut self, link: &Link) {
        if let Some(session) = link.expire() {
            self.candidates.retain(|_, of| *of != session);
        }
    }
}
