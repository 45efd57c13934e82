//! The methods of a process, and what stands beside them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;

use super::admission::check_target;
use super::authorize::{Door, prove};
use super::beside::{BESIDE, ending_with};
use super::dedup::{self, DedupStore, MemoryDedup, MethodDedup};
use super::drain::Drain;
use super::follow::{Followers, service_limits};
use super::intercept::{ServerInterceptor, ServerInterceptors};
use super::limits::{HostedLimits, MethodLimits, Places, PoolLimits};
use super::load::LoadMeter;
use super::service::Service;
use super::shard::{Place, ShardRules, check_meant};
use super::stack::{AdmitRules, InboundCall, ServerStack, Stage, server_stack};
use crate::context::Context;
use crate::error::framework_status;
use crate::identity::{Peer, TokenVerifier};
use crate::metadata::Metadata;
use crate::method::service_key;
use crate::metrics::{MethodMetrics, Metrics};
use crate::outcome::Reason;
use crate::policy::ProviderRules;
use crate::policy_book::PolicyBook;
use crate::runtime::watch::Watched;
use crate::status::Status;
use crate::wire::budget::BodyBudget;
use crate::wire::headers::{CALLER, GRPC, TARGET, TOKEN, without_reason};
use crate::wire::status_header::write_status;
use crate::wire::{BodyPlace, Dispatch, InboundReply, InboundRequest};

/// Everything that one process provides: RSF's services, unchanged tonic services, health and reflection.
///
/// It is the [`Dispatch`] that a wire serves.
pub struct Provider {
    end: CancellationToken,
    drain: Drain,
    methods: Vec<Arc<HostedMethod>>,
    /// Path → (implementation, place in `methods`), the default implementation's first.
    paths: HashMap<String, Vec<(String, usize)>>,
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
    pub(super) metrics: MethodMetrics,
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

    /// Authorization of a call to a hosted tonic service; what RSF answers itself is open. A token goes no further.
    fn check_tonic(&self, request: &mut http::Request<tonic::body::Body>) -> Result<(), Status> {
        let mut path = request.uri().path().split('/').skip(1);
        let (service, method) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let Some(door) = self.tonic_doors.iter().find(|door| door.service() == service) else {
            return Ok(());
        };
        let headers = request.headers();
        let caller = headers.get(CALLER).and_then(|caller| caller.to_str().ok());
        let peer = request.extensions().get::<Peer>();
        let proven = prove(headers.get(TOKEN), caller, peer, self.verifier.as_deref());
        let proven = proven.inspect_err(|_| door.unauthenticated.inc())?;
        door.check(proven.as_deref().or(caller), proven.is_some(), method)?;
        request.headers_mut().remove(TOKEN);
        Ok(())
    }

    fn unknown(&self, path: &str, implementation: &str) -> String {
        let names: Vec<_> = self
            .services()
            .iter()
            .map(|s| service_key(&s.name, &s.implementation))
            .collect();
        let asked = if implementation.is_empty() {
            String::new()
        } else {
            format!(" of implementation `{implementation}`")
        };
        format!(
            "no method {path}{asked} here; this instance provides {}",
            names.join(", ")
        )
    }
}

impl Dispatch for Provider {
    fn method(&self, path: &str, implementation: &str) -> Option<usize> {
        let (_, place) = self
            .paths
            .get(path)?
            .iter()
            .find(|(name, _)| name == implementation)?;
        Some(*place)
    }

    fn utilization(&self) -> Option<f32> {
        Some(self.load.utilization(&self.pool))
    }

    fn unary(&self, method: usize, request: InboundRequest) -> BoxFuture<'static, InboundReply> {
        self.drain.arrived();
        let Some(method) = self.methods.get(method).cloned() else {
            let status = framework_status(Reason::Unimplemented, "no such method number");
            return Box::pin(std::future::ready(InboundReply {
                result: Err(status),
                metadata: Metadata::new(),
            }));
        };
        let deadline = request
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let context = Context::new(deadline, request.metadata);
        let context = Arc::new(context.capped(method.limits.max_priority()));
        let stack = self.stack.clone();
        Box::pin(async move {
            match stack
                .call(InboundCall {
                    method,
                    message: request.message,
                    context,
                    peer: request.peer,
                    places: Places::default(),
                })
                .await
            {
                Ok(response) => {
                    let (frame, metadata) = response.into_parts();
                    InboundReply {
                        result: Ok(frame),
                        metadata,
                    }
                }
                Err(status) => InboundReply {
                    result: Err(status),
                    metadata: Metadata::new(),
                },
            }
        })
    }

    fn hold_body(&self, place: &mut Option<BodyPlace>, bytes: usize) -> Result<(), Status> {
        let place = place.get_or_insert_with(|| self.bodies.place());
        place.grow(bytes).map_err(|held| {
            let problem = format!(
                "{bytes} bytes of a request come while {held} bytes of others are held in this instance (policy \
                 provider.body_budget_mib): ask another instance, add instances, or raise it"
            );
            framework_status(Reason::ProviderLimit, problem)
        })
    }

    fn http(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> BoxFuture<'static, http::Response<tonic::body::Body>> {
        let path = request.uri().path();
        let service = path.split('/').nth(1).unwrap_or_default();
        if !BESIDE.contains(&service) && !self.tonic_services.contains(&service) {
            let implementation = crate::wire::headers::implementation(request.headers());
            let status = framework_status(Reason::Unimplemented, self.unknown(path, implementation));
            return Box::pin(std::future::ready(refusal(&status)));
        }
        let target = request
            .headers()
            .get(TARGET)
            .and_then(|target| target.to_str().ok());
        let admitted = check_target(self.identity.as_deref(), target);
        let mut request = request;
        let admitted = admitted
            .and_then(|()| self.check_tonic(&mut request))
            // Behind authorization, because it says where the instance is.
            .and_then(|()| check_meant(&self.place, Some(request.headers())));
        if let Err(status) = admitted {
            return Box::pin(std::future::ready(refusal(&status)));
        }
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        let end = BESIDE.contains(&service).then(|| self.end.clone());
        if end.is_none() {
            self.drain.arrived();
        }
        let limits = self.hosted.get(service).cloned();
        let pool = self.pool.clone();
        let mut routes = self.tonic.clone();
        Box::pin(async move {
            // Until the handler has answered: what it streams then may go on for days.
            let mut places = match &limits {
                None => Places::default(),
                Some(limits) => {
                    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
                    match limits.enter(method, &pool, request.headers()).await {
                        Ok(places) => places,
                        Err(status) => return refusal(&status),
                    }
                }
            };
            let answered = tower::Service::call(&mut routes, request).await;
            places.finished();
            match answered {
                Ok(response) => match end {
                    Some(end) => ending_with(&end, response),
                    None => without_reason(response),
                },
                Err(never) => match never {},
            }
        })
    }
}

/// A trailers-only answer.
fn refusal(status: &Status) -> http::Response<tonic::body::Body> {
    let mut response = http::Response::new(tonic::body::Body::empty());
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
    write_status(status, response.headers_mut());
    response
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

type Hosted = (Vec<Arc<HostedMethod>>, HashMap<String, Vec<(String, usize)>>);

fn host(
    services: &[(String, Arc<dyn Service>)],
    metrics: &Metrics,
    required: bool,
) -> Result<Hosted, ProviderError> {
    let mut methods = Vec::new();
    let mut paths: HashMap<String, Vec<(String, usize)>> = HashMap::new();
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
