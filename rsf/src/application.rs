//! A process's place in the fleet: its ports, its registration, its clients, and its graceful end.

mod builder;
mod credentials;
mod notice;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rsf_core::client::{Client, Consumer, TonicChannel};
use rsf_core::identity::TokenVerifier;
use rsf_core::method::{MethodDescriptor, ServiceDescriptor, service_key};
use rsf_core::runtime::IoRuntime;
use rsf_core::server::Provider;
use rsf_registry::{Backend, Registration, RegistryAgent};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use builder::{ApplicationBuilder, StartError};

use notice::told;
use status::Status;

use crate::{Channel, RpcError, Settings};

/// A draining instance still takes calls until the directory says that it drains, so that consumers hear of it first. This
/// long is waited for that at most: a coalescing window of the pump and the way, three times over.
const DRAIN_NOTICE: Duration = Duration::from_secs(4);
/// Then consumers hear of it within milliseconds. They have, when no call has come for this long;
const DRAIN_QUIET: Duration = Duration::from_millis(250);
/// and this long is waited at most: foreign clients hear of it by GOAWAY alone.
const DRAIN_LATE: Duration = Duration::from_secs(2);
/// What one-way calls have at the end though the handlers, which make them, took all of the time; less where all of the time
/// is less.
const ONE_WAY: Duration = Duration::from_secs(1);

/// A running application: provider, consumer, or both. Clones share it.
///
/// Dropping the last clone without [`Application::shutdown`] ends it at once: connections close and the lease is
/// given back in the background.
#[derive(Clone)]
pub struct Application(Arc<Running>);

struct Running {
    name: String,
    instance: String,
    namespace: String,
    address: String,
    admin_address: String,
    zone: String,
    drain_time: Duration,
    runtime: IoRuntime,
    consumer: Consumer,
    provider: Option<Arc<Provider>>,
    backend: Backend,
    agent: Arc<RegistryAgent>,
    verifier: Option<Arc<TokenVerifier>>,
    metrics: prometheus::Registry,
    registration: Mutex<Option<Registration>>,
    registration_status: tokio::sync::watch::Receiver<rsf_registry::agent::RegistrationStatus>,
    draining: AtomicBool,
    /// Stops accepting and says GOAWAY.
    goaway: CancellationToken,
    /// Ends the admin port.
    stop: CancellationToken,
    serving: Mutex<Option<JoinHandle<()>>>,
    /// Set once the end is over; whoever asks for it again waits for the first.
    ended: OnceCell<()>,
}

impl Application {
    /// Begins to describe the application called `name`.
    pub fn builder(name: &str) -> ApplicationBuilder {
        ApplicationBuilder::new(name)
    }

    /// A pure consumer called `name`, configured by `RSF_*` alone.
    pub async fn connect(name: &str) -> Result<Application, StartError> {
        Application::builder(name).start().await
    }

    /// A typed client of the default implementation of its service. Clients share connections.
    pub fn client<C: Client>(&self) -> C {
        self.0.consumer.client()
    }

    /// The channel to a service that is known only at run time, by its methods' descriptors.
    pub fn channel(&self, service: &ServiceDescriptor, implementation: &str) -> Channel {
        self.0.consumer.channel(service, implementation)
    }

    /// A channel to one method by name, for tools. It has no method options: not idempotent, the policy's timeout.
    pub fn channel_for(&self, service: &str, method: &str) -> Channel {
        let methods = vec![MethodDescriptor::plain(service, method)];
        let descriptor = ServiceDescriptor {
            name: service.to_owned().into(),
            methods: methods.into(),
            schema: Vec::new().into(),
        };
        self.0.consumer.channel(&descriptor, "")
    }

    /// A channel for an unchanged tonic client of `service`: routed, balanced and broken, never retried.
    pub fn tonic_channel(&self, service: &str) -> TonicChannel {
        self.0.consumer.tonic_channel(service)
    }

    /// What the data path is made of, for programs that build on it, such as the HTTP adapter.
    pub fn consumer(&self) -> &Consumer {
        &self.0.consumer
    }

    /// The registry, in this application's namespace.
    pub fn registry(&self) -> &Backend {
        &self.0.backend
    }

    /// Checks callers' tokens by the keys that `RSF_TRUSTED_KEYS` names, as the application's own services do; `None` where
    /// it names none. For gateways, whose callers come in by other ways.
    pub fn token_verifier(&self) -> Option<Arc<TokenVerifier>> {
        self.0.verifier.clone()
    }

    /// RSF's runtime.
    pub fn runtime(&self) -> &IoRuntime {
        &self.0.runtime
    }

    /// The metrics that the admin port shows; add your own.
    pub fn metrics(&self) -> &prometheus::Registry {
        &self.0.metrics
    }

    /// The application's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The instance's id.
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// The environment.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The advertised `host:port` of the service port; empty for a pure consumer.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// `host:port` of the admin port.
    pub fn admin_address(&self) -> &str {
        &self.0.admin_address
    }

    /// Says how loaded the application finds itself: 1 is full, more is overload. Consumers send less to loaded instances;
    /// without it they go by pool and queue alone. 0, the default, says nothing.
    pub fn set_utilization(&self, utilization: f32) {
        if let Some(provider) = &self.0.provider {
            provider.set_application_utilization(utilization);
        }
    }

