//! `rsf pump`: folds the leases in Redis into the directory in ZooKeeper; asks a running pump, and ends its holds.

pub(crate) mod port;

mod operate;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rsf_core::identity::{SigningKey, TrustedKeys};
use rsf_pump::{ConsumerReports, Pump, PumpSettings, TcpProbe};
use rsf_registry::backend::ControlBackend;
use rsf_registry::directory::{ListOpener, ListSealer};
use serde::Deserialize;

use super::Common;
use crate::Failure;

/// `rsf pump` runs one, or asks one that runs.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PumpArguments {
    #[command(subcommand)]
    command: Option<operate::PumpCommand>,
    #[command(flatten)]
    run: RunArguments,
}

/// Flags of `rsf pump`.
#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    common: Common,
    /// TOML file: `registry`, `namespace`, `admin`, `token_file`, and the table `[pump]`
    #[arg(long, env = "RSF_CONFIG")]
    config: Option<PathBuf>,
    /// address:port of metrics, health and status [default: 127.0.0.1:7610]
    #[arg(long, env = "RSF_ADMIN")]
    admin: Option<String>,
    /// This pump's name; several pumps of a namespace need several names [default: pump]
    #[arg(long, env = "RSF_PUMP_NAME")]
    name: Option<String>,
    /// Where the pump keeps its last epoch
    #[arg(long, env = "RSF_PUMP_STATE")]
    state_file: Option<PathBuf>,
    /// File with the private key that signs the lists (`rsf token key`) [default: lists are not signed]
    #[arg(long, env = "RSF_LIST_KEY")]
    list_key: Option<PathBuf>,
    /// File with the token that lets operators end holds (`rsf pump release`); without one nobody can
    #[arg(long, env = "RSF_PUMP_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    registry: Option<String>,
    namespace: Option<String>,
    list_keys: Option<PathBuf>,
    admin: Option<String>,
    list_key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    pump: PumpSettings,
}

pub(crate) async fn run(arguments: PumpArguments) -> Result<(), Failure> {
    match arguments.command {
        Some(command) => operate::run(command).await,
        None => serve(arguments.run).await,
    }
}

async fn serve(arguments: RunArguments) -> Result<(), Failure> {
    let file: File = super::read_file(arguments.config.as_deref())?;
    let mut problems = Vec::new();
    let from_file = Common {
        registry: file.registry,
        namespace: file.namespace,
        list_keys: file.list_keys,
    };
    let registry = arguments.common.registry(&from_file, &mut problems);
    let namespace = registry.as_ref().map_or("", |(_, namespace)| namespace);
    let key = arguments.list_key.or(file.list_key);
    let trusted = arguments.common.list_keys.clone().or(from_file.list_keys.clone());
    let seal = seal(key.as_deref(), trusted.as_deref(), namespace, &mut problems);
    let admin = arguments
        .admin
        .or(file.admin)
        .unwrap_or_else(|| "127.0.0.1:7610".to_owned());
    let admin = super::address(&admin, "admin", &mut problems);
    let token_file = arguments.token_file.or(file.token_file);
    let token = token_file.and_then(|path| super::token(&path, &mut problems));
    let mut settings = file.pump;
    settings.pump = arguments.name.unwrap_or(settings.pump);
    settings.state_file = arguments.state_file.or(settings.state_file);
    let config = settings
        .validate()
        .map_err(|error| problems.extend(error.problems))
        .ok();
    super::all(problems)?;
    let (Some((url, namespace)), Some(admin), Some(config)) = (registry, admin, config) else {
        return Ok(());
    };

    let backend = ControlBackend::open(&url, &namespace)?;
    let metrics = prometheus::Registry::new();
    let pump = Pump::new(backend.lease_sources, backend.directory, config, &metrics)?;
    let pump = match seal {
        Some((sealer, opener)) => {
            metrics.register(Box::new(opener.refusals().clone()))?;
            pump.sealing(sealer, opener)
        }
        None => pump,
    };
    let reports = ConsumerReports::new(backend.reports, &metrics)?;
    let pump = pump
        .with_evidence(Arc::new(TcpProbe))
        .with_evidence(Arc::new(reports));
    let listener = super::listen(admin, "admin port").await?;
    let bound = listener.local_addr()?;
    let end = super::until_signal()?;
    let serving = tokio::spawn(port::serve(listener, pump.handle(), metrics, token, end.clone()));
    println!("pump of namespace {namespace} on {url}, admin port http://{bound}");
    pump.run(end).await;
    serving.await?;
    Ok(())
}

/// What signs lists, and what a pump takes over: lists that it or a trusted key signed. Mistakes go to `problems`.
fn seal(
    key: Option<&Path>,
    trusted: Option<&Path>,
    namespace: &str,
    problems: &mut Vec<String>,
) -> Option<(ListSealer, ListOpener)> {
    let Some(path) = key else {
        if trusted.is_some() {
            problems.push(
                "list_keys is set and list_key is not: a pump that signs nothing could not take over its own lists"
                    .to_owned(),
            );
        }
        return None;
    };
    let read = || {
        let named = |problem: &dyn std::fmt::Display| format!("list_key: {}: {problem}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
        let key = SigningKey::from_pem(&text).map_err(|error| named(&error))?;
        let own = key.public_pem().map_err(|error| named(&error))?;
        let keys = match trusted {
            Some(trusted) => {
                super::trusted_keys(trusted, &own).map_err(|problem| format!("list_keys: {problem}"))?
            }
            None => TrustedKeys::from_pem(&own).map_err(|error| named(&error))?,
        };
        Ok::<_, String>((
            ListSealer::signing(namespace, key),
            ListOpener::trusting(namespace, keys),
        ))
    };
    read().map_err(|problem| problems.push(problem)).ok()
}
