//! In-memory twins of the lease store and the directory, with switches for their faults, and a fleet of instances.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use rsf_pump::evidence::{Kind, Suspect};
use rsf_pump::{Evidence, Finding};
use rsf_registry::directory::{ListOpener, ListSealer, SealedList};
use rsf_registry::lease::LiveLease;
use rsf_registry::record::{Lease, LeaseState, ProvidedService, Removal, ServiceList};
use rsf_registry::{DirectoryWriter, Hint, LeaseSource, LeaseStore, Renewal, StoreError, Sweep, Term};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub(crate) const TTL: Duration = Duration::from_secs(15);
pub(crate) const RENEWAL: Duration = Duration::from_secs(5);

/// A lease store with faults.
pub(crate) struct Store {
    name: String,
    state: Mutex<StoreState>,
    stalled: watch::Sender<bool>,
}

#[derive(Default)]
struct StoreState {
    start: u64,
    leases: BTreeMap<String, (Lease, Instant)>,
    down: bool,
    hints_lost: bool,
    hints: Vec<mpsc::UnboundedSender<Hint>>,
    reads: usize,
    /// How long a sweep takes after it has looked.
    sweep_takes: Duration,
}

impl Store {
    pub(crate) fn new(name: &str) -> Arc<Store> {
        Arc::new(Store {
            name: name.into(),
            state: Mutex::default(),
            stalled: watch::Sender::new(false),
        })
    }

    /// Refuses connections.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().down = down;
    }

    /// Answers nothing (`SIGSTOP`); time goes on for the leases.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// A sweep's answer is so old when it comes.
    pub(crate) fn set_sweep_takes(&self, time: Duration) {
        self.state.lock().sweep_takes = time;
    }

    /// Hints go nowhere, and nobody is told.
    pub(crate) fn set_hints_lost(&self, lost: bool) {
        self.state.lock().hints_lost = lost;
    }

    /// Loses every lease (`FLUSHALL`).
    pub(crate) fn flush(&self) {
        self.state.lock().leases.clear();
    }

    /// Comes back as another, empty server.
    pub(crate) fn restart_empty(&self) {
        let mut state = self.state.lock();
        state.leases.clear();
        state.hints.clear();
        state.start += 1;
    }

    /// Whether it has a live lease of this instance.
    pub(crate) fn has(&self, instance: &str) -> bool {
        self.state.lock().leases.get(instance).and_then(live).is_some()
    }

    /// How many leases were read one by one.
    pub(crate) fn reads(&self) -> usize {
        self.state.lock().reads
    }

    async fn reach(&self) -> Result<(), StoreError> {
        let mut stalled = self.stalled.subscribe();
        stalled.wait_for(|stalled| !stalled).await.expect("sender");
        if self.state.lock().down {
            Err(unavailable("refused"))
        } else {
            Ok(())
        }
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        backend: "twin",
        address: "memory".into(),
        reason: reason.into(),
    }
}

#[async_trait]
impl LeaseStore for Store {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        self.reach().await?;
        let mut state = self.state.lock();
        let live = state
            .leases
            .get(&lease.instance)
            .filter(|(_, deadline)| *deadline > Instant::now());
        let order = (lease.incarnation, lease.sequence);
        if live.is_some_and(|(stored, _)| (stored.incarnation, stored.sequence) > order) {
            return Err(StoreError::Stale {
                key: lease.instance.clone(),
                reason: "older".into(),
            });
        }
        state
            .leases
            .insert(lease.instance.clone(), (lease.clone(), Instant::now() + ttl));
        if !state.hints_lost {
            state
                .hints
                .retain(|hints| hints.send(Hint::Changed(lease.instance.clone())).is_ok());
        }
        Ok(())
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        self.reach().await?;
        let mut state = self.state.lock();
        match state.leases.get_mut(instance) {
            Some((lease, deadline)) if lease.incarnation == incarnation && *deadline > Instant::now() => {
                *deadline = Instant::now() + ttl;
                Ok(Renewal::Renewed)
            }
            _ => Ok(Renewal::Unknown),
        }
    }
}

fn live((lease, deadline): &(Lease, Instant)) -> Option<LiveLease> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    (!remaining.is_zero()).then(|| LiveLease {
        lease: lease.clone(),
        remaining,
    })
}

#[async_trait]
impl LeaseSource for Store {
    fn name(&self) -> &str {
        &self.name
    }

    async fn sweep(&self) -> Result<Sweep, StoreError> {
        self.reach().await?;
        let (swept, takes) = {
            let state = self.state.lock();
            let swept = Sweep {
                source: state.start.to_string(),
                leases: state.leases.values().filter_map(live).collect(),
            };
            (swept, state.sweep_takes)
        };
        sleep(takes).await;
        Ok(swept)
    }

