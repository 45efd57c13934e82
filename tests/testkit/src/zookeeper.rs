//! Real ZooKeeper servers, alone or as an ensemble, run with `deploy/zoo.cfg`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::eventually::eventually;
use crate::port::free_port;
use crate::process::Process;
use crate::program::Program;
use crate::temp_dir::TempDir;
use crate::workspace::deploy_file;

/// How long a start, an election or an end may take; on an idle machine one server starts in 0.5 s, three in 1.5 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where Debian's packages put ZooKeeper and the logger that it needs.
const CLASS_PATH: [&str; 2] = [
    "/usr/share/java/zookeeper.jar",
    "/usr/share/java/slf4j-simple.jar",
];

/// A ZooKeeper server of the test's own. Its ports and its data stay the same over restarts; it is killed on drop.
#[derive(Debug)]
pub struct ZooKeeper {
    address: SocketAddr,
    data: TempDir,
    logs: Arc<TempDir>,
    /// What this server's configuration has besides `deploy/zoo.cfg`.
    settings: String,
    /// The server's number in its ensemble.
    id: Option<usize>,
    process: Process,
}

impl ZooKeeper {
    /// Starts one empty server and returns when it serves.
    ///
    /// # Panics
    /// When it cannot be started; so do all methods that start or end it.
    pub async fn start() -> Self {
        let server = Self::launch_new("", None, free_port());
        server.serves().await;
        server
    }

    /// Starts `count` empty servers that vote among themselves, and returns when all serve.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn ensemble(count: usize) -> Ensemble {
        let members: String = (1..=count)
            .map(|id| format!("server.{id}=127.0.0.1:{}:{}\n", free_port(), free_port()))
            .collect();
        let servers = (1..=count)
            .map(|id| Self::launch_new(&members, Some(id), free_port()))
            .collect();
        let ensemble = Ensemble { servers };
        ensemble.serves().await;
        ensemble
    }

    /// The same with one server more that observes: it answers clients and does not vote.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn ensemble_and_observer(voters: usize) -> (Ensemble, Self) {
        let number = voters + 1;
        let members: String = (1..=number)
            .map(|id| {
                let role = if id == number { ":observer" } else { "" };
                format!("server.{id}=127.0.0.1:{}:{}{role}\n", free_port(), free_port())
            })
            .collect();
        let servers = (1..=voters)
            .map(|id| Self::launch_new(&members, Some(id), free_port()))
            .collect();
        let ensemble = Ensemble { servers };
        ensemble.serves().await;
        let role = match fs::read_to_string(deploy_file("zoo-observer.cfg")) {
            Ok(role) => role,
            Err(error) => panic!("cannot read deploy/zoo-observer.cfg: {error}"),
        };
        let observer = Self::launch_new(&format!("{members}{role}"), Some(number), free_port());
        observer.serves().await;
        (ensemble, observer)
    }

    /// One figure of its monitoring (`mntr`), such as `zk_local_sessions`.
    ///
    /// # Errors
    /// What it answered instead, or why it did not; it answers within 2 s or not at all.
    pub async fn figure(&self, name: &str) -> Result<i64, String> {
        let answer = tokio::time::timeout(Duration::from_secs(2), four_letters(self.address, "mntr"))
            .await
            .map_err(|_| "no answer to mntr within 2 s".to_owned())?
            .map_err(|error| error.to_string())?;
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        line.and_then(|value| value.trim().parse::<f64>().ok())
            .map(|value| value as i64)
            .ok_or_else(|| format!("mntr has no {name}: {answer}"))
    }

    /// `zk://127.0.0.1:<port>`, the second half of `RSF_REGISTRY`.
    pub fn url(&self) -> String {
        format!("zk://{}", self.address)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub async fn kill9(&self) -> ExitStatus {
        self.process.kill9().await
    }

    /// Ends it in good order (SIGTERM).
    pub async fn stop(&self) -> ExitStatus {
        self.process.terminate(PATIENCE).await
    }

    /// Kills it where it still runs, starts it again with the same ports and data, and returns when it serves.
    pub async fn restart(&mut self) {
        self.launch_again().await;
        self.serves().await;
    }

    /// Kills it where it still runs and deletes its data; [`restart`](Self::restart) then starts it empty.
    pub async fn wipe(&mut self) {
        self.kill9().await;
        // The configuration beside it is written anew by the next start.
        let path = self.data.join("version-2");
        if path.exists()
            && let Err(error) = fs::remove_dir_all(&path)
        {
            panic!("cannot remove {}: {error}", path.display());
        }
    }

    /// Stops it (SIGSTOP): connections stay open and nobody answers.
    pub async fn pause(&self) {
        self.process.pause().await;
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.process.resume();
    }

    /// The role that it plays now: `standalone`, `leader`, `follower` or `observer`.
    ///
    /// # Errors
    /// What it answered instead, or why it did not; it answers within 2 s or not at all.
    pub async fn mode(&self) -> Result<String, String> {
        let answer = tokio::time::timeout(Duration::from_secs(2), four_letters(self.address, "srvr"))
            .await
            .map_err(|_| "no answer to srvr within 2 s".to_owned())?
            .map_err(|error| error.to_string())?;
        let mode = answer.lines().find_map(|line| line.strip_prefix("Mode: "));
        mode.map(str::to_owned)
            .ok_or_else(|| format!("srvr was answered by {answer:?}"))
    }

    /// The process, for its id and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    fn launch_new(members: &str, id: Option<usize>, port: u16) -> Self {
        let name = id.map_or_else(|| "zookeeper".to_owned(), |id| format!("zookeeper-{id}"));
        let data = TempDir::new(&format!("{name}-data"));
        let logs = Arc::new(TempDir::new(&format!("{name}-logs")));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        // The last line for a key wins, so these come after the shared file.
        let settings = format!(
            "\nclientPortAddress={}\nclientPort={port}\ndataDir={}\n{members}",
            address.ip(),
            data.path().display()
        );
        let process = launch(data.path(), &logs, &settings, id);
        ZooKeeper {
            address,
            data,
            logs,
            settings,
            id,
            process,
        }
    }

    async fn launch_again(&mut self) {
        self.kill9().await;
        self.process = launch(self.data.path(), &self.logs, &self.settings, self.id);
    }

    async fn serves(&self) {
        self.process
            .ready("serving", PATIENCE, async || self.mode().await)
            .await;
    }
}

