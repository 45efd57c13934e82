//! `rsf dev`: the whole of RSF on this machine, with a demo shop whose calls can be watched and governed.
//!
//! - [`embedded`]: registry, pump, console and adapter in this process; nothing to install.
//! - [`cluster`]: real Redis and ZooKeeper, and every part a process of its own.
//! - [`children`]: processes that end with this one, whatever ends it.

mod children;
mod cluster;
mod embedded;
mod files;
pub(crate) mod stores;

use std::net::SocketAddr;
use std::path::Path;

use clap::{Args, ValueEnum};
use tokio::net::TcpListener;

use crate::Failure;
use children::Children;

/// Where the demo keeps its registry.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BackendKind {
    /// In this process; nothing to install
    Embedded,
    /// Real Redis and ZooKeeper, from packages
    Cluster,
}

/// Flags of `rsf dev`.
#[derive(Args)]
pub(crate) struct DevArguments {
    /// Where the registry is kept
    #[arg(long, value_enum, default_value = "embedded")]
    backend: BackendKind,
    /// The environment
    #[arg(long, env = "RSF_NAMESPACE", default_value = "default")]
    namespace: String,
    /// No demo shop: registry, pump, console and adapter only
    #[arg(long)]
    no_shop: bool,
    /// Milliseconds that leases live without renewal
    #[arg(long, env = "RSF_LEASE_TTL_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(1_000..=600_000))]
    lease_ttl_ms: u64,
    /// Calls a second of the shop's consumer
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rate: u32,
    #[command(flatten)]
    ports: Ports,
}

/// Ports of 127.0.0.1 that `rsf dev` must have. One that is not set is the usual one, or any where that is taken.
#[derive(Args)]
struct Ports {
    /// The registry's port; an error where it is taken [default: 7600, or a free one]
    #[arg(long)]
    registry_port: Option<u16>,
    /// The console's port; an error where it is taken [default: 7601, or a free one]
    #[arg(long)]
    console_port: Option<u16>,
    /// The HTTP adapter's port; an error where it is taken [default: 8080, or a free one]
    #[arg(long)]
    adapter_port: Option<u16>,
    /// The pump's admin port; an error where it is taken [default: 7610, or a free one]
    #[arg(long)]
    pump_port: Option<u16>,
}

/// The ports that `rsf dev` takes if they are free; else it takes any.
const REGISTRY_PORT: u16 = 7600;
const CONSOLE_PORT: u16 = 7601;
const ADAPTER_PORT: u16 = 8080;
const PUMP_PORT: u16 = 7610;
/// The shop's provider instances.
const PROVIDERS: usize = 3;

/// Names and ids of the processes that run, JSON, in the folder of what `rsf dev` leaves behind.
pub(crate) const PROCESSES_FILE: &str = "processes.json";
/// The configuration of a cluster's pump there.
pub(crate) const PUMP_CONFIG_FILE: &str = "pump.toml";

/// Set for the processes that `rsf dev` starts.
pub(crate) const END_WITH_STDIN: &str = "RSF_END_WITH_STDIN";

/// Ends this process gracefully when its standard input ends: when whoever started it is gone, however it went.
pub(crate) fn end_with_stdin() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    });
}

pub(crate) async fn run(arguments: DevArguments) -> Result<(), Failure> {
    match arguments.backend {
        BackendKind::Embedded => embedded::run(arguments).await,
        BackendKind::Cluster => cluster::run(arguments).await,
    }
}

/// The port that was asked for; or else the preferred one, or a free one where it is taken.
async fn listen(asked: Option<u16>, preferred: u16) -> Result<TcpListener, Failure> {
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    if let Some(port) = asked {
        let bound = TcpListener::bind(local(port)).await;
        return Ok(bound.map_err(|error| {
            format!(
                "cannot listen on {}: {error}; ask for another port, or for none",
                local(port)
            )
        })?);
    }
    for port in [preferred, 0] {
        match TcpListener::bind(local(port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if port == 0 => return Err(format!("no port of 127.0.0.1 can be had: {error}").into()),
            Err(_) => {}
        }
    }
    Err("no port of 127.0.0.1 can be had".into())
}

/// Where everything runs, for the words on the screen.
struct Places {
    registry: String,
    namespace: String,
    console: String,
    token: String,
    adapter: String,
}

/// Starts the shop's programs.
fn open_shop(
    children: &Children,
    arguments: &DevArguments,
    registry: &str,
    token_file: &Path,
) -> Result<(), Failure> {
    let environment = [
        ("RSF_REGISTRY", registry.to_owned()),
        ("RSF_NAMESPACE", arguments.namespace.clone()),
        ("RSF_LEASE_TTL_MS", arguments.lease_ttl_ms.to_string()),
        ("RSF_ADMIN_TOKEN_FILE", token_file.display().to_string()),
    ];
    for number in 1..=PROVIDERS {
        let name = number.to_string();
        let mut environment = environment.to_vec();
        environment.push((
            "RSF_ZONE",
            if number == PROVIDERS { "south" } else { "north" }.to_owned(),
        ));
        environment.push(("RSF_INSTANCE", name.clone()));
        children.own(&format!("shop/{name}"), &["shop", "provider"], &environment, true)?;
    }
    let rate = arguments.rate.to_string();
    children.own(
        "shopper",
        &["shop", "consumer", "--rate", &rate],
        &environment,
        true,
    )
}

fn banner(places: &Places, children: &Children, shop: bool) {
    println!("\nRSF runs on this machine, namespace `{}`.\n", places.namespace);
    println!("  registry   {}", places.registry);
    println!("  console    {}/login?token={}", places.console, places.token);
    println!("  HTTP/JSON  {}", places.adapter);
    for (name, pid) in children.pids() {
        println!("  {name:<10} pid {pid}");
    }
    if !shop {
        return println!("\nCtrl-C ends it.\n");
    }
    println!("\nTry, in another terminal:\n");
    println!(
        "  curl -s -H 'content-type: application/json' -d '{{\"id\":1}}' \\\n    {}/shop.v1.MemberService/Get",
        places.adapter
    );
    println!("  rsf call shop.v1.MemberService/Get '{{\"id\":1}}'");
    println!("  rsf policy set service/shop.v1.MemberService call.timeout_ms=200");
    println!("  rsf nodes shop.v1.MemberService");
    println!("  rsf pump status");
    if let Some((name, pid)) = children
        .pids()
        .into_iter()
        .find(|(name, _)| name.starts_with("shop/"))
    {
        println!(
            "\nKill a provider and watch the calls go on: kill -9 {pid}   ({name}; it starts again after 20 s)"
        );
    }
    println!("\n(`rsf` is target/debug/rsf until you install it.) Ctrl-C ends everything.\n");
}