    async fn read(&self, instances: &[String]) -> Result<Vec<Option<LiveLease>>, StoreError> {
        self.reach().await?;
        let mut state = self.state.lock();
        state.reads += instances.len();
        Ok(instances
            .iter()
            .map(|instance| state.leases.get(instance).and_then(live))
            .collect())
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        self.reach().await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state.lock().hints.push(sender);
        let next =
            |mut receiver: mpsc::UnboundedReceiver<Hint>| async { Some((receiver.recv().await?, receiver)) };
        Ok(futures_util::stream::unfold(receiver, next).boxed())
    }
}

/// A directory with faults. It refuses what is fenced and panics at what must never be written.
#[derive(Default)]
pub(crate) struct Directory {
    state: Mutex<DirectoryState>,
    freed: Notify,
}

#[derive(Default)]
struct DirectoryState {
    epoch: u64,
    leader: Option<(String, CancellationToken)>,
    /// As it is stored, and opened.
    sealed: BTreeMap<String, SealedList>,
    lists: BTreeMap<String, ServiceList>,
    /// What each write brought, in bytes.
    bytes: Vec<usize>,
    history: Vec<(Instant, ServiceList)>,
    away: bool,
    ambiguous: bool,
    refused: HashSet<String>,
    fenced: usize,
}

impl Directory {
    pub(crate) fn new() -> Arc<Directory> {
        Arc::new(Directory::default())
    }

    /// Every request fails.
    pub(crate) fn set_away(&self, away: bool) {
        self.state.lock().away = away;
    }

    /// Writes take effect and their answers are lost.
    pub(crate) fn set_ambiguous(&self, ambiguous: bool) {
        self.state.lock().ambiguous = ambiguous;
    }

    /// Refuses every write that has this list.
    pub(crate) fn refuse(&self, service: &str) {
        self.state.lock().refused.insert(service.into());
    }

    pub(crate) fn accept(&self, service: &str) {
        self.state.lock().refused.remove(service);
    }

    /// Lets another pump lead; the old leader hears of it only if `told`.
    pub(crate) fn depose(&self, told: bool) {
        let leader = self.state.lock().leader.take();
        if let Some((_, lost)) = leader.filter(|_| told) {
            lost.cancel();
        }
        self.freed.notify_waiters();
    }

    /// Loses everything, the epoch too, and with it the leader.
    pub(crate) fn wipe(&self) {
        {
            let mut state = self.state.lock();
            state.lists.clear();
            state.sealed.clear();
            state.epoch = 0;
        }
        self.depose(true);
    }

    /// Puts a list there that no pump here wrote.
    pub(crate) fn plant(&self, list: ServiceList) {
        let sealed = ListSealer::unsigned().seal(&list).expect("a good list");
        let mut state = self.state.lock();
        state.sealed.insert(list.service.clone(), sealed);
        state.lists.insert(list.service.clone(), list);
    }

    /// A list as it is stored.
    /// Somebody else wrote into a list's place.
    pub(crate) fn damage(&self, service: &str) {
        let mut state = self.state.lock();
        let sealed = state.sealed.get_mut(service).expect("a list");
        sealed.head = b"no list".to_vec().into();
    }

    pub(crate) fn sealed(&self, service: &str) -> Option<SealedList> {
        self.state.lock().sealed.get(service).cloned()
    }

    pub(crate) fn list(&self, service: &str) -> Option<ServiceList> {
        self.state.lock().lists.get(service).cloned()
    }

    pub(crate) fn lists_stored(&self) -> Vec<ServiceList> {
        self.state.lock().lists.values().cloned().collect()
    }

    pub(crate) fn len(&self, service: &str) -> usize {
        self.list(service).map_or(0, |list| list.instances.len())
    }

    pub(crate) fn removed(&self, service: &str) -> Vec<Removal> {
        self.list(service).map(|list| list.removed).unwrap_or_default()
    }

    /// The writes of one list since `since`: when, and how many instances it had.
    pub(crate) fn writes(&self, service: &str, since: Instant) -> Vec<(Duration, usize)> {
        let state = self.state.lock();
        let of = state
            .history
            .iter()
            .filter(|(at, list)| list.service == service && *at >= since);
        of.map(|(at, list)| (*at - since, list.instances.len())).collect()
    }

    /// The least size of one list since `since`, the current one included.
    pub(crate) fn least(&self, service: &str, since: Instant) -> usize {
        let written = self.writes(service, since).into_iter().map(|(_, len)| len).min();
        written.unwrap_or(usize::MAX).min(self.len(service))
    }

    pub(crate) fn fenced(&self) -> usize {
        self.state.lock().fenced
    }
}

