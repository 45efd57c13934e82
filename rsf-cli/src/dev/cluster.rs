//! Real Redis and ZooKeeper, and every part of RSF a process of its own.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::children::Children;
use super::files::RunningFiles;
use super::{ADAPTER_PORT, CONSOLE_PORT, DevArguments, PUMP_PORT, Places, banner, listen, open_shop};
use crate::Failure;
use crate::process::{private_folder, until_signal};

const REDIS_CONF: &str = include_str!("../../../deploy/redis.conf");
const ZOO_CFG: &str = include_str!("../../../deploy/zoo.cfg");
/// What a server gets to come up.
const READY: Duration = Duration::from_secs(30);

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
    let children = Children::new(private_folder(files.path("log"))?);
    let redis = start_redis(&children, &files).await?;
    let zookeeper = start_zookeeper(&children, &files).await?;
    let registry = format!("redis://{redis},zk://{zookeeper}");
    let environment = [
        ("RSF_REGISTRY", registry.clone()),
        ("RSF_NAMESPACE", arguments.namespace.clone()),
    ];

    let pump_admin = free(arguments.ports.pump_port, PUMP_PORT).await?;
    let pump_config = files.path("pump.toml");
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
        ready(name, &files, || async {
            TcpStream::connect(address.as_str()).await.is_ok()
        })
        .await?;
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
        open_shop(&children, &arguments, &registry)?;
    }
    banner(&places, &children, !arguments.no_shop);
    signal.cancelled().await;
    println!("\nending …");
    children.end().await;
    println!("ended");
    Ok(())
}

async fn start_redis(children: &Children, files: &RunningFiles) -> Result<String, Failure> {
    let address = free(None, 6379).await?;
    let folder = private_folder(files.path("redis"))?;
    let configuration = folder.join("redis.conf");
    std::fs::write(&configuration, REDIS_CONF)?;
    let port = address.rsplit(':').next().unwrap_or_default();
    let (configuration, folder) = (text(&configuration), text(&folder));
    let command = [
        "redis-server",
        &configuration,
        "--bind",
        "127.0.0.1",
        "--port",
        port,
        "--dir",
        &folder,
        "--daemonize",
        "no",
    ];
    children.foreign("redis", &command.map(str::to_owned))?;
    ready("redis", files, || asked(&address, b"PING\r\n", b"+PONG")).await?;
    Ok(address)
}

async fn start_zookeeper(children: &Children, files: &RunningFiles) -> Result<String, Failure> {
    let address = free(None, 2181).await?;
    let folder = private_folder(files.path("zookeeper"))?;
    let configuration = folder.join("zoo.cfg");
    let port = address.rsplit(':').next().unwrap_or_default();
    let own = format!(
        "\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n",
        folder.join("data").display()
    );
    std::fs::write(&configuration, format!("{ZOO_CFG}{own}"))?;
    let jars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";
    let configuration = text(&configuration);
    let command = [
        "java",
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dzookeeper.jmx.log4j.disable=true",
        "-cp",
        jars,
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        &configuration,
    ];
    children.foreign("zookeeper", &command.map(str::to_owned))?;
    ready("zookeeper", files, || {
        asked(&address, b"srvr", b"Zookeeper version")
    })
    .await?;
    Ok(address)
}

/// An address whose port is free now. The server that gets it binds it a moment later.
async fn free(asked: Option<u16>, preferred: u16) -> Result<String, Failure> {
    Ok(listen(asked, preferred).await?.local_addr()?.to_string())
}

async fn asked(address: &str, question: &[u8], answer: &[u8]) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(question).await?;
        let mut got = vec![0; 64];
        let n = stream.read(&mut got).await?;
        got.truncate(n);
        Ok::<_, std::io::Error>(got)
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), exchange).await, Ok(Ok(got)) if got.starts_with(answer))
}

async fn ready<F: Future<Output = bool>>(
    name: &str,
    files: &RunningFiles,
    probe: impl Fn() -> F,
) -> Result<(), Failure> {
    let end = Instant::now() + READY;
    while !probe().await {
        if Instant::now() > end {
            let log = files.path("log").join(format!("{name}.log"));
            return Err(format!(
                "{name} did not come up within {} s; see {}",
                READY.as_secs(),
                log.display()
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
