//! `rsf dev` as a newcomer meets it: everything printed is true, and everything ends with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers may panic"
)]

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rsf_suite::SOON;
use rsf_testkit::{Output, Process, Program, TempDir, binary, eventually};

/// What the demo gets to end; a provider's running calls alone get 30 s.
const GRACE: Duration = Duration::from_secs(50);
/// Killed programs start again after 20 s, and that long the test waits and somewhat longer.
const RESTART: Duration = Duration::from_secs(45);

/// A running `rsf dev`, as somebody started it in a terminal.
struct Demo {
    process: Process,
    state: TempDir,
    /// The ports that it would rather have, taken by somebody else.
    _taken: Vec<TcpListener>,
    banner: String,
}

impl Demo {
    async fn start(arguments: &[&str]) -> Demo {
        let state = TempDir::new("state");
        // Where binding fails, somebody else has the port already: as good.
        let taken = [7600, 7601, 7610, 8080, 6379, 2181]
            .into_iter()
            .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .collect();
        // A group of its own, as a shell gives each command: Ctrl-C goes to all of it.
        let process = Program::new("setsid")
            .name("dev")
            .arg(binary("rsf"))
            .arg("dev")
            .args(arguments)
            .env("RSF_STATE", state.path())
            .start();
        process.line("Ctrl-C ends everything", SOON).await;
        let banner = process.stdout();
        Demo {
            process,
            state,
            _taken: taken,
            banner,
        }
    }

    /// What stands behind `name` in the banner.
    fn place(&self, name: &str) -> &str {
        let line = self
            .banner
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{}", self.banner))
            .trim()
    }

    /// The commands that the banner tells to try, with their continuation lines.
    fn commands(&self) -> Vec<String> {
        let tries = self
            .banner
            .split("Try, in another terminal:")
            .nth(1)
            .expect("something to try");
        let joined = tries.replace("\\\n", " ");
        let commands = joined.lines().map(str::trim);
        commands
            .filter(|line| line.starts_with("curl ") || line.starts_with("rsf "))
            .map(str::to_owned)
            .collect()
    }

    /// Runs a line as it was printed, in another terminal.
    async fn shell(&self, line: &str) -> Output {
        let bin = binary("rsf").parent().map(Path::to_owned).unwrap_or_default();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        Program::new("sh")
            .args(["-c", line])
            .env("PATH", path)
            .env("RSF_STATE", self.state.path())
            .output(SOON)
            .await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state.join("dev").join(name)
    }

    /// What the shopper has printed so far, a map of its numbers for each line.
    fn shopper(&self) -> Vec<HashMap<String, f64>> {
        let output = self.process.stdout();
        let lines = output
            .lines()
            .filter_map(|line| line.strip_prefix("[shopper] calls/s="));
        let numbers = |line: &str| {
            line.split_whitespace()
                .filter_map(|pair| {
                    let (key, value) = pair.split_once('=')?;
                    Some((key.to_owned(), value.parse().ok()?))
                })
                .collect()
        };
        lines.map(numbers).collect()
    }

    /// Waits until the shopper has told of so many more seconds, all of them without an error at an idempotent call.
    async fn shopping_goes_on(&self, seconds: usize) {
        let before = self.shopper().len();
        eventually(SOON, async || {
            let told = self.shopper().len();
            if told >= before + seconds {
                Ok(())
            } else {
                Err(format!("{told} lines"))
            }
        })
        .await;
        for line in self.shopper() {
            assert_eq!(line["idempotent_failed"], 0.0, "{}", self.process.log());
            assert!(line["ok"] > 0.0, "{}", self.process.log());
        }
    }

    /// Calls that failed so far.
    fn failed(&self) -> f64 {
        self.shopper().iter().map(|line| line["failed"]).sum()
    }
}

/// The process and all that descend from it, with the moments of their starts: a number alone may be given again.
fn family(root: u32) -> Vec<(u32, String)> {
    let parents: HashMap<u32, u32> = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let descends = |mut pid: u32| {
        while pid != root {
            match parents.get(&pid) {
                Some(&parent) if parent != 0 => pid = parent,
                _ => return false,
            }
        }
        true
    };
    let members = parents.keys().copied().filter(|&pid| descends(pid));
    members
        .filter_map(|pid| Some((pid, stat(pid)?.get(19)?.clone())))
        .collect()
}

/// The fields of `/proc/<pid>/stat` behind the name: state, parent, and so on; the 20th is the start.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Those that still run; one that nobody has waited for yet has ended all the same.
fn alive(family: &[(u32, String)]) -> Vec<u32> {
    let runs = |(pid, start): &&(u32, String)| {
        stat(*pid).is_some_and(|fields| fields[0] != "Z" && fields.get(19) == Some(start))
    };
    family.iter().filter(runs).map(|(pid, _)| *pid).collect()
}

async fn gone(family: &[(u32, String)], within: Duration) {
    eventually(within, async || match alive(family) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?} still run")),
    })
    .await;
}

async fn signal(signal: &str, whom: &str) {
    let sent = Program::new("kill").args([signal, "--", whom]).output(SOON).await;
    assert!(sent.status.success(), "{}", sent.stderr);
}

