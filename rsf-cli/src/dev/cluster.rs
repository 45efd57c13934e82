//! Real Redis and ZooKeeper, and every part of RSF a process of its own.

use std::path::Path;

use tokio::net::TcpStream;

use super::children::Children;
use super::files::RunningFiles;
use super::stores;
use super::{ADAPTER_PORT, CONSOLE_PORT, DevArguments, PUMP_PORT, Places, banner, listen, open_shop};
use crate::Failure;
use crate::process::{private_folder, until_signal};

pub(super) async fn run(arguments: DevArguments) -> Result<(), Failure> {
    if arguments.ports.registry_port.is_some() {
        return Err(
            "--registry-port belongs to the embedded registry; leave it out with --backend cluster".into(),
        );
    }
    let state = rsf::state::folder();
    let files = RunningFiles::take(&state)?;
    let token = files.token("token")?;
    let signal = until_signal()?;
    let children = Children::new(
        private_folder(files.path("log"))?,
        Some(files.path(super::PROCESSES_FILE)),
    );
    let folder = files.path("");
    let redis = stores::start_redis(&children, &folder).await?;
    let zookeeper = stores::start_zookeeper(&children, &folder).await?;
    let registry = format!("redis://{redis},zk://{zookeeper}");
    let environment = [
        ("RSF_REGISTRY", registry.clone()),
        ("RSF_NAMESPACE", arguments.namespace.clone()),
    ];

    let pump_admin = free(arguments.ports.pump_port, PUMP_PORT).await?;
    let pump_config = files.path(super::PUMP_CONFIG_FILE);
    let sweep = 5_000.min(arguments.lease_ttl_ms);
    std::fs::write(
        &pump_config,
        format!(
            "[pump]\nlease_ttl_ms = {}\nsweep_ms = {sweep}\n",
            arguments.lease_ttl_ms
        ),
    )?;
    let pump_token = text(&files.path("token"));
    let (pump_config, pump_state) = (text(&pump_config), text(&files.path("pump-cluster.state")));
    let pump = [
        "pump",
        "--admin",
        &pump_admin,
        "--config",
        &pump_config,
        "--state-file",
        &pump_state,
        "--token-file",
        &pump_token,
    ];
    children.own("pump", &pump, &environment, true)?;

    let console = free(arguments.ports.console_port, CONSOLE_PORT).await?;
    let (database, token_file) = (
        text(&files.path("console-cluster.sqlite")),
        text(&files.path("token")),
    );
    let pump_url = format!("http://{pump_admin}");
    let arguments_of_console = [
        "console",
        "--listen",
        &console,
        "--database",
        &database,
        "--token-file",
        &token_file,
        "--pump",
        &pump_url,
    ];
    children.own("console", &arguments_of_console, &environment, true)?;
    let adapter = free(arguments.ports.adapter_port, ADAPTER_PORT).await?;
    children.own("adapter", &["adapter", "--listen", &adapter], &environment, true)?;
    for (name, address) in [
        ("pump", &pump_admin),
        ("console", &console),
        ("adapter", &adapter),
    ] {
        let answers = || async { TcpStream::connect(address.as_str()).await.is_ok() };
        children.ready(name, answers).await?;
    }
    let places = Places {
        registry: registry.clone(),
        namespace: arguments.namespace.clone(),
        console: format!("http://{console}"),
        token: token.expose().to_owned(),
        adapter: format!("http://{adapter}"),
    };
    files.announce(
        &registry,
        &arguments.namespace,
        &places.console,
        &places.adapter,
        &pump_url,
    )?;
    if !arguments.no_shop {
        open_shop(&children, &arguments, &registry, &files.path("token"))?;
    }
    banner(&places, &children, !arguments.no_shop);
    signal.cancelled().await;
    println!("\nending …");
    children.end().await;
    println!("ended");
    Ok(())
}

/// An address whose port is free now. The server that gets it binds it a moment later.
pub(super) async fn free(asked: Option<u16>, preferred: u16) -> Result<String, Failure> {
    Ok(listen(asked, preferred).await?.local_addr()?.to_string())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
