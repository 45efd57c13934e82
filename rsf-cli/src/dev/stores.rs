//! Redis and ZooKeeper on this machine, as children: what `rsf dev --backend cluster` and `rsf bench` run on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::children::Children;
use super::cluster::free;
use crate::Failure;
use crate::process::private_folder;

const REDIS_CONF: &str = include_str!("../../../deploy/redis.conf");
const ZOO_CFG: &str = include_str!("../../../deploy/zoo.cfg");
/// Where Debian's packages put ZooKeeper and the logger that it needs.
const JARS: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";
/// ZooKeeper's heap for a demo, and for a fleet's lists and watches.
const SMALL: &str = "-Xmx256m";
const LARGE: &str = "-Xmx2g";

/// A Redis and ZooKeeper servers of this program's own. They end with it, and their data goes.
pub(crate) struct OwnStores {
    children: Children,
    redis: String,
    pub(crate) zookeepers: Vec<String>,
    folder: PathBuf,
}

impl OwnStores {
    /// Starts them empty, with their data in `folder`, and returns when they serve.
    pub(crate) async fn start(folder: PathBuf, zookeepers: usize) -> Result<OwnStores, Failure> {
        let folder = private_folder(folder)?;
        let children = Children::new(private_folder(folder.join("log"))?, None);
        let redis = start_redis(&children, &folder).await?;
        let zookeepers = match zookeepers {
            1 => vec![start_one(&children, &folder, LARGE).await?],
            several => start_ensemble(&children, &folder, several).await?,
        };
        Ok(OwnStores {
            children,
            redis,
            zookeepers,
            folder,
        })
    }

    /// `redis://…,zk://…`
    pub(crate) fn registry(&self) -> String {
        format!("redis://{},zk://{}", self.redis, self.zookeepers.join(","))
    }

    /// Kills ZooKeeper servers by their places (SIGKILL). They start again by themselves.
    pub(crate) fn kill_zookeepers(&self, places: impl Iterator<Item = usize>) -> Result<(), Failure> {
        for place in places {
            self.children.kill(&zookeeper(place))?;
        }
        Ok(())
    }

    /// Ends them.
    pub(crate) async fn end(self) {
        self.children.end().await;
        // What is left of it is in a folder for such things.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub(super) async fn start_redis(children: &Children, folder: &Path) -> Result<String, Failure> {
    let address = free(None, 6379).await?;
    let folder = private_folder(folder.join("redis"))?;
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
    children
        .ready("redis", || asked(&address, b"PING\r\n", b"+PONG"))
        .await?;
    Ok(address)
}

pub(super) async fn start_zookeeper(children: &Children, folder: &Path) -> Result<String, Failure> {
    start_one(children, folder, SMALL).await
}

async fn start_one(children: &Children, folder: &Path, heap: &str) -> Result<String, Failure> {
    let address = free(None, 2181).await?;
    launch_zookeeper(children, "zookeeper", folder, &address, "", heap)?;
    zookeeper_serves(children, "zookeeper", &address).await?;
    Ok(address)
}

/// Several servers that vote among themselves.
async fn start_ensemble(children: &Children, folder: &Path, servers: usize) -> Result<Vec<String>, Failure> {
    let (mut members, mut addresses) = (String::new(), Vec::new());
    for place in 0..servers {
        let (peer, election) = (free(None, 0).await?, free(None, 0).await?);
        let election = election.rsplit(':').next().unwrap_or_default();
        members.push_str(&format!("server.{}={peer}:{election}\n", place + 1));
        addresses.push(free(None, 0).await?);
    }
    for (place, address) in addresses.iter().enumerate() {
        let data = private_folder(private_folder(folder.join(zookeeper(place)))?.join("data"))?;
        std::fs::write(data.join("myid"), (place + 1).to_string())?;
        launch_zookeeper(children, &zookeeper(place), folder, address, &members, LARGE)?;
    }
    for (place, address) in addresses.iter().enumerate() {
        zookeeper_serves(children, &zookeeper(place), address).await?;
    }
    Ok(addresses)
}

fn zookeeper(place: usize) -> String {
    format!("zookeeper-{}", place + 1)
}

fn launch_zookeeper(
    children: &Children,
    name: &str,
    folder: &Path,
    address: &str,
    members: &str,
    heap: &str,
) -> Result<(), Failure> {
    let folder = private_folder(folder.join(name))?;
    let configuration = folder.join("zoo.cfg");
    let port = address.rsplit(':').next().unwrap_or_default();
    // The last line for a key wins, so these come after the shared file.
    let own = format!(
        "\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n{members}",
        folder.join("data").display()
    );
    std::fs::write(&configuration, format!("{ZOO_CFG}{own}"))?;
    let configuration = text(&configuration);
    let command = [
        "java",
        heap,
        "-XX:+UseSerialGC",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dzookeeper.jmx.log4j.disable=true",
        "-cp",
        JARS,
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        &configuration,
    ];
    children.foreign(name, &command.map(str::to_owned))
}

async fn zookeeper_serves(children: &Children, name: &str, address: &str) -> Result<(), Failure> {
    children
        .ready(name, || asked(address, b"srvr", b"Zookeeper version"))
        .await
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

fn text(path: &Path) -> String {
    path.display().to_string()
}
