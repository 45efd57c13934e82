//! Processes that end with this one, whatever ends it.
//!
//! Programs of our own watch their standard input: its end is the parent's end. Foreign servers are run through
//! `setpriv --pdeathsig` where that is installed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Failure;

/// After this time a killed program of the shop is started again.
const RESTART_AFTER: Duration = Duration::from_secs(20);
/// What a program gets to come up.
const READY: Duration = Duration::from_secs(30);
/// What a program gets to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(40);

/// The processes that were started, with their ids.
#[derive(Clone)]
pub(super) struct Children {
    shared: Arc<Shared>,
}

struct Shared {
    pids: std::sync::Mutex<BTreeMap<String, u32>>,
    /// Ends our own programs, and then the servers that they still say good-bye to.
    end: CancellationToken,
    end_foreign: CancellationToken,
    tasks: TaskTracker,
    foreign_tasks: TaskTracker,
    log_folder: PathBuf,
    /// Where names and ids are told, for `rsf drill`. Without it nobody looks on, and standard output is not for them.
    told: Option<PathBuf>,
}

impl Children {
    /// None yet; their error output goes to files in `log_folder`, their names and ids to the file `told` where
    /// there is one.
    pub(super) fn new(log_folder: PathBuf, told: Option<PathBuf>) -> Self {
        let pids = std::sync::Mutex::default();
        let shared = Shared {
            pids,
            end: CancellationToken::new(),
            end_foreign: CancellationToken::new(),
            tasks: TaskTracker::new(),
            foreign_tasks: TaskTracker::new(),
            log_folder,
            told,
        };
        Children {
            shared: Arc::new(shared),
        }
    }

    /// Names and process ids of those that live.
    pub(super) fn pids(&self) -> Vec<(String, u32)> {
        self.lock()
            .iter()
            .map(|(name, pid)| (name.clone(), *pid))
            .collect()
    }

