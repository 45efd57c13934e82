//! Puts a process's services together, and refuses those that cannot stand side by side.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;

use super::{HostedMethod, Paths, ProvidedService, Provider, ProviderIdentity};
use crate::identity::TokenVerifier;
use crate::method::service_key;
use crate::metrics::Metrics;
use crate::policy_book::PolicyBook;
use crate::runtime::watch::Watched;
use crate::server::authorize::Door;
use crate::server::beside::BESIDE;
use crate::server::dedup::{self, DedupStore, MemoryDedup, MethodDedup};
use crate::server::drain::Drain;
use crate::server::follow::{Followers, service_limits};
use crate::server::intercept::{ServerInterceptor, ServerInterceptors};
use crate::server::limits::{HostedLimits, MethodLimits, PoolLimits};
use crate::server::load::LoadMeter;
use crate::server::service::Service;
use crate::server::shard::Place;
use crate::server::stack::{AdmitRules, server_stack};
use crate::wire::budget::BodyBudget;

/// Collects what a process provides.
#[derive(Default)]
pub struct ProviderBuilder {
    services: Vec<(String, Arc<dyn Service>)>,
    tonic: tonic::service::RoutesBuilder,
    tonic_services: Vec<&'static str>,
    interceptors: ServerInterceptors,
    verifier: Option<Arc<TokenVerifier>>,
    authorization_required: bool,
    dedup: Option<Arc<dyn DedupStore>>,
}

/// Services that cannot be hosted together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The same implementation of a service was added twice.
    #[error(
        "service `{0}` is provided twice; give one of them another implementation name (health and reflection are there already)"
    )]
    Twice(String),
    /// An implementation name that cannot stand in a header.
    #[error("implementation `{0}` of service `{1}`: use letters, digits, `-`, `_`, `.`, at most 64")]
    Implementation(String, String),
    /// The reflection service does not take the schemas.
    #[error("the services' schemas cannot be reflected: {0}")]
    Schema(String),
}

impl ProviderBuilder {
    /// Adds one implementation of a service; `implementation` is empty for the default one.
    pub fn service(mut self, implementation: &str, service: Arc<dyn Service>) -> Self {
        self.services.push((implementation.to_owned(), service));
        self
    }

    /// Adds an unchanged tonic service, streaming included. Pool, queue and thresholds hold for it until its handler has
    /// answered (with a stream, until that begins); dedup and the watchdog do not.
    pub fn tonic_service<S>(mut self, service: S) -> Self
    where
        S: tower::Service<http::Request<tonic::body::Body>, Error = std::convert::Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        // The router panics on a path that it has already; `build` refuses such a service instead.
        if !BESIDE.contains(&S::NAME) && !self.tonic_services.contains(&S::NAME) {
            self.tonic.add_service(service);
        }
        self.tonic_services.push(S::NAME);
        self
    }

    /// Adds the application's own code around every handler of RSF's services, inside the interceptors that were added
    /// before.
    pub fn interceptor(mut self, interceptor: impl ServerInterceptor) -> Self {
        self.interceptors.add(interceptor);
        self
    }

    /// Checks the tokens of callers. A call whose token is not good is refused, whatever policy says; whether a call
    /// needs one is policy (`provider.authorization.identity`).
    pub fn tokens(mut self, verifier: Arc<TokenVerifier>) -> Self {
        self.verifier = Some(verifier);
        self
    }

    /// Refuses every call to a service until a policy has set `provider.authorization.mode` for it. For providers that
    /// must not be open by a policy that is missing. Health and reflection stay open.
    pub fn require_authorization(mut self, required: bool) -> Self {
        self.authorization_required = required;
        self
    }

    /// Where the outcomes of deduplicated methods stand. By default in this instance's memory, which protects against
    /// repetitions that meet this instance; the others end with `outcome_unknown`.
    pub fn dedup_store(mut self, store: Arc<dyn DedupStore>) -> Self {
        self.dedup = Some(store);
        self
    }

    /// Puts everything together and begins to follow the policies that limit it.
    pub fn build(
        self,
        identity: ProviderIdentity,
        metrics: &Metrics,
        policies: &PolicyBook,
    ) -> Result<Arc<Provider>, ProviderError> {
        let ProviderBuilder {
            services,
            mut tonic,
            tonic_services,
            interceptors,
            verifier,
            authorization_required: required,
            dedup,
        } = self;
        let (methods, paths) = host(&services, metrics, required)?;
        check_names(&services, &tonic_services)?;
        let provided: Vec<_> = services
            .iter()
            .map(|(name, service)| provided(name, &**service))
            .collect();
        add_reflection(&mut tonic, &provided)?;
        let (health, health_service) = tonic_health::server::health_reporter();
        tonic.add_service(health_service);
        let doors = tonic_services
            .iter()
            .map(|name| Door::new(name, required, metrics));
        let tonic_doors: Vec<_> = doors.collect();
        let (pool, bodies) = (PoolLimits::new(metrics.pool()), BodyBudget::new());
        let hosted = tonic_services
            .iter()
            .map(|name| (*name, HostedLimits::new(name, metrics)));
        let followers = Followers {
            methods: methods.clone(),
            pool: pool.clone(),
            bodies: bodies.clone(),
            hosted: hosted.collect(),
            limits: service_limits(&methods),
            doors: methods
                .iter()
                .map(|m| &m.door)
                .chain(&tonic_doors)
                .cloned()
                .collect(),
            required,
        };
        let hosted = followers.hosted.clone();
        followers.follow(&identity.application, policies);
        let place = Place {
            zone: identity.zone,
            tags: identity.tags,
        };
        let admit = AdmitRules {
            identity: identity.target.clone(),
            place: place.clone(),
            panics: metrics.handler_panics.clone(),
            timers: policies.timers().clone(),
            verifier: verifier.clone(),
            interceptors,
        };
        let store = dedup.unwrap_or_else(|| Arc::new(MemoryDedup::of_one_instance()));
        let owner = identity.target.as_deref().unwrap_or(&identity.application);
        let dedup = Arc::new(dedup::Shared::new(store, owner));
        Ok(Arc::new(Provider {
            end: CancellationToken::new(),
            drain: Drain::default(),
            methods,
            paths,
            stack: Arc::new(server_stack(admit, pool.clone(), dedup.clone())),
            dedup,
            load: LoadMeter::default(),
            identity: identity.target,
            place,
            tonic: tonic.routes().prepare(),
            tonic_services,
            tonic_doors,
            verifier,
            hosted,
            pool,
            bodies,
            health,
            services: provided,
        }))
    }
}

