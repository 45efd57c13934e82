//! What the data path asks of the control plane: instances and policies, watched; and acknowledgements.
//!
//! `rsf-registry` implements [`ControlPlane`] over its backends; [`StaticControlPlane`] is the twin for tests and for
//! peers that no registry knows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// Where instances and policies come from. Nothing here is awaited during a call.
pub trait ControlPlane: Send + Sync + 'static {
    /// Watches the instances of one service key (`service` or `service:implementation`).
    ///
    /// Called once for each service that the process uses, from inside a tokio runtime.
    fn instances(&self, service: &str) -> watch::Receiver<Discovery>;

    /// Watches the policy of one scope.
    ///
    /// It is [`PolicyState::Pending`] for a bounded time only: the first call of a service waits for it.
    fn policy(&self, scope: &Scope) -> watch::Receiver<PolicyState>;

    /// Says that this process runs `revision` of `scope`, or why it refused it and kept the last good one.
    fn acknowledge(&self, scope: &Scope, revision: u64, refusal: Option<String>);

    /// Says what this process knows of instances that the registry may be wrong about, in place of all that it said
    /// before; nothing once it knows of none. What nobody repeats is to be forgotten soon. By default nobody is told.
    fn report(&self, sightings: Vec<Sighting>) {
        let _ = sightings;
    }
}

/// What this process knows of an instance by its own connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Its id.
    pub instance: Arc<str>,
    /// The start that was seen.
    pub incarnation: u64,
    /// What was seen.
    pub seen: Seen,
}

/// How an instance stands to those who call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It has answered on the connection that holds now, and its calls do not fail.
    Answers,
    /// It answered on an earlier connection; for so long each attempt to connect has been refused.
    Refuses {
        /// Since the first of these attempts.
        lasting: Duration,
    },
}

/// What is known of a service's instances.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// Nothing yet: neither registry, disk nor peer has answered.
    Pending,
    /// Nothing, and `reason` says what was tried and what to do.
    NotReady {
        /// For the caller's error message.
        reason: Arc<str>,
    },
    /// The last good list.
    Ready(Arc<InstanceList>),
}

/// The instances of one service, as published.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InstanceList {
    /// Epoch and sequence of the published list; only rises.
    pub version: (u64, u64),
    /// Where the list came from.
    pub origin: ListOrigin,
    /// In no order.
    pub instances: Vec<Instance>,
    /// Who is gone for certain, with the last incarnation that is: it deregistered, or an operator or a newer
    /// incarnation took its place. Who is missing without being here may still answer.
    pub gone: HashMap<Arc<str>, u64>,
}

/// Where a list came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListOrigin {
    /// The directory.
    #[default]
    Directory,
    /// The snapshot on disk, because the directory could not be reached.
    Disk,
    /// Another instance's snapshot, because neither directory nor disk had one.
    Peer,
    /// An operator's static override.
    Static,
}

/// One running copy of an application.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Stable id (`application/name`).
    pub id: Arc<str>,
    /// This start of it.
    pub incarnation: u64,
    /// The application it belongs to.
    pub application: Arc<str>,
    /// `host:port` for calls.
    pub address: Arc<str>,
    /// The data centre or machine room; may be empty.
    pub zone: Arc<str>,
    /// Free labels.
    pub tags: BTreeMap<String, String>,
    /// Relative share of the calls, 0 to 10 000; 100 by default.
    pub weight: u32,
    /// Ends gracefully: no new calls.
    pub draining: bool,
}

impl Instance {
    /// An instance with default weight, no zone and no tags, for static lists and tests.
    pub fn at(application: &str, address: &str) -> Self {
        Instance {
            id: format!("{application}/{address}").into(),
            incarnation: 0,
            application: application.into(),
            address: address.into(),
            zone: "".into(),
            tags: BTreeMap::new(),
            weight: 100,
            draining: false,
        }
    }
}

/// What a policy document governs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Everything in the namespace.
    Fleet,
    /// The services that one application provides, and its instances.
    Application(String),
    /// One service key.
    Service(String),
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scope::Fleet => f.write_str("fleet"),
            Scope::Application(name) => write!(f, "application/{name}"),
            Scope::Service(key) => write!(f, "service/{key}"),
        }
    }
}

/// A text that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no policy scope; use `fleet`, `application/<name>` or `service/<package.Service>[:implementation]`"
)]
pub struct InvalidScope(String);

