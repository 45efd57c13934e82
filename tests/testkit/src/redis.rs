//! A real Redis server, run with `deploy/redis.conf`.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::port::free_port;
use crate::process::Process;
use crate::program::Program;
use crate::temp_dir::TempDir;
use crate::workspace::deploy_file;

/// How long a start or an end may take; it takes 50 ms on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis server of the test's own. Its port stays the same over restarts; it is killed on drop.
#[derive(Debug)]
pub struct RedisServer {
    address: SocketAddr,
    data: TempDir,
    logs: Arc<TempDir>,
    options: Vec<OsString>,
    process: Process,
}

impl RedisServer {
    /// Starts an empty server and returns when it answers.
    ///
    /// # Panics
    /// When it cannot be started; so do all methods that start or end it.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`start`](Self::start), with options that go before those in `deploy/redis.conf`: `["--hz", "500"]`.
    pub async fn start_with(options: &[&str]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let data = TempDir::new("redis-data");
        let logs = Arc::new(TempDir::new("redis-logs"));
        let options: Vec<OsString> = options.iter().map(OsString::from).collect();
        let process = launch(address, &data, &logs, &options);
        let server = RedisServer {
            address,
            data,
            logs,
            options,
            process,
        };
        server.answers().await;
        server
    }

    /// `redis://127.0.0.1:<port>`, the first half of `RSF_REGISTRY`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub async fn kill9(&self) -> ExitStatus {
        self.process.kill9().await
    }

    /// Ends it in good order (SIGTERM); with `deploy/redis.conf` that saves nothing either.
    pub async fn stop(&self) -> ExitStatus {
        self.process.terminate(PATIENCE).await
    }

    /// Kills it where it still runs, and starts it again on the same port with the data of the last
    /// [`save`](Self::save), or with none.
    pub async fn restart(&mut self) {
        self.kill9().await;
        self.process = launch(self.address, &self.data, &self.logs, &self.options);
        self.answers().await;
    }

    /// As [`restart`](Self::restart), but empty in any case.
    pub async fn restart_empty(&mut self) {
        self.kill9().await;
        let dump = self.data.join("dump.rdb");
        if dump.exists()
            && let Err(error) = fs::remove_file(&dump)
        {
            panic!("cannot remove {}: {error}", dump.display());
        }
        self.restart().await;
    }

    /// Kills it and puts `other`, which goes on running with its data, at its address: as a failover behind one virtual
    /// address does.
    pub async fn replace_with(&mut self, mut other: RedisServer) {
        self.kill9().await;
        other
            .tell(&format!("CONFIG SET port {}", self.address.port()))
            .await;
        other.address = self.address;
        other.answers().await;
        *self = other;
    }

    /// Writes all keys to disk now, for the next [`restart`](Self::restart) to find.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn save(&self) {
        if let Err(seen) = ask(self.address, "SAVE", "+OK").await {
            panic!("{} does not save: {seen}", self.process);
        }
    }

    /// Sends one command that must succeed, in Redis' inline form (`CONFIG SET hz 100`, arguments with spaces in quotes), and
    /// returns the answer as it comes over the wire.
    ///
    /// # Panics
    /// When there is none, or it is an error.
    pub async fn tell(&self, command: &str) -> String {
        match answer(self.address, command).await {
            Ok(answer) if !answer.starts_with('-') => answer,
            other => panic!("{} answers {command} with {other:?}", self.process),
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

    /// The answer to one command, `REPLICAOF NO ONE`: the first line for a plain one, all of it for a text.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub async fn command(&self, command: &str) -> Result<String, String> {
        let answer = answer(self.address, command).await?;
        match answer.strip_prefix('$') {
            Some(text) => Ok(text.to_owned()),
            None => Ok(answer.lines().next().unwrap_or_default().to_owned()),
        }
    }

    /// The process, for its id and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    async fn answers(&self) {
        self.process
            .ready("an answer to PING", PATIENCE, async || {
                ask(self.address, "PING", "+PONG").await
            })
            .await;
    }
}

fn launch(address: SocketAddr, data: &TempDir, logs: &Arc<TempDir>, options: &[OsString]) -> Process {
    Program::new("redis-server")
        .arg(deploy_file("redis.conf"))
        .args([
            "--bind",
            &address.ip().to_string(),
            "--port",
            &address.port().to_string(),
        ])
        .arg("--dir")
        .arg(data.path())
        .args(options)
        .start_in(Arc::clone(logs))
}

/// Sends one command, and checks how the answer begins.
async fn ask(address: SocketAddr, command: &str, expected: &str) -> Result<(), String> {
    let answer = answer(address, command).await?;
    match answer.starts_with(expected) {
        true => Ok(()),
        false => Err(format!("{command} was answered by {answer:?}")),
    }
}

/// Sends one command in Redis' inline form on a connection of its own.
async fn answer(address: SocketAddr, command: &str) -> Result<String, String> {
    let describe = |error: std::io::Error| error.to_string();
    let mut connection = TcpStream::connect(address).await.map_err(describe)?;
    connection
        .write_all(format!("{command}\r\nQUIT\r\n").as_bytes())
        .await
        .map_err(describe)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.map_err(describe)?;
    Ok(answer)
}
