//! What is known of the fleet: the directory's lists, watched, and all instances, consumers included.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rsf_registry::record::{Lease, LeaseState, ListedInstance, RemovalCause, ServiceList};
use rsf_registry::{Directory, LeaseSource, Observed, StoreError, Watch};
use tokio_util::sync::CancellationToken;

use crate::model::{Instance, Removed, Service, ServiceInstance, ServiceSummary};

/// How often the directory is asked for services that came or went.
const SERVICES_INTERVAL: Duration = Duration::from_secs(1);
/// How often all leases are read at most; where a sweep takes long, it takes 5 % of the time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// The console's view of the fleet. It never waits for the control plane: the last good state stays.
pub struct Fleet {
    directory: Arc<dyn Directory>,
    leases: Vec<Arc<dyn LeaseSource>>,
    lists: Mutex<Lists>,
    swept: Mutex<Swept>,
}

#[derive(Default)]
struct Lists {
    watches: BTreeMap<String, Watch<ServiceList>>,
    /// Why the keys of services could not be read; `None` until they are read for the first time.
    failure: Option<String>,
    read: bool,
}

impl Fleet {
    /// A view through `directory`, and through all sources of `leases` where pure consumers shall be seen too.
    pub fn new(directory: Arc<dyn Directory>, leases: Vec<Arc<dyn LeaseSource>>) -> Self {
        Fleet {
            directory,
            swept: Mutex::new(Swept {
                last: vec![None; leases.len()],
                instances: None,
            }),
            leases,
            lists: Mutex::default(),
        }
    }

    /// Keeps the view up until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let services = async {
            loop {
                self.refresh_services().await;
                tokio::time::sleep(SERVICES_INTERVAL).await;
            }
        };
        let sweeps = async {
            let sources = self.leases.iter().enumerate().map(async |(place, source)| {
                loop {
                    let began = tokio::time::Instant::now();
                    self.sweep(place, &**source).await;
                    tokio::time::sleep(SWEEP_INTERVAL.max(began.elapsed() * 20)).await;
                }
            });
            futures_util::future::join_all(sources).await;
            std::future::pending().await
        };
        tokio::select! {
            () = services => {}
            () = sweeps => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Why the directory could not be read the last time; empty where it could.
    pub fn failure(&self) -> String {
        self.lists.lock().failure.clone().unwrap_or_default()
    }

    /// Whether the directory was ever read.
    pub fn is_known(&self) -> bool {
        self.lists.lock().read
    }

    /// All services, by key.
    pub fn services(&self) -> Vec<ServiceSummary> {
        let lists = self.lists.lock();
        lists
            .watches
            .iter()
            .map(|(key, watch)| summary(key, &list(watch)))
            .collect()
    }

    /// One service with its instances; `None` where the directory has no such list.
    pub fn service(&self, key: &str) -> Option<Service> {
        let list = list(self.lists.lock().watches.get(key)?);
        let mut instances: Vec<_> = list
            .instances
            .iter()
            .map(|listed| ServiceInstance {
                instance: from_listed(listed, key),
                effective_weight: listed.weight,
                disabled: false,
            })
            .collect();
        instances.sort_by(|a, b| a.instance.instance.cmp(&b.instance.instance));
        let removed = list.removed.iter().rev().map(|removal| Removed {
            instance: removal.instance.clone(),
            cause: cause(removal.cause()).to_owned(),
            at_unix_ms: removal.at_unix_ms,
        });
        Some(Service {
            service: key.to_owned(),
            version: list.version.map_or((0, 0), |version| version.order()),
            written_unix_ms: list.written_unix_ms,
            instances,
            removed: removed.collect(),
        })
    }

    /// All instances, by id: those with a lease where leases can be read, else those in the directory.
    pub fn instances(&self) -> Vec<Instance> {
        if let Some(swept) = &self.swept.lock().instances {
            return swept.clone();
        }
        let mut instances: BTreeMap<String, Instance> = BTreeMap::new();
        for (key, watch) in &self.lists.lock().watches {
            for listed in &list(watch).instances {
                instances
                    .entry(listed.instance.clone())
                    .and_modify(|instance| instance.services.push(key.clone()))
                    .or_insert_with(|| from_listed(listed, key));
            }
        }
        instances.into_values().collect()
    }

    async fn refresh_services(&self) {
        let read = self.directory.services().await;
        let mut lists = self.lists.lock();
        match read {
            Ok(keys) => {
                lists.failure = None;
                lists.read = true;
                let keys: BTreeSet<_> = keys.into_iter().collect();
                lists.watches.retain(|key, _| keys.contains(key));
                for key in keys {
                    lists
                        .watches
                        .entry(key)
                        .or_insert_with_key(|key| self.directory.watch(key));
                }
            }
            Err(error) => note(&mut lists.failure, &error, "the directory cannot be read"),
        }
    }

    async fn sweep(&self, place: usize, source: &dyn LeaseSource) {
        match source.sweep().await {
            Ok(sweep) => {
                let leases = sweep.leases.into_iter().map(|live| live.lease).collect();
                self.swept.lock().note(place, leases);
            }
            Err(error) => {
                tracing::debug!(source = source.name(), %error, "leases cannot be read; the last instances stay");
            }
        }
    }
}