/// Each name once: RSF's services, tonic's, and what RSF answers itself.
fn check_names(services: &[(String, Arc<dyn Service>)], tonic: &[&'static str]) -> Result<(), ProviderError> {
    let own = |name: &str| services.iter().any(|(_, s)| s.descriptor().name == name);
    for (place, name) in tonic.iter().enumerate() {
        if own(name) || BESIDE.contains(name) || tonic[..place].contains(name) {
            return Err(ProviderError::Twice((*name).to_owned()));
        }
    }
    Ok(())
}

type Hosted = (Vec<Arc<HostedMethod>>, Paths);

fn host(
    services: &[(String, Arc<dyn Service>)],
    metrics: &Metrics,
    required: bool,
) -> Result<Hosted, ProviderError> {
    let mut methods = Vec::new();
    let mut paths = Paths::default();
    for (implementation, service) in services {
        let descriptor = service.descriptor();
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if implementation.len() > 64 || !implementation.chars().all(valid) {
            return Err(ProviderError::Implementation(
                implementation.clone(),
                descriptor.name.to_string(),
            ));
        }
        let key = service_key(&descriptor.name, implementation);
        let door = Door::new(&key, required, metrics);
        for (place, method) in descriptor.methods.iter().enumerate() {
            let implementations = paths.entry(method.path.to_string()).or_default();
            if implementations.iter().any(|(name, _)| name == implementation) {
                return Err(ProviderError::Twice(key));
            }
            implementations.push((implementation.clone(), methods.len()));
            methods.push(Arc::new(HostedMethod {
                service: service.clone(),
                place,
                key: key.clone(),
                name: method.name.to_string(),
                path: method.path.to_string(),
                limits: MethodLimits::new(&method.path, metrics.refusals(&descriptor.name, &method.name)),
                blocking: service.is_blocking(place),
                watched: Watched::new(&method.path, metrics.blocked(&descriptor.name, &method.name)),
                door: door.clone(),
                rules: ArcSwap::default(),
                dedup: method
                    .dedup
                    .then(|| MethodDedup::new(metrics.dedup(&descriptor.name, &method.name))),
                shards: ArcSwapOption::empty(),
                sharded: AtomicBool::new(false),
                metrics: metrics.server_method(&descriptor.name, &method.name),
            }));
        }
    }
    Ok((methods, paths))
}

fn provided(implementation: &str, service: &dyn Service) -> ProvidedService {
    let descriptor = service.descriptor();
    ProvidedService {
        name: descriptor.name.to_string(),
        implementation: implementation.to_owned(),
        schema: descriptor.schema.to_vec(),
    }
}

/// Both versions, because clients in the field (`grpcio`'s among them) still ask for v1alpha.
fn add_reflection(
    tonic: &mut tonic::service::RoutesBuilder,
    services: &[ProvidedService],
) -> Result<(), ProviderError> {
    let builder = || {
        let own = services.iter().map(|service| &*service.schema);
        let schemas = own
            .filter(|schema| !schema.is_empty())
            .chain([tonic_health::pb::FILE_DESCRIPTOR_SET]);
        schemas.fold(
            tonic_reflection::server::Builder::configure(),
            |builder, schema| builder.register_encoded_file_descriptor_set(schema),
        )
    };
    let failed = |error: tonic_reflection::server::Error| ProviderError::Schema(error.to_string());
    tonic.add_service(builder().build_v1().map_err(failed)?);
    tonic.add_service(builder().build_v1alpha().map_err(failed)?);
    Ok(())
}
