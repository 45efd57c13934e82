//! `rsf console`: the governance API and the web console over a registry of processes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::Args;
use rsf_console::{Console, ConsoleSettings, Parts, PumpStatus};
use rsf_registry::backend::{Backend, ControlBackend};
use serde::Deserialize;

use super::Common;
use crate::Failure;

/// Flags of `rsf console`.
#[derive(Args)]
pub(crate) struct ConsoleArguments {
    #[command(flatten)]
    common: Common,
    /// TOML file: `registry`, `namespace`, `listen`, `token_file`, `pump`, and the table `[console]`
    #[arg(long, env = "RSF_CONFIG")]
    config: Option<PathBuf>,
    /// address:port of the API and the page [default: 127.0.0.1:7601]
    #[arg(long, env = "RSF_CONSOLE_LISTEN")]
    listen: Option<String>,
    /// The database of policies and audit
    #[arg(long, env = "RSF_CONSOLE_DATABASE")]
    database: Option<PathBuf>,
    /// File with the token that opens the API; there is no default one
    #[arg(long, env = "RSF_CONSOLE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The pump's admin port, http://host:port, for its status
    #[arg(long, env = "RSF_CONSOLE_PUMP")]
    pump: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    registry: Option<String>,
    namespace: Option<String>,
    list_keys: Option<PathBuf>,
    listen: Option<String>,
    token_file: Option<PathBuf>,
    pump: Option<String>,
    console: ConsoleSettings,
}

pub(crate) async fn run(arguments: ConsoleArguments) -> Result<(), Failure> {
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
    let listen = arguments
        .listen
        .or(file.listen)
        .unwrap_or_else(|| "127.0.0.1:7601".to_owned());
    let listen = super::address(&listen, "listen", &mut problems);
    let token = match arguments.token_file.or(file.token_file) {
        Some(path) => super::token(&path, &mut problems),
        None => {
            problems.push(
                "no token: set --token-file or RSF_CONSOLE_TOKEN_FILE to a file that only you can read; make one with \
                 `(umask 077; openssl rand -hex 32 > token)`"
                    .to_owned(),
            );
            None
        }
    };
    let mut settings = file.console;
    settings.database = arguments.database.or(settings.database);
    settings.namespace = registry.as_ref().map(|(_, namespace)| namespace.clone());
    let invalid = |errors: rsf_console::ConfigErrors| {
        problems.extend(
            errors
                .0
                .iter()
                .map(|problem| format!("{}: {}", problem.path, problem.problem)),
        );
    };
    let config = settings.validate().map_err(invalid).ok();
    super::all(problems)?;
    let (Some((url, namespace)), Some(listen), Some(token), Some(config)) = (registry, listen, token, config)
    else {
        return Ok(());
    };

    let (backend, control) = (
        Backend::open_with(&url, &namespace, lists)?,
        ControlBackend::open(&url, &namespace)?,
    );
    let pump = arguments
        .pump
        .or(file.pump)
        .map(|base| Arc::new(RemotePump { base }) as Arc<dyn PumpStatus>);
    let parts = Parts {
        policies: control.policies,
        acknowledgements: control.acknowledgements,
        directory: backend.directory,
        leases: control.lease_sources,
        pump,
    };
    let console = Console::new(config, token, parts).await?;
    let listener = super::listen(listen, "console").await?;
    println!(
        "console of namespace {namespace} on {url}, http://{}",
        listener.local_addr()?
    );
    console.serve(listener, super::until_signal()?).await?;
    Ok(())
}

/// The status of a pump in another process, from its admin port.
struct RemotePump {
    base: String,
}

#[async_trait]
impl PumpStatus for RemotePump {
    async fn status(&self) -> Result<serde_json::Value, String> {
        let url = format!("{}/status", self.base.trim_end_matches('/'));
        let answer = async {
            let client = reqwest::Client::builder()
                .timeout(Duration::from_secs(2))
                .no_proxy()
                .build()?;
            client.get(&url).send().await?.error_for_status()?.json().await
        };
        answer
            .await
            .map_err(|error: reqwest::Error| format!("the pump's admin port does not answer: {error}"))
    }
}
