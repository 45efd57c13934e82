//! Simulated instances beside the real ones: leases kept as every instance keeps its own, and a port that answers for as
//! long as its instance lives.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rsf_registry::record::{Lease, ProvidedService};
use rsf_registry::{
    AgentOptions, Backend, LeaseStore, Registration, RegistrationRequest, RegistryAgent, Renewal, StoreError,
};
use rsf_testkit::eventually;
use tokio::time::Instant;

use crate::{SOON, Site};

/// Services and the instances that each has.
pub type Membership = BTreeMap<String, BTreeSet<String>>;

/// Instances of services of uneven size. They live until the fleet is dropped, unless they are killed before.
pub struct Fleet {
    backend: Backend,
    agent: RegistryAgent,
    fate: Arc<Fate>,
    services: usize,
    state: Arc<Mutex<State>>,
}

/// Who lives, and what keeps them alive.
#[derive(Default)]
struct State {
    registered: HashMap<String, Registration>,
    living: Membership,
    /// What the living listen on: who asks them is answered, and the dead are known by their refusal.
    ports: HashMap<String, TcpListener>,
}

impl Fleet {
    /// Registers `nodes` instances of `services` services and returns when all have their leases. The first service has
    /// all nodes, the second half of them, the third a third, and so on.
    ///
    /// # Panics
    /// When the registry does not take them.
    pub async fn start(site: &Site, nodes: usize, services: usize) -> Fleet {
        let url = site.registry().parse().expect("the site's own registry");
        let backend = Backend::open(&url, site.namespace()).expect("the site's own registry");
        let fate = Arc::new(Fate {
            store: backend.leases.clone(),
            dead: Mutex::default(),
            cut: AtomicBool::new(false),
            kept: Mutex::default(),
        });
        let mortal = Backend {
            leases: fate.clone(),
            ..backend.clone()
        };
        let options = AgentOptions {
            lease_ttl: site.lease_ttl(),
            ..AgentOptions::new(site.namespace(), &site.registry_shown())
        };
        let fleet = Fleet {
            backend,
            agent: RegistryAgent::new(mortal, options).expect("good options"),
            fate,
            services,
            state: Arc::default(),
        };
        for node in 0..nodes {
            let of = (0..services)
                .filter(|service| (node * 7 + service * 13) % nodes < nodes.div_ceil(service + 1));
            fleet.join(&format!("{node}"), &of.collect::<Vec<_>>());
        }
        fleet.all_registered().await;
        fleet
    }

    /// A newcomer, `fleet/<name>`, of the services with these numbers.
    ///
    /// # Panics
    /// Where it is no good name.
    pub fn join(&self, name: &str, services: &[usize]) -> String {
        let keys: Vec<String> = services.iter().map(|&number| service(number)).collect();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let request = RegistrationRequest {
            application: "fleet".to_owned(),
            instance: Some(name.to_owned()),
            address: port.local_addr().expect("it is bound").to_string(),
            services: keys.iter().map(|key| provided(key)).collect(),
            ..RegistrationRequest::default()
        };
        let registration = self.agent.register(request).expect("a good request");
        let id = registration.lease().instance;
        let mut state = self.state();
        for key in keys {
            state.living.entry(key).or_default().insert(id.clone());
        }
        state.registered.insert(id.clone(), registration);
        state.ports.insert(id.clone(), port);
        id
    }

    /// Kills an instance: from now on its lease is not renewed, its port refuses, and nobody says that it left.
    pub fn kill(&self, id: &str) {
        self.silence(id);
        self.state().ports.remove(id);
    }

    /// Takes an instance's lease away, which is not renewed from now on, while it lives on and answers at its port. It
    /// counts as dead all the same: the lists may or may not have it.
    pub fn silence(&self, id: &str) {
        self.bury(id);
        lock(&self.fate.dead).insert(id.to_owned());
    }

