//! What one process has of a registry: it registers itself, watches what it uses, and goes on without the registry.
//!
//! - [`RegistryAgent::register`] keeps this instance's lease ([`Registration`]).
//! - [`ControlPlane::instances`] follows a service's list: validated, never older, never emptied by accident, kept on
//!   disk.
//! - [`ControlPlane::policy`] follows a scope's policy in the same way.
//! - [`ControlPlane::acknowledge`] says which revision this instance runs.
//! - [`ControlPlane::report`] says which instances answer, or are gone, that the registry may be wrong about.

mod beat;
mod registration;

mod lists;
mod overrides;
mod peers;
mod policies;
mod saver;

mod acknowledgements;
mod reports;

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::Collector;
use rsf_core::control::{ControlPlane, Discovery, PolicyState, Scope, Sighting};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::directory::{ListOpener, Refusals};
use crate::snapshot::{Kind, Snapshot, SnapshotFolder};
use crate::{Backend, Directory, StoreError, limits, world};
use acknowledgements::Acknowledger;
use beat::Beat;
use overrides::Overrides;
use peers::Peers;
use reports::Reporter;
use saver::{Record, Saver};

pub use acknowledgements::{FLEET_ACKNOWLEDGED_WITHIN, REPEATED_EVERY};
pub use overrides::{
    ActiveOverride, InvalidOverrides, OVERRIDE_TTL, OverrideSource, OverrideStatus, ServiceOverride,
    StaticInstance,
};
pub use registration::{NotWritten, Registration, RegistrationRequest, RegistrationStatus};

/// How long a lease lives without a renewal, unless said otherwise.
pub const LEASE_TTL: Duration = Duration::from_secs(15);

/// How long a healthy directory takes at most to answer a watch; only then is it asked whether it is there.
const PROBE_AFTER: Duration = Duration::from_millis(50);

/// How long a watch may be without an answer before the copy on disk is used.
const DISK_AFTER: Duration = Duration::from_secs(1);

/// The most peers of one instance.
pub const MAX_PEERS: usize = 64;

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The environment.
    pub namespace: String,
    /// The registry as it was configured, for messages.
    pub registry: String,
    /// The state folder for snapshots on disk; none are kept without one.
    pub state: Option<PathBuf>,
    /// `host:port` of other instances' admin ports, at most 64: whom to ask for lists and policies where neither registry
    /// nor disk has them. None by default.
    pub peers: Vec<String>,
    /// A JSON file of service key → list of `host:port`, or a [`ServiceOverride`]. It takes precedence over the directory
    /// for these services; an operator's escape, read again when it changes.
    pub static_instances: Option<PathBuf>,
    /// How long this instance's lease lives without a renewal; it is renewed three times as often. 15 s by default.
    pub lease_ttl: Duration,
}

impl AgentOptions {
    /// For `namespace` of the registry that was configured as `registry`; nothing on disk, 15 s of TTL.
    pub fn new(namespace: &str, registry: &str) -> Self {
        AgentOptions {
            namespace: namespace.to_owned(),
            registry: registry.to_owned(),
            state: None,
            peers: Vec::new(),
            static_instances: None,
            lease_ttl: LEASE_TTL,
        }
    }
}

