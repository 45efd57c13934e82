//! Child processes: output, signals, and that none of them outlives its test.

use std::path::Path;
use std::time::Duration;

use rsf_testkit::{Program, TempDir, eventually, example};

const SOON: Duration = Duration::from_secs(20);
const LATER: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_program_that_ends_leaves_its_status_and_output() {
    let output = Program::new("sh")
        .args(["-c", "echo out; echo err >&2; exit 3"])
        .output(SOON)
        .await;
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
}

#[tokio::test]
async fn a_line_is_waited_for_and_returned_whole() {
    let script = "printf 'port='; sleep 0.2; echo 8080 ready; exec sleep 600";
    let process = Program::new("sh").args(["-c", script]).start();
    assert_eq!(process.line("port=", SOON).await, "port=8080 ready");
    assert_eq!(process.exit_status(), None);
}

#[tokio::test]
async fn a_file_is_waited_for() {
    let dir = TempDir::new("file");
    let script = "sleep 0.1; echo 127.0.0.1:1 > registry.tmp; mv registry.tmp registry; exec sleep 600";
    let process = Program::new("sh")
        .args(["-c", script])
        .current_dir(dir.path())
        .start();
    assert_eq!(process.file(dir.join("registry"), SOON).await, "127.0.0.1:1\n");
}

#[tokio::test]
#[should_panic(expected = "exit status: 7) ended without a line with \"ready\"")]
async fn a_program_that_ends_too_early_is_not_waited_for() {
    Program::new("sh")
        .args(["-c", "exit 7"])
        .start()
        .line("ready", Duration::from_secs(600))
        .await;
}

#[tokio::test]
#[should_panic(expected = "no-such-server is not installed: `deploy/install-test-tools.sh`")]
async fn a_program_that_is_not_installed_is_named_with_what_to_do() {
    Program::new("no-such-server").start();
}

#[tokio::test]
async fn signals_stop_continue_and_end_a_program() {
    let script = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let process = Program::new("sh").args(["-c", script]).start();
    process.line("ready", SOON).await;

    process.pause().await;
    assert_eq!(state(process.id()).as_deref(), Some("T"));
    process.resume();
    let status = process.terminate(SOON).await;
    assert!(status.success(), "{}", process.log());
    assert_eq!(process.stdout(), "ready\nasked\n");

    let process = Program::new("sleep").arg("600").start();
    assert_eq!(process.kill9().await.to_string(), "signal: 9 (SIGKILL)");
}

#[tokio::test]
async fn a_developers_settings_do_not_reach_the_program() {
    // The example stands for a test that was started with settings in its environment; it prints what a child sees.
    let test = Program::new(example("holds_children"))
        .env("RSF_ZONE", "a")
        .env("ZONE", "b")
        .start();
    test.line("children ", LATER).await;
    let inherited = test.stdout();
    assert!(inherited.lines().any(|line| line == "ZONE=b"), "{inherited}");
    assert!(!inherited.contains("RSF_"), "{inherited}");
}

#[tokio::test]
async fn a_process_ends_when_it_is_dropped() {
    let process = Program::new("sleep").arg("600").start();
    let id = process.id();
    drop(process);
    assert_eq!(state(id), None);
}

#[tokio::test]
async fn a_process_outlives_the_task_and_the_thread_that_started_it() {
    let process = std::thread::spawn(|| Program::new("sleep").arg("600").start())
        .join()
        .unwrap();
    // The kernel would have killed it with the thread by the time that a second child ran to its end.
    Program::new("true").output(SOON).await;
    assert_eq!(process.exit_status(), None);
}

#[tokio::test]
async fn servers_die_with_a_test_that_is_killed() {
    let test = Program::new(example("holds_children")).start();
    let line = test.line("children ", LATER).await;
    let servers: Vec<u32> = line.split(' ').skip(1).map(|id| id.parse().unwrap()).collect();
    assert_eq!(servers.len(), 2, "{line}");
    assert!(servers.iter().all(|&id| state(id).is_some()), "{}", test.log());

    test.kill9().await;
    for id in servers {
        eventually(SOON, async || match state(id) {
            // A zombie has ended; its new parent may be slow to reap it.
            None => Ok(()),
            Some(state) if state == "Z" => Ok(()),
            Some(state) => Err(format!("server {id} is in state {state}")),
        })
        .await;
    }
}

/// The state letter of a process, or `None` where there is no such process.
fn state(id: u32) -> Option<String> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.chars().take(1).collect())
}