/// What the lease sources had when they were last read.
struct Swept {
    last: Vec<Option<Vec<Lease>>>,
    /// All of them by id; `None` until one source was read.
    instances: Option<Vec<Instance>>,
}

impl Swept {
    /// Takes in one source's leases; where several have an instance's, its last word counts.
    fn note(&mut self, place: usize, leases: Vec<Lease>) {
        if let Some(last) = self.last.get_mut(place) {
            *last = Some(leases);
        }
        let mut newest: BTreeMap<&str, &Lease> = BTreeMap::new();
        for lease in self.last.iter().flatten().flatten() {
            let known = newest.entry(&lease.instance).or_insert(lease);
            if (lease.incarnation, lease.sequence) > (known.incarnation, known.sequence) {
                *known = lease;
            }
        }
        let present = newest
            .into_values()
            .filter(|lease| lease.state() != LeaseState::Deregistered);
        self.instances = Some(present.map(from_lease).collect());
    }
}

fn note(failure: &mut Option<String>, error: &StoreError, what: &str) {
    let text = error.to_string();
    if failure.as_deref() != Some(&text) {
        tracing::warn!(error = text, "{what}");
    }
    *failure = Some(text);
}

fn list(watch: &Watch<ServiceList>) -> Arc<ServiceList> {
    match watch.current() {
        Observed::Present(list) => list,
        Observed::Unknown | Observed::Absent => Arc::default(),
    }
}

fn summary(key: &str, list: &ServiceList) -> ServiceSummary {
    let in_state = |state| {
        list.instances
            .iter()
            .filter(|listed| listed.state() == state)
            .count()
    };
    let distinct = |of: fn(&ListedInstance) -> &String| -> Vec<String> {
        let all: BTreeSet<_> = list
            .instances
            .iter()
            .map(of)
            .filter(|text| !text.is_empty())
            .collect();
        all.into_iter().cloned().collect()
    };
    ServiceSummary {
        service: key.to_owned(),
        up: in_state(LeaseState::Up),
        draining: in_state(LeaseState::Draining),
        applications: distinct(|listed| &listed.application),
        zones: distinct(|listed| &listed.zone),
    }
}

fn from_listed(listed: &ListedInstance, key: &str) -> Instance {
    Instance {
        instance: listed.instance.clone(),
        incarnation: listed.incarnation,
        application: listed.application.clone(),
        address: listed.address.clone(),
        admin_address: listed.admin_address.clone(),
        zone: listed.zone.clone(),
        tags: listed.tags.clone().into_iter().collect(),
        weight: listed.weight,
        state: state(listed.state()).to_owned(),
        services: vec![key.to_owned()],
    }
}

fn from_lease(lease: &Lease) -> Instance {
    let mut services: Vec<_> = lease
        .services
        .iter()
        .map(|service| rsf_core::method::service_key(&service.name, &service.implementation))
        .collect();
    services.sort();
    Instance {
        instance: lease.instance.clone(),
        incarnation: lease.incarnation,
        application: lease.application.clone(),
        address: lease.address.clone(),
        admin_address: lease.admin_address.clone(),
        zone: lease.zone.clone(),
        tags: lease.tags.clone().into_iter().collect(),
        weight: lease.weight,
        state: state(lease.state()).to_owned(),
        services,
    }
}

fn state(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Up => "up",
        LeaseState::Draining => "draining",
        LeaseState::Deregistered => "deregistered",
        LeaseState::Unspecified => "unknown",
    }
}

fn cause(cause: RemovalCause) -> &'static str {
    match cause {
        RemovalCause::Deregistered => "deregistered",
        RemovalCause::Expired => "expired",
        RemovalCause::Evicted => "evicted",
        RemovalCause::Unspecified => "unknown",
    }
}