#[async_trait]
impl DirectoryWriter for Directory {
    async fn lead(&self, pump: &str, least_epoch: u64) -> Result<Term, StoreError> {
        loop {
            let freed = self.freed.notified();
            let other = {
                let mut state = self.state.lock();
                if state.away {
                    return Err(unavailable("away"));
                }
                let other = state
                    .leader
                    .clone()
                    .filter(|(name, lost)| name != pump && !lost.is_cancelled());
                if other.is_none() {
                    state.epoch = (state.epoch + 1).max(least_epoch);
                    let lost = CancellationToken::new();
                    state.leader = Some((pump.to_owned(), lost.clone()));
                    return Ok(Term {
                        epoch: state.epoch,
                        lost,
                    });
                }
                other
            };
            let lost = other.map(|(_, lost)| lost).unwrap_or_default();
            tokio::select! {
                () = freed => {}
                () = lost.cancelled() => {}
            }
        }
    }

    async fn stored(&self) -> Result<Vec<SealedList>, StoreError> {
        let state = self.state.lock();
        if state.away {
            Err(unavailable("away"))
        } else {
            Ok(state.sealed.values().cloned().collect())
        }
    }

    async fn remove(&self, term: &Term, services: &[String]) -> Result<(), StoreError> {
        sleep(Duration::from_millis(2)).await;
        let mut state = self.state.lock();
        if state.away {
            return Err(unavailable("away"));
        }
        if term.epoch < state.epoch || state.leader.is_none() {
            state.fenced += 1;
            return Err(StoreError::Fenced { epoch: term.epoch });
        }
        for service in services {
            let list = state.lists.remove(service);
            assert!(list.as_ref().is_none_or(is_empty), "{service} is not empty");
            state.sealed.remove(service);
        }
        Ok(())
    }

    async fn store(&self, term: &Term, lists: &[SealedList]) -> Result<(), StoreError> {
        sleep(Duration::from_millis(2)).await;
        let mut state = self.state.lock();
        if state.away {
            return Err(unavailable("away"));
        }
        if term.epoch < state.epoch || state.leader.is_none() {
            state.fenced += 1;
            return Err(StoreError::Fenced { epoch: term.epoch });
        }
        if lists.iter().any(|list| state.refused.contains(&list.service)) {
            return Err(StoreError::Refused {
                backend: "twin",
                reason: "this list is refused".into(),
            });
        }
        for sealed in lists {
            let brought: usize = sealed.shards.values().map(|shard| shard.len()).sum();
            let sealed = sealed.clone().over(state.sealed.get(&sealed.service));
            let list = ListOpener::unverified().open(&sealed).expect("a good list").list;
            check(&list, state.lists.get(&list.service), term);
            state.bytes.push(sealed.head.len() + brought);
            state.sealed.insert(list.service.clone(), sealed);
            state.lists.insert(list.service.clone(), list.clone());
            state.history.push((Instant::now(), list));
        }
        if state.ambiguous {
            Err(unavailable("the answer was lost"))
        } else {
            Ok(())
        }
    }
}

fn is_empty(list: &ServiceList) -> bool {
    list.instances.is_empty()
}

/// What holds for every list that is ever written.
fn check(list: &ServiceList, before: Option<&ServiceList>, term: &Term) {
    let version = list.version.expect("a version").order();
    assert_eq!(version.0, term.epoch);
    if let Some(before) = before.and_then(|before| before.version) {
        assert!(version > before.order(), "{version:?} after {before:?}");
    }
    let once: HashSet<_> = list.instances.iter().map(|listed| &listed.instance).collect();
    assert_eq!(once.len(), list.instances.len(), "each instance once");
    // The last 64, and whoever left within the last minute.
    let more = list.removed.len().saturating_sub(64);
    let recent = |removal: &Removal| removal.at_unix_ms + 60_000 > list.written_unix_ms;
    assert!(
        list.removed[..more].iter().all(recent),
        "{more} too many are told of"
    );
    for removal in &list.removed {
        let back = |entry: &&rsf_registry::record::ListedInstance| {
            entry.instance == removal.instance && entry.incarnation == removal.incarnation
        };
        assert!(
            !list.instances.iter().any(|entry| back(&entry)),
            "{} is listed and removed",
            removal.instance
        );
    }
}

/// Simulated instances that register and renew until they are killed. Instance `i` calls store `i % n` its home, and
/// goes to the next one that answers while that does not.
pub(crate) struct Fleet {
    stores: Vec<Arc<Store>>,
    running: BTreeMap<String, (JoinHandle<()>, Lease)>,
    hosts: Arc<Hosts>,
}

/// What is found at the addresses of the fleet.
#[derive(Default)]
pub(crate) struct Hosts {
    listening: Mutex<HashSet<String>>,
    cut_off: Mutex<bool>,
}

