//! One namespace of the embedded registry, used in its own process: every trait of the control path.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

use super::leases::{Acknowledged, Leases};
use super::reports::Reports;
use super::tables::Tables;
use crate::directory::{ListOpener, SealedList};
use crate::lease::LiveLease;
use crate::record::{Acknowledgement, Lease, PolicyRecord, Report, ServiceList};
use crate::{
    Acknowledgements, Directory, DirectoryWriter, Hint, LeaseSource, LeaseStore, Observed, PolicyStore,
    PolicyWriter, Renewal, ReportSource, ReportStore, Reported, StoreError, Sweep, Term, Watch, limits,
};

/// Hints that a slow reader may have waiting before it is told to sweep.
const HINTS: usize = 4096;

/// One namespace of an [`EmbeddedStore`](super::EmbeddedStore); clones share it.
#[derive(Debug, Clone)]
pub struct EmbeddedNamespace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    source: String,
    tables: Arc<Tables>,
    leases: Mutex<Leases>,
    hints: broadcast::Sender<String>,
    acknowledged: Mutex<Acknowledged>,
    reports: Mutex<Reports>,
    lists: Watched<SealedList>,
    policies: Watched<PolicyRecord>,
    /// Held from a commit to the end of its publication, so that watchers see commits in their order.
    commits: Mutex<()>,
    leader: tokio::sync::Mutex<Option<Leader>>,
}

/// Who leads, until its token is cancelled.
#[derive(Debug)]
struct Leader {
    pump: String,
    lost: CancellationToken,
}

impl EmbeddedNamespace {
    /// Watches a list as it was sealed, for those who open it themselves.
    pub(super) fn watch_sealed(&self, service: &str) -> Watch<SealedList> {
        self.shared.lists.watch(service)
    }

    pub(super) fn load(tables: Arc<Tables>, name: &str, source: &str) -> Result<Self, StoreError> {
        let loaded = tables.load(name)?;
        let shared = Shared {
            name: name.to_owned(),
            source: source.to_owned(),
            leases: Mutex::new(Leases::load(loaded.leases, Instant::now())),
            hints: broadcast::Sender::new(HINTS),
            acknowledged: Mutex::default(),
            reports: Mutex::default(),
            lists: Watched::new(loaded.lists.into_iter().map(|list| (list.service.clone(), list))),
            policies: Watched::new(
                loaded
                    .policies
                    .into_iter()
                    .map(|record| (record.scope.clone(), record)),
            ),
            commits: Mutex::new(()),
            leader: tokio::sync::Mutex::new(None),
            tables,
        };
        Ok(EmbeddedNamespace {
            shared: Arc::new(shared),
        })
    }

    /// Drops what has run out and writes leases that changed to the file.
    pub(super) async fn tick(&self) {
        let now = Instant::now();
        let (gone, changes) = {
            let mut leases = self.shared.leases.lock();
            (leases.expire(now), leases.take_unwritten())
        };
        for instance in gone {
            self.hint(&instance);
        }
        self.shared.acknowledged.lock().expire(now);
        self.shared.reports.lock().expire(now);
        self.shared.lists.forget_unwatched();
        self.shared.policies.forget_unwatched();
        if changes.is_empty() {
            return;
        }
        let written = self
            .blocking(move |shared| {
                let result = shared.tables.write_leases(&shared.name, &changes);
                if result.is_err() {
                    shared.leases.lock().put_back(changes);
                }
                result
            })
            .await;
        if let Err(error) = written {
            tracing::warn!(namespace = self.shared.name, %error, "leases could not be written; they are tried again");
        }
    }

    fn hint(&self, instance: &str) {
        // Nobody listens: no pump runs, and the next one sweeps.
        let _ = self.shared.hints.send(instance.to_owned());
    }

    /// Runs `work` to its end on a thread that may block, even where the caller gives up waiting.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .unwrap_or_else(|error| {
                let address = self.shared.tables.path();
                Err(StoreError::Unavailable {
                    backend: "registry",
                    address,
                    reason: error.to_string(),
                })
            })
    }
}

#[async_trait]
impl LeaseStore for EmbeddedNamespace {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        limits::check_lease(lease)?;
        limits::check_ttl(&lease.instance, ttl)?;
        self.shared.tables.check_open()?;
        self.shared.leases.lock().put(lease, ttl, Instant::now())?;
        self.hint(&lease.instance);
        Ok(())
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        limits::check_ttl(instance, ttl)?;
        Ok(self
            .shared
            .leases
            .lock()
            .renew(instance, incarnation, ttl, Instant::now()))
    }
}

