//! Registry, pump, console and adapter in this process; the shop's programs beside it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rsf::{Application, Settings};
use rsf_adapter_http::{Adapter, AdapterSettings, DirectorySchemas};
use rsf_console::{Console, ConsoleSettings, Parts, PumpStatus, Token};
use rsf_pump::{ConsumerReports, Pump, PumpHandle, PumpSettings, TcpProbe};
use rsf_registry::backend::{Backend, ControlBackend, RegistryUrl};
use rsf_registry::embedded::{self, EmbeddedNamespace, EmbeddedStore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::children::Children;
use super::files::RunningFiles;
use super::{
    ADAPTER_PORT, CONSOLE_PORT, DevArguments, PUMP_PORT, Places, REGISTRY_PORT, banner, listen, open_shop,
};
use crate::Failure;
use crate::process::adapter::APPLICATION;
use crate::process::pump::port;
use crate::process::{private_folder, until_signal};

pub(super) async fn run(arguments: DevArguments) -> Result<(), Failure> {
    let files = RunningFiles::take(&rsf::state::folder())?;
    let token = files.token("token")?;
    let registry_token = files.token("registry-token")?;
    let parts = ControlPlane {
        end: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };

    let store = Arc::new(EmbeddedStore::open(&files.path("registry.redb"), &[&arguments.namespace]).await?);
    let namespace = store.namespace(&arguments.namespace)?;
    let registry = parts.registry(store.clone(), &arguments, &registry_token).await?;
    let (pump, pump_url) = parts.pump(&namespace, &arguments, &files, &token).await?;
    let console = parts
        .console(&namespace, &arguments, &files, &token, pump)
        .await?;
    let (adapter, app) = parts.adapter(&namespace, &arguments, &registry).await?;
    files.announce(&registry, &arguments.namespace, &console, &adapter, &pump_url)?;

    let signal = until_signal()?;
    let children = Children::new(
        private_folder(files.path("log"))?,
        Some(files.path(super::PROCESSES_FILE)),
    );
    if !arguments.no_shop {
        open_shop(&children, &arguments, &registry, &files.path("token"))?;
    }
    let places = Places {
        // Without its token.
        registry: registry.parse::<RegistryUrl>()?.to_string(),
        namespace: arguments.namespace.clone(),
        console,
        token: token.expose().to_owned(),
        adapter,
    };
    banner(&places, &children, !arguments.no_shop);

    signal.cancelled().await;
    println!("\nending …");
    // Consumers and providers first: they say good-bye to the registry.
    children.end().await;
    app.shutdown().await;
    parts.end.cancel();
    parts.tasks.close();
    if tokio::time::timeout(Duration::from_secs(10), parts.tasks.wait())
        .await
        .is_err()
    {
        eprintln!("some parts took too long to end");
    }
    store.close().await;
    println!("ended");
    Ok(())
}

/// The parts that run as tasks of this process.
struct ControlPlane {
    end: CancellationToken,
    tasks: TaskTracker,
}

impl ControlPlane {
    /// Serves the registry for a token of its own: applications hold it, and it opens no console.
    async fn registry(
        &self,
        store: Arc<EmbeddedStore>,
        arguments: &DevArguments,
        token: &Token,
    ) -> Result<String, Failure> {
        let listener = listen(arguments.ports.registry_port, REGISTRY_PORT).await?;
        let url = format!("rsf://{}@{}", token.expose(), listener.local_addr()?);
        let (token, end) = (token.expose().to_owned(), self.end.clone());
        self.tasks.spawn(async move {
            if let Err(error) = embedded::serve_guarded(listener, store, &token, end).await {
                eprintln!("the registry has ended: {error}");
            }
        });
        Ok(url)
    }

    async fn pump(
        &self,
        namespace: &EmbeddedNamespace,
        arguments: &DevArguments,
        files: &RunningFiles,
        token: &Token,
    ) -> Result<(PumpHandle, String), Failure> {
        let backend = ControlBackend::from(namespace.clone());
        let settings = PumpSettings {
            state_file: Some(files.path("pump.state")),
            lease_ttl_ms: arguments.lease_ttl_ms,
            sweep_ms: PumpSettings::default().sweep_ms.min(arguments.lease_ttl_ms),
            ..PumpSettings::default()
        };
        let metrics = prometheus::Registry::new();
        let pump = Pump::new(
            backend.lease_sources,
            backend.directory,
            settings.validate()?,
            &metrics,
        )?;
        let reports = ConsumerReports::new(backend.reports, &metrics)?;
        let pump = pump
            .with_evidence(Arc::new(TcpProbe))
            .with_evidence(Arc::new(reports));
        let handle = pump.handle();
        let listener = listen(arguments.ports.pump_port, PUMP_PORT).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let port = port::serve(
            listener,
            handle.clone(),
            metrics,
            Some(token.clone()),
            self.end.clone(),
        );
        self.tasks.spawn(port);
        self.tasks.spawn(pump.run(self.end.clone()));
        Ok((handle, url))
    }

    async fn console(
        &self,
        namespace: &EmbeddedNamespace,
        arguments: &DevArguments,
        files: &RunningFiles,
        token: &Token,
        pump: PumpHandle,
    ) -> Result<String, Failure> {
        let settings = ConsoleSettings {
            namespace: Some(arguments.namespace.clone()),
            database: Some(files.path("console.sqlite")),
            ..ConsoleSettings::default()
        };
        let control = ControlBackend::from(namespace.clone());
        let parts = Parts {
            policies: control.policies,
            acknowledgements: control.acknowledgements,
            directory: Backend::from(namespace.clone()).directory,
            leases: control.lease_sources,
            pump: Some(Arc::new(OwnPump(pump))),
        };
        let console = Console::new(settings.validate()?, token.clone(), parts).await?;
        let listener = listen(arguments.ports.console_port, CONSOLE_PORT).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let end = self.end.clone();
        self.tasks.spawn(async move {
            if let Err(error) = console.serve(listener, end).await {
                eprintln!("the console has ended: {error}");
            }
        });
        Ok(url)
    }

    async fn adapter(
        &self,
        namespace: &EmbeddedNamespace,
        arguments: &DevArguments,
        registry: &str,
    ) -> Result<(String, Application), Failure> {
        let settings = Settings {
            registry: Some(registry.to_owned()),
            namespace: Some(arguments.namespace.clone()),
            lease_ttl_ms: Some(arguments.lease_ttl_ms),
            ..Settings::default()
        };
        let backend = Backend::from(namespace.clone());
        let app = Application::builder(APPLICATION)
            .settings(settings)
            .registry(backend)
            .start()
            .await?;
        let schemas = Arc::new(DirectorySchemas::new(app.registry().directory.clone()));
        let adapter = Adapter::new(
            app.consumer().clone(),
            schemas,
            AdapterSettings::default().validate()?,
        );
        let adapter = match app.token_verifier() {
            Some(verifier) => adapter.tokens(verifier),
            None => adapter,
        };
        let listener = listen(arguments.ports.adapter_port, ADAPTER_PORT).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let end = self.end.clone();
        self.tasks.spawn(async move {
            if let Err(error) = adapter.serve(listener, end).await {
                eprintln!("the adapter has ended: {error}");
            }
        });
        Ok((url, app))
    }
}

/// The pump of this process, as the console asks for it.
struct OwnPump(PumpHandle);

#[async_trait]
impl PumpStatus for OwnPump {
    async fn status(&self) -> Result<serde_json::Value, String> {
        serde_json::to_value(&*self.0.status()).map_err(|error| error.to_string())
    }
}
