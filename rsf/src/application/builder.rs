//! What an application is before it starts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rsf_core::PolicyBook;
use rsf_core::client::{Balancer, Balancers, ClientInterceptor, ClientInterceptors, Consumer, ConsumerParts};
use rsf_core::control::ControlPlane;
use rsf_core::metrics::Metrics;
use rsf_core::runtime::IoRuntime;
use rsf_core::server::dedup::DedupStore;
use rsf_core::server::{ProviderBuilder, ProviderError, ProviderIdentity, ServerInterceptor, Service};
use rsf_core::wire::Compression;
use rsf_core::wire::http2::ServerOptions;
use rsf_registry::agent::{AgentError, RegistrationRequest};
use rsf_registry::record::ProvidedService;
use rsf_registry::{AgentOptions, Backend, RegistryAgent, StoreError};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;

use super::credentials::Credentials;
use super::{Application, Running, Settings};
use crate::admin::{self, AdminPage};
use crate::settings::{Checked, InvalidSettings};

/// Describes an application; [`start`](ApplicationBuilder::start) brings it up.
#[must_use = "an application does nothing until it is started"]
pub struct ApplicationBuilder {
    name: String,
    settings: Settings,
    provider: Option<ProviderBuilder>,
    /// Services that are made when there is something to make clients with.
    calling: Vec<MakeService>,
    backend: Option<Backend>,
    interceptors: ClientInterceptors,
    server_interceptors: Vec<AddInterceptor>,
    dedup: Option<Arc<dyn DedupStore>>,
    balancers: Balancers,
    compression: Option<Compression>,
}

type AddInterceptor = Box<dyn FnOnce(ProviderBuilder) -> ProviderBuilder + Send>;
type MakeService = Box<dyn FnOnce(&Consumer) -> Arc<dyn Service> + Send>;

