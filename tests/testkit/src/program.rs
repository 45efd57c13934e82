//! A command that a test runs as its child: what it is called with, and how it is tied to the test.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::process::Process;
use crate::temp_dir::{TempDir, file_name};
use crate::workspace;

/// A command that is going to run as a child of the test.
#[derive(Debug, Clone)]
#[must_use = "a program does nothing until it is started"]
pub struct Program {
    path: PathBuf,
    name: String,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    group: Option<u32>,
}

impl Program {
    /// A program by its path, or by its name on `PATH`. It is called by its file name in logs.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        Program {
            path,
            name,
            args: Vec::new(),
            envs: Vec::new(),
            dir: None,
            group: None,
        }
    }

    /// A binary of this workspace; see [`binary`](crate::binary).
    pub fn workspace(name: &str) -> Self {
        Self::new(workspace::binary(name))
    }

    /// What logs and failures call it, for tests that run several of one program (`provider-2`).
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable. The test's own environment is inherited without its `RSF_*` variables, so that a
    /// developer's settings do not reach the programs under test.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The folder to run in; the test's own by default.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs it as another group, by whose number nftables tells its packets from those of others. Only root may.
    pub fn group(mut self, id: u32) -> Self {
        self.group = Some(id);
        self
    }

    /// Starts it, with no standard input and its output in files of a [`TempDir`] of its own.
    ///
    /// # Panics
    /// When the program cannot be found or started.
    pub fn start(self) -> Process {
        let program = find(&self.path);
        let logs = Arc::new(TempDir::new(&self.name));
        Program {
            path: program,
            ..self
        }
        .start_in(logs)
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started, or runs for longer than `within`; it is killed then.
    pub async fn output(self, within: Duration) -> Output {
        let process = self.start();
        let status = process.wait(within).await;
        Output {
            status,
            stdout: process.stdout(),
            stderr: process.stderr(),
        }
    }

    /// Starts it with its output in `logs`, which lives at least as long as the process.
    pub(crate) fn start_in(self, logs: Arc<TempDir>) -> Process {
        let program = find(&self.path);
        let (stdout, stderr) = log_files(&logs, &self.name);
        // The kernel kills the child when the thread that started it ends, see `Process::spawn`, or with the test as a
        // whole. A program that the child starts in turn is the child's to look after.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(id) = self.group {
            command.args(["--regid", &id.to_string(), "--clear-groups"]);
        }
        command.arg("--").arg(program).args(&self.args);
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"RSF_")) {
            command.env_remove(key);
        }
        command.envs(self.envs.iter().map(|(key, value)| (key, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
            .stdin(Stdio::null())
            .stdout(create(&stdout))
            .stderr(create(&stderr));
        Process::spawn(self.name, command, [stdout, stderr], logs)
    }
}

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything that it wrote to standard output.
    pub stdout: String,
    /// Everything that it wrote to standard error.
    pub stderr: String,
}

/// The program's full path: `setpriv` could only report a missing one in the child's log.
fn find(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        assert!(program.is_file(), "there is no program {}", program.display());
        return program.to_owned();
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps some servers out of a plain user's PATH.
    let folders = std::env::split_paths(&search).chain(["/usr/sbin".into(), "/sbin".into()]);
    match folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
    {
        Some(path) => path,
        None => panic!(
            "{} is not installed: `deploy/install-test-tools.sh` installs what tests need, as `make test` does",
            program.display()
        ),
    }
}

/// The first pair of names that is free: a server that is restarted keeps the logs of its earlier runs.
fn log_files(logs: &TempDir, name: &str) -> (PathBuf, PathBuf) {
    let name = file_name(name);
    let mut run = 1;
    while logs.join(format!("{name}.{run}.stdout")).exists() {
        run += 1;
    }
    (
        logs.join(format!("{name}.{run}.stdout")),
        logs.join(format!("{name}.{run}.stderr")),
    )
}

fn create(path: &Path) -> File {
    match File::create(path) {
        Ok(file) => file,
        Err(error) => panic!("cannot create {}: {error}", path.display()),
    }
}
