//! One instance: a process that registers, and comes to one end or another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rsf_registry::record::ProvidedService;
use rsf_registry::{AgentOptions, Backend, Registration, RegistrationRequest, RegistryAgent};
use tokio::time::{Instant, sleep};

use super::{NAMESPACE, Nothing, Site};
use crate::judge::{Life, State, Trouble};
use crate::process::Process;
use crate::redis::RedisClient;

/// A running instance.
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) services: Vec<String>,
    pub(crate) process: Arc<Process>,
    registration: Registration,
    _agent: RegistryAgent,
}

impl Instance {
    /// Which start of it this is.
    pub(crate) fn incarnation(&self) -> u64 {
        self.registration.lease().incarnation
    }
}

impl Site {
    /// Starts a new instance of some services, at an address of its own or one that is free again.
    pub(crate) fn start_new(&self, services: Vec<String>, address: Option<String>) {
        let number = self.next();
        let name = format!("i{number}");
        let address = address.unwrap_or_else(|| format!("10.0.{}.{}:7000", number / 250, number % 250 + 1));
        self.start(&name, address, services);
    }

    /// Starts an instance under its name once more.
    pub(crate) fn start_again(&self, former: &Instance) {
        let name = former.id.rsplit('/').next().unwrap_or_default();
        self.start(name, former.address.clone(), former.services.clone());
    }

    fn start(&self, name: &str, address: String, services: Vec<String>) {
        let id = format!("app/{name}");
        let process = Process::start(&id);
        let nothing = Arc::new(Nothing);
        let backend = Backend {
            leases: Arc::new(RedisClient::new(self.redis.clone(), process.clone())),
            directory: nothing.clone(),
            policies: nothing.clone(),
            acknowledgements: nothing.clone(),
            reports: nothing,
        };
        let options = AgentOptions::new(NAMESPACE, "simulated");
        let request = RegistrationRequest {
            application: "app".to_owned(),
            instance: Some(name.to_owned()),
            address: address.clone(),
            services: provided(&services),
            ..RegistrationRequest::default()
        };
        let agent = match RegistryAgent::new(backend, options) {
            Ok(agent) => agent,
            Err(error) => return self.judge.broken(format!("an agent cannot begin: {error}")),
        };
        let registration = match agent.register(request) {
            Ok(registration) => registration,
            Err(error) => return self.judge.broken(format!("{id} cannot register: {error}")),
        };
        let now = Instant::now();
        self.judge.born(Life {
            id: id.clone(),
            incarnation: registration.lease().incarnation,
            address: address.clone(),
            services: services.iter().map(|service| (service.clone(), now)).collect(),
            dropped: BTreeMap::new(),
            state: State::Up,
            since: now,
            trouble: Trouble::default(),
        });
        let instance = Instance {
            id: id.clone(),
            address,
            services,
            process,
            registration,
            _agent: agent,
        };
        self.instances.lock().insert(id, instance);
    }

    /// Kills an instance (SIGKILL).
    pub(crate) fn kill_instance(&self, id: &str) -> Option<Instance> {
        let instance = self.instances.lock().remove(id)?;
        instance.process.kill();
        self.judge
            .change(id, "is killed", |life| life.become_state(State::Dead));
        Some(instance)
    }

    /// Lets an instance end in good order: it drains, waits, and says that it leaves.
    pub(crate) fn leave(self: &Arc<Self>, id: &str) {
        let Some(instance) = self.instances.lock().remove(id) else {
            return;
        };
        let site = self.clone();
        tokio::spawn(async move {
            let Instance {
                id,
                process,
                registration,
                ..
            } = instance;
            site.judge
                .change(&id, "drains", |life| life.become_state(State::Draining));
            // It leaves all the same.
            drop(registration.drain().await);
            sleep(site.chance.millis(0, 3_000)).await;
            site.judge.change(&id, "leaves", |life| {
                life.become_state(State::Left { told: false })
            });
            let told = registration.deregister().await.is_ok();
            let word = if told {
                "has left"
            } else {
                "could not say that it left"
            };
            site.judge
                .change(&id, word, |life| life.become_state(State::Left { told }));
            // A process that could not say so ends some time.
            sleep(Duration::from_secs(1)).await;
            process.kill();
        });
    }

    /// An instance provides other services from now on.
    pub(crate) fn update(self: &Arc<Self>, id: &str, services: Vec<String>) {
        let Some(mut instance) = self.instances.lock().remove(id) else {
            return;
        };
        let now = Instant::now();
        self.judge.change(id, &format!("provides {services:?}"), |life| {
            for service in std::mem::take(&mut life.services).into_keys() {
                life.dropped.insert(service, now);
            }
            for service in &services {
                life.dropped.remove(service);
                life.services.insert(service.clone(), now);
            }
        });
        let site = self.clone();
        tokio::spawn(async move {
            // What the registry does not take in time is tried on.
            drop(instance.registration.update(provided(&services)).await);
            instance.services = services;
            site.instances.lock().insert(instance.id.clone(), instance);
        });
    }
}

fn provided(services: &[String]) -> Vec<ProvidedService> {
    let service = |name: &String| ProvidedService {
        name: name.clone(),
        ..ProvidedService::default()
    };
    services.iter().map(service).collect()
}
