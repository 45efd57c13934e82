//! What pump, Redis and ZooKeeper cost: processor time, memory, writes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rsf_registry::RegistryUrl;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::Failure;

/// Processor time is counted in hundredths of a second by the kernel.
const TICKS_A_SECOND: f64 = 100.0;
/// What a server gets for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A pump of the bench's own: this very program, ended with it.
pub(super) struct PumpProcess {
    child: Child,
    pid: u32,
    admin: String,
}

impl PumpProcess {
    /// Starts it and returns when its admin port answers.
    pub(super) async fn start(
        registry: &str,
        namespace: &str,
        settings: &str,
        folder: &Folder,
    ) -> Result<PumpProcess, Failure> {
        let config = folder.path().join("pump.toml");
        std::fs::write(&config, settings)?;
        let log = std::fs::File::create(folder.path().join("pump.log"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["pump", "--admin", "127.0.0.1:0", "--name", "bench"])
            .arg("--config")
            .arg(&config)
            .env("RSF_REGISTRY", registry)
            .env("RSF_NAMESPACE", namespace)
            .env("RSF_LOG", "warn")
            .env(crate::dev::END_WITH_STDIN, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the pump has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(Duration::from_secs(30), lines.next_line()).await??;
        let admin = line
            .as_deref()
            .and_then(|line| line.rsplit_once("admin port "))
            .map(|(_, admin)| admin.trim().to_owned())
            .ok_or_else(|| format!("the pump did not start; see {}", folder.path().display()))?;
        let pid = child.id().ok_or("the pump has ended")?;
        Ok(PumpProcess { child, pid, admin })
    }

    /// What it says of itself.
    pub(super) async fn status(&self) -> Result<Value, Failure> {
        let page = reqwest::get(format!("{}/status", self.admin)).await?;
        Ok(page.error_for_status()?.json().await?)
    }

    /// Its processor time so far, seconds.
    pub(super) fn cpu(&self) -> Result<f64, Failure> {
        processor_time(self.pid)
    }

    /// Its resident memory, MiB, now and at most.
    pub(super) fn memory(&self) -> Result<(u64, u64), Failure> {
        memory(self.pid)
    }

    /// Kills it (SIGKILL).
    pub(super) async fn kill(mut self) -> Result<(), Failure> {
        Ok(self.child.kill().await?)
    }

    /// Ends it.
    pub(super) async fn end(mut self) {
        // It ends with its standard input; whatever it does, it is killed when this is dropped.
        drop(self.child.stdin.take());
        let _ = timeout(Duration::from_secs(10), self.child.wait()).await;
    }
}

/// A process' processor time so far, seconds.
pub(super) fn processor_time(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may itself hold blanks.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_A_SECOND)
}

/// How many threads of this machine wanted a processor in the last minute.
pub(super) fn load_average() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let first = text.split_whitespace().next().unwrap_or_default();
    Ok(first.parse()?)
}

/// A process' resident memory, MiB, now and at most.
pub(super) fn memory(pid: u32) -> Result<(u64, u64), Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or_default()
    };
    Ok((kib("VmRSS:") / 1024, kib("VmHWM:") / 1024))
}

/// Redis' processor time so far, seconds; `None` where it does not say (a password, another form of URL).
pub(super) async fn redis_cpu(url: &RegistryUrl) -> Option<f64> {
    let RegistryUrl::Cluster { redis, .. } = url else {
        return None;
    };
    let mut total = 0.0;
    for server in redis {
        let answer = exchange(server.address(), "INFO cpu\r\nQUIT\r\n").await?;
        let number = |name: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<f64>().ok()
        };
        total += number("used_cpu_sys:")? + number("used_cpu_user:")?;
    }
    Some(total)
}

/// The number of ZooKeeper's last transaction: every write of anybody, sessions included.
pub(super) async fn zookeeper_transactions(url: &RegistryUrl) -> Option<u64> {
    let RegistryUrl::Cluster { zookeeper, .. } = url else {
        return None;
    };
    let answer = exchange(zookeeper.first()?, "srvr").await?;
    let zxid = answer.lines().find_map(|line| line.strip_prefix("Zxid: 0x"))?;
    u64::from_str_radix(zxid.trim(), 16).ok()
}

/// What a server answers to one question; `None` where it does not.
pub(super) async fn exchange(address: &str, question: &str) -> Option<String> {
    let asked = async {
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(question.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    timeout(ANSWER, asked).await.ok()?.ok()
}

/// A folder that goes with its owner.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Folder, Failure> {
        let path = std::env::temp_dir().join(format!("rsf-bench-{}", std::process::id()));
        Ok(Folder(crate::process::private_folder(path)?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