impl Hosts {
    /// No packet comes back from anywhere.
    pub(crate) fn cut_off(&self) {
        *self.cut_off.lock() = true;
    }

    /// Instances of `service` that live without a lease end.
    pub(crate) fn stop_listening(&self, service: &str, indices: std::ops::Range<usize>) {
        for index in indices {
            self.listening.lock().remove(&lease(service, index).address);
        }
    }
}

#[async_trait]
impl Evidence for Hosts {
    fn kind(&self) -> Kind {
        Kind::Probe
    }

    async fn of(&self, suspect: &Suspect) -> Finding {
        sleep(Duration::from_millis(1)).await;
        match (
            *self.cut_off.lock(),
            self.listening.lock().contains(&suspect.address),
        ) {
            (true, _) => Finding::Unclear,
            (false, true) => Finding::Answers,
            (false, false) => Finding::Gone,
        }
    }
}

impl Fleet {
    pub(crate) fn new(stores: &[Arc<Store>]) -> Fleet {
        Fleet {
            stores: stores.to_vec(),
            running: BTreeMap::new(),
            hosts: Arc::default(),
        }
    }

    /// What a probe of the instances finds.
    pub(crate) fn hosts(&self) -> Arc<Hosts> {
        self.hosts.clone()
    }

    /// Starts instances `0..count` of `service`, spread over one renewal interval.
    pub(crate) fn start(&mut self, service: &str, count: usize) {
        for index in 0..count {
            self.start_one(service, index, RENEWAL * index as u32 / count as u32);
        }
    }

    pub(crate) fn start_one(&mut self, service: &str, index: usize, delay: Duration) {
        let lease = lease(service, index);
        let (stores, mine) = (self.homes(index), lease.clone());
        let task = tokio::spawn(async move {
            let (mut known, mut at) = (false, 0);
            loop {
                let store = &stores[at];
                let answer = match known {
                    true => store.renew(&mine.instance, mine.incarnation, TTL).await,
                    false => store.put(&mine, TTL).await.map(|()| Renewal::Renewed),
                };
                match answer {
                    Ok(Renewal::Renewed) => {
                        sleep(if known {
                            RENEWAL
                        } else {
                            delay + Duration::from_millis(10)
                        })
                        .await;
                        known = true;
                    }
                    Ok(Renewal::Unknown) => known = false,
                    Err(_) => {
                        (known, at) = (false, (at + 1) % stores.len());
                        if at == 0 || stores.len() == 1 {
                            sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
            }
        });
        self.hosts.listening.lock().insert(lease.address.clone());
        self.running.insert(lease.instance.clone(), (task, lease));
    }

    /// The stores in the order in which an instance goes to them.
    fn homes(&self, index: usize) -> Vec<Arc<Store>> {
        let mut stores = self.stores.clone();
        let home = index % stores.len();
        stores.rotate_left(home);
        stores
    }

    /// `kill -9` of instances of `service`.
    pub(crate) fn kill(&mut self, service: &str, indices: std::ops::Range<usize>) {
        for index in indices.clone() {
            self.hosts.listening.lock().remove(&lease(service, index).address);
        }
        self.silence(service, indices);
    }

    /// Instances of `service` live and serve, and renew no more.
    pub(crate) fn silence(&mut self, service: &str, indices: std::ops::Range<usize>) {
        for index in indices {
            let (task, _) = self
                .running
                .remove(&name(service, index))
                .expect("a running instance");
            task.abort();
        }
    }

    /// Ends or changes instances of `service` by their own word.
    pub(crate) async fn say(&mut self, service: &str, indices: std::ops::Range<usize>, state: LeaseState) {
        for index in indices {
            let (task, mut lease) = self
                .running
                .remove(&name(service, index))
                .expect("a running instance");
            task.abort();
            lease.sequence += 1;
            lease.set_state(state);
            let ttl = if state == LeaseState::Deregistered {
                Duration::from_secs(3)
            } else {
                TTL
            };
            let homes = self.homes(index);
            let mut put = Err(unavailable("no store"));
            for store in homes {
                put = store.put(&lease, ttl).await;
                if put.is_ok() {
                    break;
                }
            }
            put.expect("a store that is there");
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.running.values().for_each(|(task, _)| task.abort());
    }
}

pub(crate) fn name(service: &str, index: usize) -> String {
    format!("{service}/{index:04}")
}

pub(crate) fn lease(service: &str, index: usize) -> Lease {
    Lease {
        namespace: "test".into(),
        application: service.into(),
        instance: name(service, index),
        incarnation: 1_000,
        sequence: 1,
        address: format!("{service}:{}", 1_000 + index),
        weight: 100,
        services: vec![ProvidedService {
            name: service.into(),
            ..ProvidedService::default()
        }],
        state: LeaseState::Up.into(),
        ..Lease::default()
    }
}
