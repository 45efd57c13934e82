//! `rsf adapter`: registered methods as HTTP and JSON.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rsf::{Application, Settings};
use rsf_adapter_http::{Adapter, AdapterSettings, DirectorySchemas};
use rsf_registry::backend::Backend;
use serde::Deserialize;

use super::Common;
use crate::Failure;

/// The adapter's name as a consumer; policies and authorization go by it.
pub(crate) const APPLICATION: &str = "http-adapter";

/// Flags of `rsf adapter`.
#[derive(Args)]
pub(crate) struct AdapterArguments {
    #[command(flatten)]
    common: Common,
    /// TOML file: `registry`, `namespace`, and the table `[adapter]`
    #[arg(long, env = "RSF_ADAPTER_CONFIG")]
    config: Option<PathBuf>,
    /// address:port that HTTP callers use [default: 127.0.0.1:8080]
    #[arg(long, env = "RSF_ADAPTER_LISTEN")]
    listen: Option<String>,
    /// A path before every route (`/rpc`)
    #[arg(long, env = "RSF_ADAPTER_PREFIX")]
    prefix: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    registry: Option<String>,
    namespace: Option<String>,
    list_keys: Option<PathBuf>,
    adapter: AdapterSettings,
}

pub(crate) async fn run(arguments: AdapterArguments) -> Result<(), Failure> {
    let file: File = super::read_file(arguments.config.as_deref())?;
    let mut problems = Vec::new();
    let from_file = Common {
        registry: file.registry,
        namespace: file.namespace,
        list_keys: file.list_keys,
    };
    let registry = arguments.common.registry(&from_file, &mut problems);
    let namespace = registry.as_ref().map_or("", |(_, namespace)| namespace);
    let lists = arguments.common.lists(&from_file, namespace, &mut problems);
    let mut settings = file.adapter;
    settings.listen = arguments.listen.unwrap_or(settings.listen);
    settings.prefix = arguments.prefix.unwrap_or(settings.prefix);
    let config = settings
        .validate()
        .map_err(|errors| problems.extend(errors.problems().iter().cloned()))
        .ok();
    super::all(problems)?;
    let (Some((url, namespace)), Some(config)) = (registry, config) else {
        return Ok(());
    };

    let listener = super::listen(config.listen(), "adapter").await?;
    // The backend itself is handed over: a URL that is printed has lost its credentials.
    let settings = Settings {
        registry: Some(url.to_string()),
        namespace: Some(namespace.clone()),
        ..Settings::default()
    };
    let app = Application::builder(APPLICATION)
        .settings(settings)
        .registry(Backend::open_with(&url, &namespace, lists)?)
        .start()
        .await?;
    let schemas = Arc::new(DirectorySchemas::new(app.registry().directory.clone()));
    let requires_token = config.requires_token();
    let adapter = Adapter::new(app.consumer().clone(), schemas, config);
    let adapter = match app.token_verifier() {
        Some(verifier) => adapter.tokens(verifier),
        None if requires_token => {
            app.shutdown().await;
            return super::all(vec![
                "adapter.require_token: no key is trusted that a caller's token could be checked with; set RSF_TRUSTED_KEYS"
                    .to_owned(),
            ]);
        }
        None => adapter,
    };
    println!(
        "adapter of namespace {namespace} on {url}, http://{}",
        listener.local_addr()?
    );
    let served = adapter.serve(listener, super::until_signal()?).await;
    app.shutdown().await;
    Ok(served?)
}