impl std::str::FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let named = |name: &str| {
            let ok = !name.is_empty()
                && name.len() <= 200
                && !name.starts_with('.')
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':'));
            ok.then(|| name.to_owned())
                .ok_or_else(|| InvalidScope(text.to_owned()))
        };
        match text.split_once('/') {
            None if text == "fleet" => Ok(Scope::Fleet),
            Some(("application", name)) => Ok(Scope::Application(named(name)?)),
            Some(("service", key)) => Ok(Scope::Service(named(key)?)),
            _ => Err(InvalidScope(text.to_owned())),
        }
    }
}

/// A policy document as it was published; `rsf-core` parses and validates it itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText {
    /// Its revision.
    pub revision: u64,
    /// JSON.
    pub document: String,
}

/// What is known of a scope's policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PolicyState {
    /// Nothing yet: neither registry nor disk has answered.
    #[default]
    Pending,
    /// There is none; or the registry does not answer, and no copy is at hand.
    Absent,
    /// The last good one. A deleted policy is an empty document.
    Present(Arc<PolicyText>),
}

/// A control plane of fixed lists and settable policies, for tests, tools and peers that no registry knows.
#[derive(Debug, Default)]
pub struct StaticControlPlane {
    lists: Mutex<HashMap<String, watch::Sender<Discovery>>>,
    policies: Mutex<HashMap<Scope, watch::Sender<PolicyState>>>,
    acknowledged: Mutex<HashMap<Scope, (u64, Option<String>)>>,
    sightings: Mutex<Vec<Sighting>>,
}

impl StaticControlPlane {
    /// Without any instance or policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the instances of one service.
    pub fn set_instances(&self, service: &str, instances: Vec<Instance>) {
        let list = InstanceList {
            origin: ListOrigin::Static,
            instances,
            ..InstanceList::default()
        };
        self.set_list(service, list);
    }

    /// Replaces the list of one service.
    pub fn set_list(&self, service: &str, list: InstanceList) {
        self.lists
            .lock()
            .entry(service.to_owned())
            .or_insert_with(|| watch::Sender::new(Discovery::Pending))
            .send_replace(Discovery::Ready(Arc::new(list)));
    }

    /// Replaces the policy of one scope.
    pub fn set_policy(&self, scope: &Scope, revision: u64, document: &str) {
        let text = PolicyText {
            revision,
            document: document.to_owned(),
        };
        self.policies
            .lock()
            .entry(scope.clone())
            .or_insert_with(|| watch::Sender::new(PolicyState::Absent))
            .send_replace(PolicyState::Present(Arc::new(text)));
    }

    /// Says nothing of one scope's policy until it is set, as a slow control plane does.
    pub fn withhold_policy(&self, scope: &Scope) {
        self.policies
            .lock()
            .entry(scope.clone())
            .or_default()
            .send_replace(PolicyState::Pending);
    }

    /// The last acknowledgement of one scope: revision, and the refusal if there was one.
    pub fn acknowledged(&self, scope: &Scope) -> Option<(u64, Option<String>)> {
        self.acknowledged.lock().get(scope).cloned()
    }

    /// What was last reported of instances.
    pub fn sightings(&self) -> Vec<Sighting> {
        self.sightings.lock().clone()
    }
}

impl ControlPlane for StaticControlPlane {
    fn instances(&self, service: &str) -> watch::Receiver<Discovery> {
        let not_ready = || {
            let reason = format!("no instances are set for service `{service}`");
            watch::Sender::new(Discovery::NotReady {
                reason: reason.into(),
            })
        };
        self.lists
            .lock()
            .entry(service.to_owned())
            .or_insert_with(not_ready)
            .subscribe()
    }

    fn policy(&self, scope: &Scope) -> watch::Receiver<PolicyState> {
        self.policies
            .lock()
            .entry(scope.clone())
            .or_insert_with(|| watch::Sender::new(PolicyState::Absent))
            .subscribe()
    }

    fn acknowledge(&self, scope: &Scope, revision: u64, refusal: Option<String>) {
        self.acknowledged
            .lock()
            .insert(scope.clone(), (revision, refusal));
    }

    fn report(&self, sightings: Vec<Sighting>) {
        *self.sightings.lock() = sightings;
    }
}