#[async_trait]
impl LeaseSource for EmbeddedNamespace {
    fn name(&self) -> &str {
        "embedded"
    }

    async fn sweep(&self) -> Result<Sweep, StoreError> {
        self.shared.tables.check_open()?;
        let leases = self.shared.leases.lock().all(Instant::now());
        Ok(Sweep {
            source: self.shared.source.clone(),
            leases,
        })
    }

    async fn read(&self, instances: &[String]) -> Result<Vec<Option<LiveLease>>, StoreError> {
        self.shared.tables.check_open()?;
        let (leases, now) = (self.shared.leases.lock(), Instant::now());
        Ok(instances
            .iter()
            .map(|instance| leases.read(instance, now))
            .collect())
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        let hints = BroadcastStream::new(self.shared.hints.subscribe());
        Ok(hints.map(|hint| hint.map_or(Hint::Gap, Hint::Changed)).boxed())
    }
}

#[async_trait]
impl Directory for EmbeddedNamespace {
    fn watch(&self, service: &str) -> Watch<ServiceList> {
        let mut sealed = self.shared.lists.watch(service);
        let (sender, receiver) = watch::channel(Observed::Unknown);
        opened(sealed.current(), &sender);
        let task = tokio::spawn(async move {
            while let Some(state) = sealed.changed().await {
                opened(state, &sender);
            }
        });
        Watch::new(receiver, Some(task))
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        Ok(self
            .shared
            .lists
            .all()
            .iter()
            .map(|list| list.service.clone())
            .collect())
    }
}

#[async_trait]
impl DirectoryWriter for EmbeddedNamespace {
    async fn lead(&self, pump: &str, least_epoch: u64) -> Result<Term, StoreError> {
        loop {
            let mut leader = self.shared.leader.lock().await;
            if let Some(Leader { pump: leading, lost }) = &*leader
                && leading != pump
                && !lost.is_cancelled()
            {
                let lost = lost.clone();
                drop(leader);
                lost.cancelled().await;
                continue;
            }
            if let Some(former) = leader.take() {
                former.lost.cancel();
            }
            let least = least_epoch.max(unix_seconds());
            let epoch = self
                .blocking(move |shared| shared.tables.begin_term(&shared.name, least))
                .await?;
            let lost = CancellationToken::new();
            *leader = Some(Leader {
                pump: pump.to_owned(),
                lost: lost.clone(),
            });
            return Ok(Term { epoch, lost });
        }
    }

    async fn stored(&self) -> Result<Vec<SealedList>, StoreError> {
        let all = self.shared.lists.all();
        Ok(all.iter().map(|list| SealedList::clone(list)).collect())
    }

    async fn store(&self, term: &Term, lists: &[SealedList]) -> Result<(), StoreError> {
        let (epoch, lists) = (term.epoch, lists.to_vec());
        let written = self.blocking(move |shared| {
            let _order = shared.commits.lock();
            shared.tables.write_lists(&shared.name, epoch, &lists)?;
            for list in lists {
                let stored = shared.lists.get(&list.service);
                shared
                    .lists
                    .set(list.service.clone(), list.over(stored.as_deref()));
            }
            Ok(())
        });
        written.await.inspect_err(end_if_fenced(term))
    }

    async fn remove(&self, term: &Term, services: &[String]) -> Result<(), StoreError> {
        let (epoch, services) = (term.epoch, services.to_vec());
        let removed = self.blocking(move |shared| {
            let _order = shared.commits.lock();
            shared.tables.remove_lists(&shared.name, epoch, &services)?;
            services.iter().for_each(|service| shared.lists.remove(service));
            Ok(())
        });
        removed.await.inspect_err(end_if_fenced(term))
    }
}

/// Ends the term where a write was refused because another one has begun.
fn end_if_fenced(term: &Term) -> impl Fn(&StoreError) {
    |error| {
        if matches!(error, StoreError::Fenced { .. }) {
            term.lost.cancel();
        }
    }
}

#[async_trait]
impl PolicyStore for EmbeddedNamespace {
    fn watch(&self, scope: &str) -> Watch<PolicyRecord> {
        self.shared.policies.watch(scope)
    }

    async fn current(&self) -> Result<Vec<PolicyRecord>, StoreError> {
        Ok(self
            .shared
            .policies
            .all()
            .iter()
            .map(|record| PolicyRecord::clone(record))
            .collect())
    }
}