/// The whole tour, from the first line to the end.
async fn tour(arguments: &[&str], processes: usize) {
    let demo = Demo::start(arguments).await;
    let started = family(demo.process.id());
    assert!(started.len() >= processes, "{started:?} of {processes}");

    // All commands, as they are printed.
    let commands = demo.commands();
    assert_eq!(commands.len(), 5, "{commands:?}");
    for (command, told) in commands.iter().zip([
        r#""email":"member1@shop.example""#,
        r#""email":"member1@shop.example""#,
        "service/shop.v1.MemberService is now at revision 1",
        "shop/1",
        "leading",
    ]) {
        // The demo's programs start beside the banner.
        let output = eventually(SOON, async || {
            let output = demo.shell(command).await;
            if output.status.success() && output.stdout.contains(told) {
                Ok(output)
            } else {
                Err(format!(
                    "{command}: {} {} {}",
                    output.status, output.stdout, output.stderr
                ))
            }
        })
        .await;
        assert_eq!(output.stderr, "", "{command}");
    }

    console_opens(&demo).await;
    demo.shopping_goes_on(3).await;
    assert_eq!(demo.failed(), 0.0, "{}", demo.process.log());

    provider_dies_and_comes_back(&demo).await;

    let running = family(demo.process.id());
    signal("-INT", &format!("-{}", demo.process.id())).await;
    let status = demo.process.wait(GRACE).await;
    assert_eq!(status.code(), Some(0), "{}", demo.process.log());
    assert!(
        demo.process.stdout().ends_with("ended\n"),
        "{}",
        demo.process.log()
    );
    assert_eq!(demo.process.stderr(), "");
    assert_eq!(alive(&running), [0; 0], "nothing is left when it has ended");
    for name in ["registry", "namespace", "console", "adapter"] {
        assert!(!demo.file(name).exists(), "{name} is still there");
    }
    let after = demo.shell("rsf call shop.v1.MemberService/Get").await;
    assert_eq!(after.status.code(), Some(1));
    assert!(
        after.stderr.contains("`rsf dev` does not run here"),
        "{}",
        after.stderr
    );
}

/// The printed link begins a session and leads to the page, whose requests are then answered.
async fn console_opens(demo: &Demo) {
    let link = demo.place("console");
    let no_cookies = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let client = no_cookies.build().unwrap();
    let answer = client.get(link).send().await.unwrap();
    assert!(answer.status().is_redirection(), "{}", answer.status());
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let base = link.split("/login").next().unwrap();
    let get = async |path: &str| {
        let answer = client
            .get(format!("{base}{path}"))
            .header("cookie", &cookie)
            .send()
            .await;
        answer.unwrap().error_for_status().unwrap().text().await.unwrap()
    };
    assert!(get("/").await.contains("<html"), "the page");
    assert!(get("/api/v1/services").await.contains("shop.v1.MemberService"));
    let stranger = client
        .get(format!("{base}/api/v1/services"))
        .send()
        .await
        .unwrap();
    assert_eq!(stranger.status(), 401);
}

async fn provider_dies_and_comes_back(demo: &Demo) {
    let hint = demo
        .banner
        .lines()
        .find(|line| line.contains("kill -9 "))
        .expect("whom to kill");
    let pid: u32 = hint
        .split("kill -9 ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .expect("a process id");
    let name = hint
        .split('(')
        .nth(1)
        .and_then(|rest| rest.split(';').next())
        .expect("its name");
    assert_eq!(demo.place(name), format!("pid {pid}"));
    signal("-KILL", &pid.to_string()).await;
    demo.process
        .line(&format!("{name} is gone; it starts again in 20 s"), SOON)
        .await;
    demo.shopping_goes_on(3).await;
    // An order is not idempotent: one that was under way at the killed provider may be lost, and is not sent twice.
    let lost = demo.failed();
    assert!(lost <= 5.0, "{lost} orders failed\n{}", demo.process.log());

    demo.process
        .line(&format!("{name} runs again, pid "), RESTART)
        .await;
    eventually(SOON, async || {
        let output = demo.shell("rsf nodes shop.v1.MemberService").await;
        let up = |line: &&str| line.starts_with(name) && line.contains(" up ");
        match output.stdout.lines().find(up) {
            Some(_) => Ok(()),
            None => Err(output.stdout),
        }
    })
    .await;
    demo.shopping_goes_on(2).await;
    assert_eq!(
        demo.failed(),
        lost,
        "no call fails after the first moment\n{}",
        demo.process.log()
    );
}

/// Whatever ends `rsf dev`, nothing that it started stays.
async fn killed(arguments: &[&str]) {
    let demo = Demo::start(arguments).await;
    demo.shopping_goes_on(1).await;
    let started = family(demo.process.id());
    demo.process.kill9().await;
    gone(&started, GRACE).await;
    // Its folder is free for the next one.
    let next = Program::workspace("rsf")
        .args(["dev", "--no-shop"])
        .env("RSF_STATE", demo.state.path())
        .start();
    next.line("Ctrl-C ends it.", SOON).await;
    assert!(next.terminate(GRACE).await.success(), "{}", next.log());
}

#[tokio::test]
async fn embedded_the_tour() {
    // rsf dev, three providers, the shopper.
    tour(&[], 5).await;
}

#[tokio::test]
async fn cluster_the_tour() {
    // Besides: Redis, ZooKeeper, pump, console, adapter.
    tour(&["--backend", "cluster"], 10).await;
}

#[tokio::test]
async fn embedded_killed_it_leaves_nothing_behind() {
    killed(&[]).await;
}

#[tokio::test]
async fn cluster_killed_it_leaves_nothing_behind() {
    killed(&["--backend", "cluster"]).await;
}