    /// Lets an instance leave on purpose.
    pub fn leave(&self, id: &str) {
        self.bury(id);
        let mut state = self.state();
        state.registered.remove(id);
        state.ports.remove(id);
    }

    /// Cuts all instances off from the registry, or connects them again.
    pub fn cut_off(&self, cut: bool) {
        self.fate.cut.store(cut, Ordering::Relaxed);
    }

    fn bury(&self, id: &str) {
        for members in self.state().living.values_mut() {
            members.remove(id);
        }
    }

    /// Who should be listed now, as the instances see it.
    pub fn living(&self) -> Membership {
        self.state().living.clone()
    }

    /// The numbers of services are below it.
    pub fn services(&self) -> usize {
        self.services
    }

    /// Waits until every living instance knows that its lease is in the registry.
    ///
    /// # Panics
    /// When one does not in time.
    pub async fn all_registered(&self) {
        eventually(SOON, async || {
            let state = self.state();
            let living: BTreeSet<&String> = state.living.values().flatten().collect();
            let missing = living
                .iter()
                .filter(|&&id| !state.registered[id].status().borrow().registered)
                .count();
            if missing == 0 {
                Ok(())
            } else {
                Err(format!("{missing} of {} are not registered", living.len()))
            }
        })
        .await;
    }

    /// Waits until the lease of every living instance was written or renewed after `moment`.
    ///
    /// # Panics
    /// When one was not in time.
    pub async fn kept_since(&self, moment: Instant) {
        eventually(SOON, async || {
            let living: BTreeSet<String> = self.living().into_values().flatten().collect();
            let kept = lock(&self.fate.kept).clone();
            let late = |id: &&String| kept.get(*id).is_none_or(|&kept| kept < moment);
            let late: Vec<&String> = living.iter().filter(late).collect();
            let Some(&first) = late.first() else { return Ok(()) };
            let status = self.state().registered[first].status().borrow().clone();
            let (count, of) = (late.len(), living.len());
            Err(format!(
                "{count} of {of} leases were not kept: {first} has {status:?}"
            ))
        })
        .await;
    }

    /// The registry as its instances have it.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    pub(crate) fn watcher(&self) -> impl Fn() -> Membership + Send + Clone + 'static {
        let state = Arc::clone(&self.state);
        move || lock(&state).living.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The key of a service by its number; the smaller, the more instances it has.
pub fn service(number: usize) -> String {
    format!("fleet.v1.Service{number}")
}

fn provided(key: &str) -> ProvidedService {
    ProvidedService {
        name: key.to_owned(),
        ..ProvidedService::default()
    }
}

/// The registry as it can be reached by the living.
struct Fate {
    store: Arc<dyn LeaseStore>,
    dead: Mutex<BTreeSet<String>>,
    cut: AtomicBool,
    /// When the request began that wrote or renewed a lease last.
    kept: Mutex<HashMap<String, Instant>>,
}

impl Fate {
    fn check(&self, instance: &str) -> Result<(), StoreError> {
        if self.cut.load(Ordering::Relaxed) || lock(&self.dead).contains(instance) {
            return Err(StoreError::Unavailable {
                backend: "simulated",
                address: instance.to_owned(),
                reason: "the instance is dead or cut off".to_owned(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl LeaseStore for Fate {
    async fn put(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        self.check(&lease.instance)?;
        let asked = Instant::now();
        self.store.put(lease, ttl).await?;
        lock(&self.kept).insert(lease.instance.clone(), asked);
        Ok(())
    }

    async fn renew(&self, instance: &str, incarnation: u64, ttl: Duration) -> Result<Renewal, StoreError> {
        self.check(instance)?;
        let asked = Instant::now();
        let renewal = self.store.renew(instance, incarnation, ttl).await?;
        if renewal == Renewal::Renewed {
            lock(&self.kept).insert(instance.to_owned(), asked);
        }
        Ok(renewal)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
