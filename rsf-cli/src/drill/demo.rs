//! The running demo as a drill sees it: its processes, its stores, and whether it is well.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rsf::state::DevFiles;
use rsf_console::ConsoleClient;
use rsf_registry::RegistryUrl;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;
use crate::dev::{PROCESSES_FILE, PUMP_CONFIG_FILE};

const START_IT: &str = "start it in another terminal: make demo BACKEND=cluster";
/// What Redis gets to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// `make demo BACKEND=cluster`, running.
pub(super) struct Demo {
    pub(super) registry: String,
    pub(super) namespace: String,
    pub(super) lease_ttl: Duration,
    redis: String,
    processes: PathBuf,
    console: ConsoleClient,
}

#[derive(Deserialize)]
struct PumpFile {
    pump: PumpTable,
}

#[derive(Deserialize)]
struct PumpTable {
    lease_ttl_ms: u64,
}

/// A process that stands still (SIGSTOP). It goes on when this is dropped.
#[derive(Debug)]
pub(super) struct Stopped {
    process: Option<Pid>,
}

impl Stopped {
    fn new(process: Pid) -> Result<Stopped, Failure> {
        kill_process(process, Signal::STOP)?;
        Ok(Stopped {
            process: Some(process),
        })
    }

    /// Lets it go on, and says so where that fails.
    pub(super) fn go_on(mut self) -> Result<(), Failure> {
        match self.process.take() {
            Some(process) => Ok(kill_process(process, Signal::CONT)?),
            None => Ok(()),
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(process) = self.process
            && let Err(error) = kill_process(process, Signal::CONT)
        {
            let pid = process.as_raw_nonzero();
            tracing::error!(%error, %pid, "a process that was stopped does not go on; do kill -CONT with its pid");
        }
    }
}

fn raw(process: u32) -> Result<Pid, Failure> {
    Ok(Pid::from_raw(i32::try_from(process)?).ok_or("a process without a number")?)
}

impl Demo {
    /// The demo of this state folder.
    pub(super) fn find() -> Result<Demo, Failure> {
        let files = DevFiles::within(&rsf::state::folder());
        let missing = || {
            format!(
                "no demo runs with the state folder {}; {START_IT}",
                files.folder().display()
            )
        };
        let registry = files.registry().ok_or_else(missing)?;
        let RegistryUrl::Cluster { redis, .. } = registry.parse()? else {
            return Err(format!(
                "the demo that runs keeps its registry in one process; end it and {START_IT}"
            )
            .into());
        };
        let [redis] = redis.as_slice() else {
            return Err("a drill knows demos with one Redis".into());
        };
        let config = std::fs::read_to_string(files.folder().join(PUMP_CONFIG_FILE))?;
        let config: PumpFile = toml::from_str(&config)?;
        let console = files.console().ok_or_else(missing)?;
        let token = files.token().ok_or_else(missing)?;
        Ok(Demo {
            namespace: files.namespace().unwrap_or_else(|| "default".to_owned()),
            lease_ttl: Duration::from_millis(config.pump.lease_ttl_ms),
            redis: redis.address().to_owned(),
            processes: files.folder().join(PROCESSES_FILE),
            console: ConsoleClient::new(&console, &token)?,
            registry,
        })
    }

    /// The id of a process of the demo.
    pub(super) fn process(&self, name: &str) -> Result<u32, Failure> {
        let text = std::fs::read_to_string(&self.processes)?;
        let processes: BTreeMap<String, u32> = serde_json::from_str(&text)?;
        let pid = processes.get(name).copied();
        pid.ok_or_else(|| format!("the demo has no process {name} just now").into())
    }

    /// Lets a process stand still until what this returns goes on or is dropped.
    pub(super) fn stop(&self, name: &str) -> Result<Stopped, Failure> {
        Stopped::new(raw(self.process(name)?)?)
    }

    /// Kills a process and waits until the demo has started it again.
    pub(super) async fn kill(&self, name: &str, comes_back: Duration) -> Result<(), Failure> {
        let killed = self.process(name)?;
        kill_process(raw(killed)?, Signal::KILL)?;
        let end = Instant::now() + comes_back;
        loop {
            match self.process(name) {
                Ok(pid) if pid != killed => return Ok(()),
                _ if Instant::now() > end => {
                    return Err(format!("the demo did not start {name} again within {comes_back:?}").into());
                }
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub(super) async fn empty_redis(&self) -> Result<(), Failure> {
        let asked = async {
            let mut connection = TcpStream::connect(&self.redis).await?;
            connection.write_all(b"FLUSHALL\r\nQUIT\r\n").await?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = timeout(ANSWER, asked).await??;
        if answer.starts_with("+OK") {
            return Ok(());
        }
        Err(format!("Redis does not empty itself: {}", answer.trim()).into())
    }

    /// Whether the pump leads, trusts its source, and has seen everybody who is listed.
    pub(super) async fn well(&self) -> Result<(), String> {
        let status = self.console.pump().await.map_err(|error| error.to_string())?;
        let waiting = |name: &str| status[name].as_u64().unwrap_or_default();
        if status["role"] != "leading" {
            return Err(format!("the pump is {}", status["role"]));
        }
        if status["ready"] != true {
            return Err(format!("the pump is not ready: {}", status["not_ready"]));
        }
        if waiting("unconfirmed") + waiting("lists_waiting") > 0 {
            return Err(format!(
                "{} listed instances are not confirmed, {} lists are not written",
                waiting("unconfirmed"),
                waiting("lists_waiting")
            ));
        }
        if status["holds"].as_array().is_some_and(|holds| !holds.is_empty()) {
            return Err(format!("instances are held: {}", status["holds"]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state of a process as the kernel says it: `T` where it stands still.
    fn state(pid: u32) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, after) = stat.rsplit_once(") ").unwrap();
        after.chars().next().unwrap()
    }

    async fn becomes(pid: u32, stopped: bool) {
        let looked = async {
            while (state(pid) == 'T') != stopped {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), looked).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_stopped_goes_on_however_the_drill_ends() {
        let mut command = tokio::process::Command::new("sleep");
        let child = command.arg("60").kill_on_drop(true).spawn().unwrap();
        let pid = child.id().unwrap();
        let interrupted = async {
            let _stopped = Stopped::new(raw(pid).unwrap()).unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = interrupted => {}
            () = becomes(pid, true) => {}
        }
        becomes(pid, false).await;
        let stopped = Stopped::new(raw(pid).unwrap()).unwrap();
        becomes(pid, true).await;
        stopped.go_on().unwrap();
        becomes(pid, false).await;
    }
}