    /// Waits until the lease is in the registry. `false` where it is not within `limit`; it is tried on.
    pub async fn registered(&self, limit: Duration) -> bool {
        let mut status = self.0.registration_status.clone();
        let _timers = self.0.runtime.handle().enter();
        let registered = tokio::time::timeout(limit, async move {
            status.wait_for(|status| status.registered).await.is_ok()
        });
        drop(_timers);
        registered.await.unwrap_or(false)
    }

    /// Waits until every service that this application has a client of by now has an instance that may take calls: for
    /// programs that would rather start late than with errors.
    ///
    /// # Errors
    /// [`Reason::NoInstance`](crate::Reason::NoInstance) where one has none within `limit`; it names the service and
    /// what to do. The application goes on looking.
    pub async fn ready(&self, limit: Duration) -> Result<(), RpcError> {
        self.0.consumer.ready(limit).await
    }

    /// Ends gracefully: says that it drains, goes on serving until the directory has told the consumers, says GOAWAY,
    /// finishes the running calls (`drain_ms` at most) and then the one-way calls that they made, and gives the lease back.
    pub async fn shutdown(self) {
        let running = self.0.clone();
        let ended = self
            .0
            .runtime
            .handle()
            .spawn(async move {
                running.ended.get_or_init(|| running.end()).await;
            })
            .await;
        if let Err(error) = ended {
            tracing::warn!(%error, "the graceful end was cut short");
        }
    }

    /// The same from a thread without a runtime, as the end of what
    /// [`start_blocking`](ApplicationBuilder::start_blocking) began.
    ///
    /// # Panics
    /// Inside an asynchronous runtime, whose thread it would stop.
    pub fn shutdown_blocking(self) {
        let runtime = self.0.runtime.clone();
        runtime.handle().block_on(self.shutdown());
    }

    /// Waits for Ctrl-C or SIGTERM, then ends gracefully.
    pub async fn run_until_signal(self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) = {
            let _runtime = self.0.runtime.handle().enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        self.shutdown().await;
        Ok(())
    }
}

impl Running {
    async fn end(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let registration = self.registration.lock().take();
        if let Some(provider) = &self.provider {
            provider.set_serving(false).await;
            if let Some(registration) = &registration {
                match registration.drain().await {
                    Ok(()) => self.heard(provider).await,
                    Err(error) => tracing::warn!(%error, "draining without the registry's help"),
                }
            }
        }
        if let Some(provider) = &self.provider {
            provider.end_streams();
        }
        self.goaway.cancel();
        let end = Instant::now() + self.drain_time;
        let serving = self.serving.lock().take();
        if let (Some(serving), Some(provider)) = (serving, &self.provider) {
            let stop = serving.abort_handle();
            let ended = async {
                let _ = serving.await;
                provider.settled().await;
            };
            if tokio::time::timeout_at(end, ended).await.is_err() {
                tracing::warn!(
                    limit_ms = self.drain_time.as_millis() as u64,
                    "calls were still running at the end"
                );
                stop.abort();
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        let left = left.max(ONE_WAY.min(self.drain_time));
        if !self.consumer.finish_one_way(left).await {
            tracing::warn!(
                limit_ms = self.drain_time.as_millis() as u64,
                "one-way calls were still under way at the end"
            );
        }
        if let Some(registration) = registration
            && let Err(error) = registration.deregister().await
        {
            tracing::warn!(%error, "the lease will run out by itself");
        }
        self.stop.cancel();
    }

    /// Waits until the consumers know that this instance drains: the directory says so, and no call has come for a while.
    async fn heard(&self, provider: &Provider) {
        let begun = Instant::now();
        let services = provider.services();
        let lists = services
            .iter()
            .map(|service| service_key(&service.name, &service.implementation))
            .map(|key| self.backend.directory.watch(&key));
        let told = told(lists.collect(), &self.instance);
        match tokio::time::timeout(DRAIN_NOTICE, told).await {
            Ok(()) => tracing::debug!(
                after_ms = begun.elapsed().as_millis() as u64,
                "the directory says that we drain"
            ),
            Err(_) => tracing::warn!(
                limit_ms = DRAIN_NOTICE.as_millis() as u64,
                "the directory does not say that we drain; is a pump leading? GOAWAY tells the consumers"
            ),
        }
        if !provider.drain(DRAIN_QUIET, DRAIN_LATE).await {
            tracing::info!("calls still come; GOAWAY sends them elsewhere");
        }
    }

    fn status(&self) -> Status {
        let registration = self.registration_status.borrow().clone();
        let provides = self.provider.iter().flat_map(|provider| provider.services());
        Status {
            application: self.name.clone(),
            instance: self.instance.clone(),
            incarnation: registration.incarnation,
            namespace: self.namespace.clone(),
            address: self.address.clone(),
            zone: self.zone.clone(),
            version: env!("CARGO_PKG_VERSION"),
            registered: registration.registered,
            registry_error: registration.last_error.map(|error| error.to_string()),
            draining: self.draining.load(Ordering::Relaxed),
            provides: provides
                .map(|service| service_key(&service.name, &service.implementation))
                .collect(),
            overrides: self.agent.overrides(),
            calls: self.consumer.views(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.goaway.cancel();
        self.stop.cancel();
        if let Some(serving) = self.serving.get_mut().take() {
            serving.abort();
        }
    }
}
