//! The methods of a process, and what stands beside them.

mod build;
mod dispatch;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio_util::sync::CancellationToken;

use super::authorize::Door;
use super::dedup::{self, MethodDedup};
use super::drain::Drain;
use super::limits::{HostedLimits, MethodLimits, PoolLimits};
use super::load::LoadMeter;
use super::service::Service;
use super::shard::{Place, ShardRules};
use super::stack::ServerStack;
use crate::client::key::{STEP, mix};
use crate::identity::TokenVerifier;
use crate::metrics::MethodMetrics;
use crate::policy::ProviderRules;
use crate::runtime::watch::Watched;
use crate::wire::budget::BodyBudget;

pub use build::{ProviderBuilder, ProviderError};

/// Everything that one process provides: RSF's services, unchanged tonic services, health and reflection.
///
/// It is the [`Dispatch`](crate::wire::Dispatch) that a wire serves.
pub struct Provider {
    end: CancellationToken,
    drain: Drain,
    methods: Vec<Arc<HostedMethod>>,
    paths: Paths,
    stack: Arc<ServerStack>,
    dedup: Arc<dedup::Shared>,
    load: LoadMeter,
    /// `namespace/instance`; a call for another one is refused.
    identity: Option<String>,
    place: Place,
    tonic: tonic::service::Routes,
    tonic_services: Vec<&'static str>,
    /// What policy says of the callers of each tonic service, in their order.
    tonic_doors: Vec<Arc<Door>>,
    verifier: Option<Arc<TokenVerifier>>,
    /// The limits of each of them.
    hosted: HashMap<&'static str, Arc<HostedLimits>>,
    pool: Arc<PoolLimits>,
    bodies: Arc<BodyBudget>,
    health: tonic_health::server::HealthReporter,
    services: Vec<ProvidedService>,
}

/// A unary method with its limits and metrics.
pub(super) struct HostedMethod {
    pub(super) service: Arc<dyn Service>,
    pub(super) place: usize,
    /// The service key.
    pub(super) key: String,
    /// The method's name within the service.
    pub(super) name: String,
    pub(super) path: String,
    pub(super) limits: Arc<MethodLimits>,
    /// Whether the application says that the handler may block.
    pub(super) blocking: bool,
    pub(super) watched: Arc<Watched>,
    /// Who may come in; the service's methods share it.
    pub(super) door: Arc<Door>,
    /// What policy says of the service now.
    pub(super) rules: ArcSwap<ProviderRules>,
    /// Where the method is deduplicated.
    pub(super) dedup: Option<MethodDedup>,
    /// Which keys of the service are this instance's; empty where policy has no shards.
    pub(super) shards: ArcSwapOption<ShardRules>,
    /// Whether there are any: what most calls ask, and all that they ask.
    pub(super) sharded: AtomicBool,
    pub(super) metrics: MethodMetrics,
}

impl HostedMethod {
    /// Whether its handlers run on threads of their own.
    pub(super) fn blocks(&self) -> bool {
        self.blocking || self.watched.blocks()
    }
}

/// Path → (implementation, place in [`Provider::methods`]), the default implementation's first.
type Paths = HashMap<String, Vec<(String, usize)>, BuildHasherDefault<PathHasher>>;

/// A few instructions a word. What is in the map is the process's own: no stranger can fill it with collisions.
#[derive(Default)]
struct PathHasher(u64);

impl Hasher for PathHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        self.write_u64(rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(STEP);
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

/// A service as the lease names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvidedService {
    /// Fully qualified protobuf name.
    pub name: String,
    /// Empty for the default implementation.
    pub implementation: String,
    /// The encoded `FileDescriptorSet`; empty where it is not known.
    pub schema: Vec<u8>,
}

/// Who a provider is; calls for somebody else are refused.
#[derive(Debug, Clone)]
pub struct ProviderIdentity {
    /// The application's name.
    pub application: String,
    /// `namespace/instance`; `None` where no registry knows the instance.
    pub target: Option<String>,
    /// The data centre or machine room; may be empty.
    pub zone: String,
    /// The labels that the instance registers.
    pub tags: BTreeMap<String, String>,
}

impl Provider {
    /// A builder without services.
    pub fn builder() -> ProviderBuilder {
        ProviderBuilder::default()
    }

    /// What the lease says is provided here.
    pub fn services(&self) -> Vec<ProvidedService> {
        let tonic = self.tonic_services.iter().map(|name| ProvidedService {
            name: (*name).to_owned(),
            implementation: String::new(),
            schema: Vec::new(),
        });
        self.services.iter().cloned().chain(tonic).collect()
    }

    /// Begins a graceful end, when the registry has been told of it: calls are served as before, and waited out. Returns
    /// when none has come for `quiet`, which says that the consumers have heard, or after `limit`; `false` then.
    pub async fn drain(&self, quiet: Duration, limit: Duration) -> bool {
        self.drain.begin();
        self.drain.quiet(quiet, limit).await
    }

    /// Sets what the application itself says of its load: 1 is full, more is overload; it goes before the pool's where it
    /// is more. Consumers send less to loaded instances. 0, the default, says nothing.
    pub fn set_application_utilization(&self, utilization: f32) {
        if utilization.is_finite() {
            self.load.set_application(utilization.max(0.0));
        }
    }

    /// Ends the streams that RSF itself serves, such as health watches. For the moment of GOAWAY.
    pub fn end_streams(&self) {
        self.end.cancel();
    }

    /// Waits until the handlers of deduplicated methods have ended and their outcomes are stored, those included that
    /// nobody waits for any more. For the end of the process, after its last connection; bound it.
    pub async fn settled(&self) {
        self.dedup.settled().await;
    }

    /// Sets what the gRPC health service answers for every service and for the process.
    pub async fn set_serving(&self, serving: bool) {
        let status = match serving {
            true => tonic_health::ServingStatus::Serving,
            false => tonic_health::ServingStatus::NotServing,
        };
        self.health.set_service_status("", status).await;
        for service in self.services() {
            self.health.set_service_status(service.name, status).await;
        }
    }
}