    /// Starts this very program with other arguments. It is started again when it dies, if `restart`.
    pub(super) fn own(
        &self,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, String)],
        restart: bool,
    ) -> Result<(), Failure> {
        let program = std::env::current_exe()?;
        let arguments: Vec<_> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let environment: Vec<_> = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect();
        let log = self.log(name)?;
        let start = move || -> std::io::Result<Child> {
            Command::new(&program)
                .args(&arguments)
                .envs(environment.iter().map(|(key, value)| (key, value)))
                .env(super::END_WITH_STDIN, "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(log.try_clone()?)
                // Ctrl-C in a terminal goes to a whole group: the order of the end is ours to keep.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
        };
        let child = start().map_err(|e| format!("cannot start {name}: {e}"))?;
        self.follow(name.to_owned(), child, restart.then_some(start));
        Ok(())
    }

    /// Starts a foreign server that must end with us. It is started again when it dies.
    pub(super) fn foreign(&self, name: &str, command: &[String]) -> Result<(), Failure> {
        let log = self.log(name)?;
        let tied = std::path::Path::new("/usr/bin/setpriv").exists();
        let words = tied.then(|| {
            ["setpriv", "--pdeathsig", "KILL", "--"]
                .map(str::to_owned)
                .to_vec()
        });
        let words: Vec<_> = words
            .into_iter()
            .flatten()
            .chain(command.iter().cloned())
            .collect();
        let start = move || -> std::io::Result<Child> {
            Command::new(&words[0])
                .args(&words[1..])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log.try_clone()?)
                // Ctrl-C in a terminal goes to the whole group; these end last.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
        };
        let child = start().map_err(|e| {
            format!(
                "cannot start {}: {e}; `make demo BACKEND=cluster` installs it",
                command[0]
            )
        })?;
        self.follow(name.to_owned(), child, Some(start));
        Ok(())
    }

    /// Kills one (SIGKILL).
    pub(super) fn kill(&self, name: &str) -> Result<(), Failure> {
        let pid = self.lock().get(name).copied();
        let number = pid.ok_or_else(|| format!("{name} does not run just now"))?;
        let pid = Pid::from_raw(i32::try_from(number)?).ok_or("a process without a number")?;
        Ok(kill_process(pid, Signal::KILL)?)
    }

    /// Waits until a child that was just started answers.
    pub(super) async fn ready<F: Future<Output = bool>>(
        &self,
        name: &str,
        answers: impl Fn() -> F,
    ) -> Result<(), Failure> {
        let end = Instant::now() + READY;
        while !answers().await {
            if Instant::now() > end {
                let log = self.shared.log_folder.join(format!("{name}.log"));
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

    /// Ends all of them, gracefully first, and waits.
    pub(super) async fn end(&self) {
        self.shared.end.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.end_foreign.cancel();
        self.shared.foreign_tasks.close();
        self.shared.foreign_tasks.wait().await;
    }

    fn log(&self, name: &str) -> Result<std::fs::File, Failure> {
        let path = self
            .shared
            .log_folder
            .join(format!("{}.log", name.replace('/', "-")));
        Ok(std::fs::File::create(&path).map_err(|e| format!("cannot write {}: {e}", path.display()))?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        self.shared
            .pids
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes that a process runs, or that it does not, and tells it.
    fn runs(&self, name: &str, pid: Option<u32>) {
        let mut pids = self.lock();
        match pid {
            Some(pid) => drop(pids.insert(name.to_owned(), pid)),
            None => drop(pids.remove(name)),
        }
        let Some(told) = &self.shared.told else { return };
        // The file appears whole; without it only drills are missing.
        let fresh = told.with_added_extension("new");
        let text = serde_json::to_string(&*pids).unwrap_or_default();
        if let Err(error) = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, told)) {
            tracing::warn!(%error, file = %told.display(), "the processes cannot be told");
        }
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        match self.shared.told {
            Some(_) => println!("{what}"),
            None => eprintln!("{what}"),
        }
    }

    fn follow(
        &self,
        name: String,
        mut child: Child,
        restart: Option<impl Fn() -> std::io::Result<Child> + Send + Sync + 'static>,
    ) {
        self.runs(&name, child.id());
        let children = self.clone();
        let foreign = child.stdin.is_none();
        let tasks = if foreign {
            &self.shared.foreign_tasks
        } else {
            &self.shared.tasks
        };
        tasks.spawn(async move {
            loop {
                if children.live(&name, child).await {
                    return;
                }
                children.runs(&name, None);
                let Some(start) = &restart else {
                    return children.say(format_args!(
                        "{name} has ended; see its log in {}",
                        children.shared.log_folder.display()
                    ));
                };
                children.say(format_args!(
                    "{name} is gone; it starts again in {} s",
                    RESTART_AFTER.as_secs()
                ));
                let pause = tokio::time::sleep(RESTART_AFTER);
                let end = if foreign {
                    &children.shared.end_foreign
                } else {
                    &children.shared.end
                };
                if end.run_until_cancelled(pause).await.is_none() {
                    return;
                }
                child = match start() {
                    Ok(child) => child,
                    Err(error) => {
                        return children.say(format_args!("{name} cannot be started again: {error}"));
                    }
                };
                children.runs(&name, child.id());
                children.say(format_args!(
                    "{name} runs again, pid {}",
                    child.id().unwrap_or_default()
                ));
            }
        });
    }

    /// Passes on what a child prints until it dies (`false`) or all shall end (`true`).
    async fn live(&self, name: &str, mut child: Child) -> bool {
        let stdin: Option<ChildStdin> = child.stdin.take();
        let end = if stdin.is_none() {
            &self.shared.end_foreign
        } else {
            &self.shared.end
        };
        let mut lines = child.stdout.take().map(|out| BufReader::new(out).lines());
        loop {
            let line = async {
                match &mut lines {
                    Some(lines) => lines.next_line().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = end.cancelled() => {
                    // The end of its input asks one of ours to end; a foreign server is stopped.
                    let foreign = stdin.is_none();
                    drop(stdin);
                    if foreign || tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                        let _ = child.kill().await;
                    }
                    return true;
                }
                _ = child.wait() => return false,
                line = line => match line {
                    Ok(Some(line)) => println!("[{name}] {line}"),
                    Ok(None) | Err(_) => lines = None,
                },
            }
        }
    }
}