/// Why an application does not start. A registry that is down is no reason: the application starts without it and
/// registers when it is back.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The name cannot stand in ids and headers.
    #[error(
        "`{0}` is no application name: use letters, digits, `-`, `_`, `.`, at most 100, starting with a letter"
    )]
    Name(String),
    /// All mistakes of the settings.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The services do not go together.
    #[error(transparent)]
    Services(#[from] ProviderError),
    /// A port cannot be bound.
    #[error("cannot listen on {address}; choose another {setting}, or port 0 for a free one")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// The setting to change.
        setting: &'static str,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The registration or the namespace is not valid.
    #[error(transparent)]
    Registry(#[from] StoreError),
    /// The registry's side of the process cannot begin.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// RSF's runtime cannot start.
    #[error("cannot start RSF's threads")]
    Runtime(#[source] std::io::Error),
    /// Two metrics of one name.
    #[error("cannot register metrics")]
    Metrics(#[from] prometheus::Error),
}

impl ApplicationBuilder {
    pub(super) fn new(name: &str) -> Self {
        ApplicationBuilder {
            name: name.to_owned(),
            settings: Settings::default(),
            provider: None,
            calling: Vec::new(),
            backend: None,
            interceptors: ClientInterceptors::default(),
            server_interceptors: Vec::new(),
            dedup: None,
            balancers: Balancers::new(),
            compression: None,
        }
    }

    /// Provides a service as its default implementation.
    pub fn service(self, service: impl Service) -> Self {
        self.implementation("", service)
    }

    /// Provides a service as the implementation called `name`; several run side by side.
    pub fn implementation(mut self, name: &str, service: impl Service) -> Self {
        let provider = self.provider.take().unwrap_or_default();
        self.provider = Some(provider.service(name, Arc::new(service)));
        self
    }

    /// Provides a service whose handlers call other services. `make` takes its clients from the [`Consumer`] that the
    /// application will have: handlers cannot wait for the application itself, which starts with them.
    pub fn service_with<S: Service>(mut self, make: impl FnOnce(&Consumer) -> S + Send + 'static) -> Self {
        self.provider.get_or_insert_default();
        self.calling
            .push(Box::new(move |consumer| Arc::new(make(consumer))));
        self
    }

    /// Provides an unchanged tonic service, streaming included. Pool, queue and thresholds hold for it; see
    /// [`ProviderBuilder::tonic_service`].
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
        let provider = self.provider.take().unwrap_or_default();
        self.provider = Some(provider.tonic_service(service));
        self
    }

    /// Adds code of the application's own around every call that it makes, inside what was added before.
    pub fn client_interceptor(mut self, interceptor: impl ClientInterceptor) -> Self {
        self.interceptors.add(interceptor);
        self
    }

    /// Adds code of the application's own around every handler of RSF's services, inside what was added before. Makes
    /// nothing a provider that provides no service.
    pub fn interceptor(mut self, interceptor: impl ServerInterceptor) -> Self {
        self.server_interceptors
            .push(Box::new(|builder| builder.interceptor(interceptor)));
        self
    }

    /// Settings in code; they beat `RSF_*` and the file.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Registers a way to choose instances that policies may name as `"balance": "custom:<name>"`.
    pub fn balancer(mut self, name: &str, balancer: impl Balancer) -> Self {
        self.balancers = self.balancers.with(name, balancer);
        self
    }

    /// Compresses the messages of unary calls: all requests that are large enough, and the replies to consumers that accept
    /// it. Default: none is; those that come compressed are read in any case. Worth it between data centres, hardly within.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = Some(compression);
        self
    }

    /// A registry that is at hand already, instead of the one that the settings name. For processes that host one.
    pub fn registry(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Keeps the outcomes of deduplicated methods in a store of the application's own, instead of the one that
    /// `RSF_DEDUP` names.
    pub fn dedup_store(mut self, store: Arc<dyn DedupStore>) -> Self {
        self.dedup = Some(store);
        self
    }

    /// Starts: checks the settings, binds the ports, registers in the background.
    pub async fn start(self) -> Result<Application, StartError> {
        let (runtime, settings) = self.prepare()?;
        let handle = runtime.handle().clone();
        let started = handle
            .spawn(async move { self.bring_up(runtime, settings).await })
            .await;
        started.unwrap_or_else(|error| Err(StartError::Runtime(std::io::Error::other(error))))
    }

    /// The same from a thread without a runtime.
    pub fn start_blocking(self) -> Result<Application, StartError> {
        let (runtime, settings) = self.prepare()?;
        let handle = runtime.handle().clone();
        handle.block_on(self.bring_up(runtime, settings))
    }

    fn prepare(&self) -> Result<(IoRuntime, Checked), StartError> {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = &self.name;
        if !name.starts_with(|c: char| c.is_ascii_alphabetic())
            || name.len() > 100
            || !name.chars().all(valid)
        {
            return Err(StartError::Name(name.clone()));
        }
        let mut settings = self.settings.clone();
        if self.backend.is_some() && settings.registry.is_none() {
            // Only for messages: the backend is at hand.
            settings.registry = Some("rsf://127.0.0.1:1".to_owned());
        }
        let settings = settings.complete()?;
        let runtime = IoRuntime::start(settings.io_threads).map_err(StartError::Runtime)?;
        Ok((runtime, settings))
    }

    async fn bring_up(self, runtime: IoRuntime, settings: Checked) -> Result<Application, StartError> {
        let credentials = Credentials::read(&self.name, &settings)?;
        let backend = match self.backend {
            Some(backend) => backend,
            None => Backend::open_with(&settings.registry, &settings.namespace, credentials.lists.clone())?,
        };
        let agent = Arc::new(agent(&backend, &settings)?);
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::register(&registry)?);
        registry.register(Box::new(agent.refused_lists()))?;
        for metric in agent.override_metrics() {
            registry.register(metric)?;
        }
        let control: Arc<dyn ControlPlane> = agent.clone();
        let policies = PolicyBook::new(control.clone(), runtime.clone(), metrics.policies_refused.clone());
        let port = match &self.provider {
            Some(_) => Some(listen(settings.listen, "RSF_LISTEN").await?),
            None => None,
        };
        let (admin_listener, admin_bound) = listen(settings.admin, "RSF_ADMIN").await?;
        let address = port
            .as_ref()
            .map(|(_, bound)| advertised(&settings, *bound))
            .unwrap_or_default();
        let admin_address = advertised_host(&settings, admin_bound);
        let instance = instance_id(&self.name, &settings, &address);
        let consumer = Consumer::new(ConsumerParts {
            application: self.name.clone(),
            namespace: settings.namespace.clone(),
            zone: settings.zone.clone(),
            instance: instance.clone(),
            runtime: runtime.clone(),
            wire: settings.wire.client(self.compression),
            control,
            policies: policies.clone(),
            metrics: metrics.clone(),
            token: credentials.token.clone(),
            interceptors: self.interceptors,
            balancers: self.balancers,
        });
        let provider = match self.provider {
            Some(builder) => {
                let calling = self.calling.into_iter().map(|make| make(&consumer));
                let builder = calling.fold(builder, |builder, service| builder.service("", service));
                let adding = self.server_interceptors.into_iter();
                let builder = adding.fold(builder, |builder, add| add(builder));
                let builder = builder.require_authorization(settings.authorization_required);
                let builder = match &credentials.verifier {
                    Some(verifier) => builder.tokens(verifier.clone()),
                    None => builder,
                };
                let target = Some(format!("{}/{instance}", settings.namespace));
                let identity = ProviderIdentity {
                    application: self.name.clone(),
                    target,
                    zone: settings.zone.clone(),
                    tags: settings.tags.clone().into_iter().collect(),
                };
                let store = match self.dedup {
                    Some(store) => store,
                    None => settings.dedup.open(&settings.namespace)?,
                };
                let builder = builder.dedup_store(store);
                Some(builder.build(identity, &metrics, &policies)?)
            }
            None => None,
        };
        let registration = agent.register(RegistrationRequest {
            application: self.name.clone(),
            instance: instance
                .strip_prefix(&format!("{}/", self.name))
                .map(str::to_owned),
            address: address.clone(),
            admin_address: admin_address.clone(),
            zone: settings.zone.clone(),
            tags: settings.tags.clone(),
            weight: settings.weight,
            services: provider
                .iter()
                .flat_map(|provider| provider.services())
                .map(provided)
                .collect(),
        })?;
        let goaway = CancellationToken::new();
        let serving = match (port, &provider) {
            (Some((listener, _)), Some(provider)) => {
                provider.set_serving(true).await;
                let (drain, compression) = (goaway.clone(), self.compression);
                let options = ServerOptions {
                    compression,
                    ..ServerOptions::default()
                };
                let serving = settings.wire.serve(listener, provider.clone(), options, drain);
                Some(tokio::spawn(serving))
            }
            _ => None,
        };
        let running = Arc::new(Running {
            name: self.name,
            instance,
            namespace: settings.namespace,
            address,
            admin_address,
            zone: settings.zone,
            drain_time: settings.drain,
            runtime,
            consumer,
            provider,
            backend,
            agent: agent.clone(),
            verifier: credentials.verifier.clone(),
            metrics: registry.clone(),
            registration_status: registration.status(),
            registration: Mutex::new(Some(registration)),
            draining: AtomicBool::new(false),
            goaway,
            stop: CancellationToken::new(),
            serving: Mutex::new(serving),
            ended: OnceCell::new(),
        });
        let admin_pages = admin::snapshots::routes(&agent)
            .merge(admin::overrides::routes(&agent, credentials.admin.clone()));
        credentials.follow(running.stop.clone());
        tokio::spawn(admin::serve_with(
            admin_listener,
            page(&running, registry),
            admin_pages,
            running.stop.clone(),
        ));
        Ok(Application(running))
    }
}

fn agent(backend: &Backend, settings: &Checked) -> Result<RegistryAgent, AgentError> {
    let options = AgentOptions {
        state: Some(settings.state.clone()),
        peers: settings.peers.clone(),
        static_instances: settings.static_instances.clone(),
        lease_ttl: settings.lease_ttl,
        ..AgentOptions::new(&settings.namespace, &settings.registry_text)
    };
    RegistryAgent::new(backend.clone(), options)
}

/// The page must not keep the application alive, or dropping its last clone would not end it.
fn page(running: &Arc<Running>, metrics: prometheus::Registry) -> Arc<AdminPage> {
    let (shown, asked): (Weak<Running>, Weak<Running>) = (Arc::downgrade(running), Arc::downgrade(running));
    Arc::new(AdminPage {
        metrics,
        // A registry that is down makes nobody unready: calls go on.
        ready: Box::new(move || {
            asked
                .upgrade()
                .is_some_and(|running| !running.draining.load(Ordering::Relaxed))
        }),
        status: Box::new(move || {
            let status = shown.upgrade().map(|running| running.status());
            serde_json::to_value(status).unwrap_or_default()
        }),
    })
}

async fn listen(address: SocketAddr, setting: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        address,
        setting,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The address that others use for calls: `RSF_ADVERTISE`, with the bound port where it names none.
fn advertised(settings: &Checked, bound: SocketAddr) -> String {
    match &settings.advertise {
        None => bound.to_string(),
        Some(set) if has_port(set) => set.clone(),
        Some(host) => format!("{host}:{}", bound.port()),
    }
}

/// The admin port at the advertised host, or where it is bound.
fn advertised_host(settings: &Checked, bound: SocketAddr) -> String {
    match &settings.advertise {
        Some(set) if bound.ip().is_unspecified() => {
            let host = if has_port(set) {
                set.rsplit_once(':').map_or(set.as_str(), |(host, _)| host)
            } else {
                set
            };
            format!("{host}:{}", bound.port())
        }
        _ => bound.to_string(),
    }
}

fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    })
}

fn instance_id(application: &str, settings: &Checked, address: &str) -> String {
    let name = settings.instance.as_deref();
    match name {
        Some(name) => format!("{application}/{name}"),
        None if !address.is_empty() => format!("{application}/{address}"),
        // A pure consumer has no address of its own, and ports of the loopback are the same on every machine.
        None => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let valid = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
            let host: String = host.chars().filter(valid).take(60).collect();
            format!("{application}/{host}-{:08x}", fastrand::u32(..))
        }
    }
}

fn provided(service: rsf_core::server::ProvidedService) -> ProvidedService {
    let hash = if service.schema.is_empty() {
        String::new()
    } else {
        Sha256::digest(&service.schema)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    ProvidedService {
        name: service.name,
        implementation: service.implementation,
        schema_hash: hash,
    }
}
