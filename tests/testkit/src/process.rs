//! A child process of a test: started with a log, signalled, waited for, and never outliving the test.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::eventually::poll;
use crate::temp_dir::TempDir;

/// How long a process may take to end after SIGKILL, or to stop after SIGSTOP.
const SIGNAL_TAKES_EFFECT: Duration = Duration::from_secs(10);

/// How much of each output is printed when a test fails, in bytes from the end.
const PRINTED: usize = 8 * 1024;

/// A running child of the test. On drop it is killed and reaped; where the test is failing, the end of its output is
/// printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
    stdout: PathBuf,
    stderr: PathBuf,
    _logs: Arc<TempDir>,
}

impl Process {
    /// Starts `command`, which is wrapped in setpriv, with its standard output and error going to `logs`.
    pub(crate) fn spawn(
        name: String,
        command: Command,
        [stdout, stderr]: [PathBuf; 2],
        logs: Arc<TempDir>,
    ) -> Self {
        match spawn(command) {
            Ok(Child {
                pid,
                pidfd,
                exit,
                waiter,
            }) => Process {
                name,
                pid,
                pidfd,
                exit,
                waiter: Some(waiter),
                stdout,
                stderr,
                _logs: logs,
            },
            Err(error) => panic!("cannot start {name} through setpriv (package util-linux): {error}"),
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, or `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it still runs after `within`.
    pub async fn wait(&self, within: Duration) -> ExitStatus {
        let mut exit = self.exit.clone();
        match timeout(within, exit.wait_for(Option::is_some)).await {
            Ok(Ok(status)) => status.unwrap_or_default(),
            Ok(Err(_)) => panic!("nobody waits for {self} any more"),
            Err(_) => panic!("{self} still runs after {within:?}"),
        }
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub async fn kill9(&self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait(SIGNAL_TAKES_EFFECT).await
    }

    /// Asks it to end (SIGTERM) and waits until it does.
    ///
    /// # Panics
    /// When it still runs after `within`.
    pub async fn terminate(&self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(within).await
    }

    /// Sends it what Ctrl-C sends (SIGINT) and waits until it ends.
    ///
    /// # Panics
    /// When it still runs after `within`.
    pub async fn interrupt(&self, within: Duration) -> ExitStatus {
        self.signal(Signal::INT);
        self.wait(within).await
    }

    /// Stops it (SIGSTOP) and returns when it stands still: its sockets stay open and nobody answers.
    ///
    /// # Panics
    /// When it has ended.
    pub async fn pause(&self) {
        self.signal(Signal::STOP);
        let stopped = async || match state(self.pid) {
            Some('T') => Ok(()),
            other => Err(format!("state {other:?}")),
        };
        if let Err(last) = poll(SIGNAL_TAKES_EFFECT, stopped).await {
            panic!("{self} does not stop: {last}");
        }
    }

    /// Lets it go on after [`pause`](Self::pause) (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for a line that contains `marker`, on standard output or standard error, and returns it.
    ///
    /// # Panics
    /// When it ends without one, or none came after `within`.
    pub async fn line(&self, marker: &str, within: Duration) -> String {
        let found = async || {
            [self.stdout(), self.stderr()]
                .iter()
                // A line that is still being written has no end yet.
                .flat_map(|text| text.split_inclusive('\n').filter(|line| line.ends_with('\n')))
                .find(|line| line.contains(marker))
                .map(|line| line.trim_end().to_owned())
                .ok_or("no such line")
        };
        self.ready(&format!("a line with {marker:?}"), within, found)
            .await
    }

    /// Waits until the file `path` is there and not empty, and returns its text.
    ///
    /// # Panics
    /// When the process ends without it, or it is not there after `within`.
    pub async fn file(&self, path: impl AsRef<Path>, within: Duration) -> String {
        let path = path.as_ref();
        let found = async || match fs::read_to_string(path) {
            Ok(text) if text.is_empty() => Err("the file is empty".to_owned()),
            Ok(text) => Ok(text),
            Err(error) => Err(error.to_string()),
        };
        self.ready(&format!("the file {}", path.display()), within, found)
            .await
    }

    /// Waits until `probe` returns `Ok`; `what` names it.
    ///
    /// # Panics
    /// When the process ends before, or `within` has passed.
    pub async fn ready<T, E: std::fmt::Display>(
        &self,
        what: &str,
        within: Duration,
        mut probe: impl AsyncFnMut() -> Result<T, E>,
    ) -> T {
        let looked = poll(within, async || {
            // In this order: what the process did last before it ended still counts.
            let ended = self.exit_status();
            match (probe().await, ended) {
                (Ok(value), _) => Ok(Ok(value)),
                (Err(seen), Some(_)) => Ok(Err(seen.to_string())),
                (Err(seen), None) => Err(seen),
            }
        });
        match looked.await {
            Ok(Ok(value)) => value,
            Ok(Err(seen)) => panic!("{self} ended without {what} ({seen})\n{}", self.log()),
            Err(seen) => panic!(
                "{self} gave no sign of {what} within {within:?} ({seen})\n{}",
                self.log()
            ),
        }
    }

    /// Everything that it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Everything that it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The end of both outputs, for the message of an assertion.
    pub fn log(&self) -> String {
        let mut text = format!("--- {self}\n");
        for path in [&self.stdout, &self.stderr] {
            let output = read(path);
            if !output.is_empty() {
                text.push_str(&format!(
                    "--- {}\n{}\n",
                    path.display(),
                    end_of(&output).trim_end()
                ));
            }
        }
        text
    }

    /// Sends a signal; a process that has ended takes it in silence.
    fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => panic!("cannot send {signal:?} to {self}: {error}"),
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.exit_status() {
            Some(status) => write!(f, "{} (process {}, {status})", self.name, self.id()),
            None => write!(f, "{} (process {}, running)", self.name, self.id()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        #[allow(clippy::print_stderr, reason = "the test harness shows it with the failure")]
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // A failure here would abort a test that is failing already; the kernel kills the child with the test anyway.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join();
        }
    }
}

/// A child that was started, and the thread that waits for it.
struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: JoinHandle<()>,
}

/// Starts `command` on a thread that then waits for it: the kernel ties the child's life to that thread, which must
/// therefore live as long as the child does.
fn spawn(mut command: Command) -> io::Result<Child> {
    let (started, outcome) = mpsc::sync_channel(1);
    let (ended, exit) = watch::channel(None);
    let waiter = std::thread::Builder::new()
        .name("waits for a child".to_owned())
        .spawn(move || {
            let opened = command.spawn().and_then(|child| {
                let pid = i32::try_from(child.id())
                    .ok()
                    .and_then(Pid::from_raw)
                    .ok_or(io::ErrorKind::InvalidData)?;
                Ok((child, pid, pidfd_open(pid, PidfdFlags::empty())?))
            });
            match opened {
                Ok((mut child, pid, pidfd)) => {
                    let _ = started.send(Ok((pid, pidfd)));
                    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
                    ended.send_replace(Some(status));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            }
        })?;
    let (pid, pidfd) = outcome.recv().map_err(io::Error::other)??;
    Ok(Child {
        pid,
        pidfd,
        exit,
        waiter,
    })
}

/// Logs of a foreign program may hold any bytes.
fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn end_of(text: &str) -> &str {
    let mut start = text.len().saturating_sub(PRINTED);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// The letter that the kernel gives the process's state: `T` is stopped.
fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name in parentheses may itself hold any character.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}