#[async_trait]
impl PolicyWriter for EmbeddedNamespace {
    async fn publish(&self, record: &PolicyRecord) -> Result<(), StoreError> {
        limits::check_policy(record)?;
        let record = record.clone();
        self.blocking(move |shared| {
            let _order = shared.commits.lock();
            if shared.tables.publish(&shared.name, &record)? {
                shared.policies.set(record.scope.clone(), record);
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Acknowledgements for EmbeddedNamespace {
    async fn acknowledge(
        &self,
        acknowledgements: &[Acknowledgement],
        ttl: Duration,
    ) -> Result<(), StoreError> {
        acknowledgements
            .iter()
            .try_for_each(limits::check_acknowledgement)?;
        limits::check_ttl("acknowledgements", ttl)?;
        self.shared.tables.check_open()?;
        let (mut acknowledged, now) = (self.shared.acknowledged.lock(), Instant::now());
        for acknowledgement in acknowledgements {
            acknowledged.put(acknowledgement, now + ttl, now);
        }
        Ok(())
    }

    async fn acknowledged(&self, scope: &str) -> Result<Vec<Acknowledgement>, StoreError> {
        Ok(self.shared.acknowledged.lock().of(scope, Instant::now()))
    }
}

#[async_trait]
impl ReportStore for EmbeddedNamespace {
    async fn report(&self, reports: &[Report], ttl: Duration) -> Result<usize, StoreError> {
        limits::check_reports(reports)?;
        limits::check_ttl("reports", ttl)?;
        let (mut kept, now) = (self.shared.reports.lock(), Instant::now());
        let put = |report: &&Report| kept.put(report, now + ttl, now);
        Ok(reports.iter().filter(put).count())
    }
}

#[async_trait]
impl ReportSource for EmbeddedNamespace {
    async fn reports(&self, instances: &[String]) -> Result<Reported, StoreError> {
        let (kept, now) = (self.shared.reports.lock(), Instant::now());
        let reports = instances.iter().flat_map(|instance| kept.of(instance, now));
        Ok(Reported {
            reports: reports.collect(),
            ill_formed: 0,
        })
    }
}

/// Key → value with watchers of each, of present keys and of keys that may come.
#[derive(Debug)]
struct Watched<T> {
    values: Mutex<BTreeMap<String, watch::Sender<Observed<T>>>>,
}

impl<T> Watched<T> {
    fn new(values: impl Iterator<Item = (String, T)>) -> Self {
        let present = |(key, value)| (key, watch::Sender::new(Observed::Present(Arc::new(value))));
        Watched {
            values: Mutex::new(values.map(present).collect()),
        }
    }

    fn watch(&self, key: &str) -> Watch<T> {
        let mut values = self.values.lock();
        let sender = values
            .entry(key.to_owned())
            .or_insert_with(|| watch::Sender::new(Observed::Absent));
        let mut receiver = sender.subscribe();
        // The first state is news to whoever has just begun to watch.
        receiver.mark_changed();
        Watch::new(receiver, None)
    }

    fn get(&self, key: &str) -> Option<Arc<T>> {
        match &*self.values.lock().get(key)?.borrow() {
            Observed::Present(value) => Some(value.clone()),
            Observed::Unknown | Observed::Absent => None,
        }
    }

    fn set(&self, key: String, value: T) {
        let mut values = self.values.lock();
        let sender = values
            .entry(key)
            .or_insert_with(|| watch::Sender::new(Observed::Absent));
        sender.send_replace(Observed::Present(Arc::new(value)));
    }

    fn remove(&self, key: &str) {
        if let Some(sender) = self.values.lock().get(key) {
            sender.send_replace(Observed::Absent);
        }
    }

    fn all(&self) -> Vec<Arc<T>> {
        let present = |sender: &watch::Sender<Observed<T>>| match &*sender.borrow() {
            Observed::Present(value) => Some(value.clone()),
            Observed::Unknown | Observed::Absent => None,
        };
        self.values.lock().values().filter_map(present).collect()
    }

    /// Keys that were only ever watched cost nothing once nobody watches them.
    fn forget_unwatched(&self) {
        let kept = |sender: &watch::Sender<Observed<T>>| {
            sender.receiver_count() > 0 || matches!(&*sender.borrow(), Observed::Present(_))
        };
        self.values.lock().retain(|_, sender| kept(sender));
    }
}

/// Hands a list on as in-process readers want it; one that cannot be opened leaves the last good one.
fn opened(state: Observed<SealedList>, sender: &watch::Sender<Observed<ServiceList>>) {
    let state = match state {
        Observed::Unknown => return,
        Observed::Absent => Observed::Absent,
        Observed::Present(sealed) => match ListOpener::unverified().open(&sealed) {
            Ok(opened) => Observed::Present(Arc::new(opened.list)),
            Err(error) => {
                return tracing::warn!(service = sealed.service, %error, "refused; keeping the last good list");
            }
        },
    };
    sender.send_replace(state);
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