/// Why an agent cannot begin. A registry that is down is no reason.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The namespace, the TTL or a peer's address is out of its limits.
    #[error(transparent)]
    Options(#[from] StoreError),
    /// The static instances cannot be used.
    #[error(transparent)]
    Overrides(#[from] InvalidOverrides),
}

/// One process's side of a registry. Dropping it ends its watches; a [`Registration`] lives on its own.
pub struct RegistryAgent {
    shared: Arc<Shared>,
    lists: Followed<String, Discovery>,
    policies: Followed<Scope, PolicyState>,
}

/// What the agent's tasks share.
struct Shared {
    backend: Backend,
    options: AgentOptions,
    overrides: Overrides,
    disk: Option<SnapshotFolder>,
    saver: Option<Saver>,
    peers: Peers,
    /// What is in use, for peers.
    in_use: Mutex<HashMap<(Kind, String), Record>>,
    opener: ListOpener,
    beat: Arc<Beat>,
    acknowledger: Acknowledger,
    reporter: Reporter,
    runtime: Handle,
}

impl RegistryAgent {
    /// An agent over `backend`. It begins at once, also where the registry is down; call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where the options are wrong or the file of static instances is.
    pub fn new(backend: Backend, options: AgentOptions) -> Result<Self, AgentError> {
        limits::check_namespace(&options.namespace)?;
        limits::check_ttl("the lease", options.lease_ttl)?;
        check_peers(&options.peers)?;
        let overrides = Overrides::follow(options.static_instances.as_deref())?;
        let disk = options
            .state
            .as_ref()
            .map(|state| SnapshotFolder::new(state, &options.namespace));
        let runtime = Handle::current();
        let acknowledger = Acknowledger::start(backend.acknowledgements.clone(), options.lease_ttl / 3);
        let reporter = Reporter::start(backend.reports.clone(), options.lease_ttl);
        let saver = disk.clone().map(Saver::start);
        let opener = backend.directory.opener();
        let shared = Shared {
            peers: Peers::new(&options.peers, &options.namespace, opener.clone()),
            in_use: Mutex::default(),
            opener,
            beat: Arc::new(Beat::new(options.lease_ttl / 3)),
            backend,
            options,
            overrides,
            disk,
            saver,
            acknowledger,
            reporter,
            runtime,
        };
        Ok(RegistryAgent {
            shared: Arc::new(shared),
            lists: Followed::default(),
            policies: Followed::default(),
        })
    }

    /// What of the directory was refused so far, by reason; a metric to be registered.
    pub fn refused_lists(&self) -> Refusals {
        self.shared.opener.refusals().clone()
    }

    /// What an operator overrides of services' instances, by the file and by pushes.
    pub fn overrides(&self) -> OverrideStatus {
        self.shared.overrides.status()
    }

    /// Puts an operator's word on `service` in force for `ttl` ([`OVERRIDE_TTL`]: 1 s to 24 h), in place of what was pushed
    /// before and of what the file says. It is not kept over a restart.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where the name, the word or the time is wrong, or 1 000 services have one already.
    pub fn push_override(
        &self,
        service: &str,
        what: ServiceOverride,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        self.shared.overrides.push(service, what, ttl)
    }

    /// Ends what was pushed for `service`; whether there was something. What the file says stays.
    pub fn clear_override(&self, service: &str) -> bool {
        self.shared.overrides.clear(service)
    }

    /// `rsf_overrides` and `rsf_overrides_refused`; metrics to be registered.
    pub fn override_metrics(&self) -> Vec<Box<dyn Collector>> {
        self.shared.overrides.metrics()
    }

    /// What this process uses of `key` in `namespace`, as a peer's [`AgentOptions::peers`] ask for it: a snapshot's bytes,
    /// at most 8 MiB. `kind` is `list`, `policy`, or `sealed` for a list as it was signed. `None` where it uses none, or has
    /// it not in that form.
    pub fn snapshot(&self, namespace: &str, kind: &str, key: &str) -> Option<Vec<u8>> {
        if namespace != self.shared.options.namespace {
            return None;
        }
        let in_use = |kind: Kind| self.shared.in_use.lock().get(&(kind, key.to_owned())).cloned();
        match kind {
            "list" => Some(in_use(Kind::List)?.encode()),
            "policy" => Some(in_use(Kind::Policy)?.encode()),
            "sealed" => {
                let Record::List(list) = in_use(Kind::List)? else {
                    return None;
                };
                let sealed = self.shared.opener.sealed(key)?;
                // What was opened last may have been refused since for what it says.
                (sealed.version == list.order()).then(|| peers::encode_sealed(sealed))
            }
            _ => None,
        }
    }

    /// Registers this instance and keeps its lease until the registration is ended or dropped.
    ///
    /// The lease is written in the background, as soon as the registry can be reached. A pure consumer registers too,
    /// without an address and services. From now on the agent acknowledges policies in this instance's name.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where the request is wrong.
    pub fn register(&self, request: RegistrationRequest) -> Result<Registration, StoreError> {
        let _runtime = self.shared.runtime.enter();
        let options = &self.shared.options;
        let leases = self.shared.backend.leases.clone();
        let beat = self.shared.beat.clone();
        let registration = Registration::start(leases, request, &options.namespace, options.lease_ttl, beat)?;
        self.shared
            .acknowledger
            .speak_for(&registration.lease(), registration.status());
        self.shared.reporter.speak_for(&registration.lease().instance);
        Ok(registration)
    }
}

impl ControlPlane for RegistryAgent {
    fn instances(&self, service: &str) -> watch::Receiver<Discovery> {
        self.lists
            .follow(service.to_owned(), Discovery::Pending, |sender| {
                let (shared, service) = (self.shared.clone(), service.to_owned());
                self.shared
                    .runtime
                    .spawn(async move { lists::follow(&shared, &service, &sender).await })
            })
    }

    fn policy(&self, scope: &Scope) -> watch::Receiver<PolicyState> {
        self.policies
            .follow(scope.clone(), PolicyState::Pending, |sender| {
                let (shared, scope) = (self.shared.clone(), scope.to_string());
                self.shared
                    .runtime
                    .spawn(async move { policies::follow(&shared, &scope, &sender).await })
            })
    }

    fn acknowledge(&self, scope: &Scope, revision: u64, refusal: Option<String>) {
        self.shared
            .acknowledger
            .acknowledge(&scope.to_string(), revision, refusal);
    }

    fn report(&self, sightings: Vec<Sighting>) {
        self.shared.reporter.report(sightings);
    }
}

/// What is followed already; a second caller gets the same.
struct Followed<K, T> {
    running: Mutex<HashMap<K, Running<T>>>,
}

/// A value and the task that keeps it.
type Running<T> = (watch::Receiver<T>, AbortOnDropHandle<()>);

impl<K, T> Default for Followed<K, T> {
    fn default() -> Self {
        Followed {
            running: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash, T> Followed<K, T> {
    fn follow(
        &self,
        key: K,
        first: T,
        start: impl FnOnce(watch::Sender<T>) -> tokio::task::JoinHandle<()>,
    ) -> watch::Receiver<T> {
        let begin = || {
            let (sender, receiver) = watch::channel(first);
            (receiver, AbortOnDropHandle::new(start(sender)))
        };
        self.running.lock().entry(key).or_insert_with(begin).0.clone()
    }
}

impl Shared {
    /// A record is in use: peers may have it.
    fn uses(&self, record: Record) {
        self.in_use.lock().insert(record.key(), record);
    }

    /// A good record came: it is in use, and goes to the disk.
    fn keep(&self, record: Record) {
        if let Some(saver) = &self.saver {
            saver.save(record.clone());
        }
        self.uses(record);
    }

    /// Reads a snapshot from disk; what is wrong with it is reported and goes into `tried`.
    async fn read_disk<M: Snapshot + 'static>(&self, key: &str) -> (Option<M>, String) {
        let Some(folder) = self.disk.clone() else {
            return (None, "no state folder is set (RSF_STATE)".to_owned());
        };
        let path = folder.path(M::KIND, key);
        let name = key.to_owned();
        let read = world::blocking(move || folder.load::<M>(&name)).await;
        match read {
            Ok(Ok(Some(record))) => (Some(record), format!("{} is there", path.display())),
            Ok(Ok(None)) => (None, format!("{} does not exist", path.display())),
            Ok(Err(error)) => {
                tracing::warn!(key, error = %described(&error), "a disk snapshot is refused");
                (None, described(&error))
            }
            Err(error) => (None, error.to_string()),
        }
    }
}

fn check_peers(peers: &[String]) -> Result<(), StoreError> {
    let invalid = |key: &str, reason: String| StoreError::Invalid {
        key: key.to_owned(),
        reason,
    };
    if peers.len() > MAX_PEERS {
        let reason = format!("{} are given; at most {MAX_PEERS} are asked", peers.len());
        return Err(invalid("peers", reason));
    }
    peers
        .iter()
        .try_for_each(|peer| limits::check_address(peer).map_err(|reason| invalid(peer, reason)))
}

/// The next error of the directory, with the backoff to go on with. It never ends while the directory is well.
fn trouble(
    directory: &Arc<dyn Directory>,
    mut backoff: Backoff,
) -> impl Future<Output = (String, Backoff)> + use<> {
    let directory = directory.clone();
    async move {
        sleep(if backoff.attempts() == 0 {
            PROBE_AFTER
        } else {
            backoff.next()
        })
        .await;
        loop {
            let answer = directory.services().await;
            let pause = backoff.next();
            match answer {
                Err(error) => return (error.to_string(), backoff),
                Ok(_) => sleep(pause).await,
            }
        }
    }
}

/// An error with its causes, on one line.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