/// Several ZooKeeper servers that vote among themselves.
#[derive(Debug)]
pub struct Ensemble {
    /// The servers, each to be broken by itself.
    pub servers: Vec<ZooKeeper>,
}

impl Ensemble {
    /// `zk://127.0.0.1:<port>,127.0.0.1:<port>,…`, the second half of `RSF_REGISTRY`.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self
            .servers
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        format!("zk://{}", addresses.join(","))
    }

    /// The place in [`servers`](Self::servers) of the one that leads now, once there is one.
    ///
    /// # Panics
    /// When no election ends within a minute.
    pub async fn leader(&self) -> usize {
        eventually(PATIENCE, async || {
            let mut seen = Vec::new();
            for (place, server) in self.servers.iter().enumerate() {
                match server.mode().await {
                    Ok(mode) if mode == "leader" => return Ok(place),
                    other => seen.push(other),
                }
            }
            Err(format!("no leader among {seen:?}"))
        })
        .await
    }

    /// Kills all servers (SIGKILL).
    pub async fn kill9(&self) {
        for server in &self.servers {
            server.kill9().await;
        }
    }

    /// Kills all servers and deletes their data; [`restart`](Self::restart) then starts them empty.
    pub async fn wipe(&mut self) {
        self.kill9().await;
        for server in &mut self.servers {
            server.wipe().await;
        }
    }

    /// Kills those that still run, starts all with the same ports and data, and returns when all serve.
    pub async fn restart(&mut self) {
        self.kill9().await;
        for server in &mut self.servers {
            server.launch_again().await;
        }
        self.serves().await;
    }

    async fn serves(&self) {
        for server in &self.servers {
            server.serves().await;
        }
    }
}

fn launch(data: &Path, logs: &Arc<TempDir>, settings: &str, id: Option<usize>) -> Process {
    for jar in CLASS_PATH {
        assert!(
            Path::new(jar).exists(),
            "{jar} is missing: `deploy/install-test-tools.sh zookeeper` installs it, as `make test` does"
        );
    }
    let configuration = data.join("zoo.cfg");
    let shared = fs::read_to_string(deploy_file("zoo.cfg"));
    let written = shared.and_then(|shared| {
        fs::write(&configuration, shared + settings)?;
        id.map_or(Ok(()), |id| fs::write(data.join("myid"), id.to_string()))
    });
    if let Err(error) = written {
        panic!("cannot write {}: {error}", configuration.display());
    }
    let name = id.map_or_else(|| "zookeeper".to_owned(), |id| format!("zookeeper-{id}"));
    Program::new("java")
        .name(name)
        // A small heap and the plain collector: tests start many servers on small machines.
        .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args([
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dzookeeper.jmx.log4j.disable=true",
        ])
        .args([
            "-cp",
            &CLASS_PATH.join(":"),
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        ])
        .arg(&configuration)
        .start_in(Arc::clone(logs))
}

/// Sends one of ZooKeeper's four-letter commands and returns the answer.
async fn four_letters(address: SocketAddr, command: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(command.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}
