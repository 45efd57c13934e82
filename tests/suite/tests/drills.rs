//! `rsf drill` against `rsf dev --backend cluster`: what it breaks, what it says, and how it ends.

use std::time::Duration;

use rsf_suite::SOON;
use rsf_testkit::{Output, Process, Program, TempDir};

/// A drill waits for two TTLs and for the demo, which starts a killed program again after 20 s.
const DRILL: Duration = Duration::from_secs(150);
const GRACE: Duration = Duration::from_secs(50);

#[tokio::test]
async fn an_emptied_redis_mass_expiry_and_a_dead_pump_are_felt_by_nobody() {
    let state = TempDir::new("state");
    let demo = demo(&state, &["--backend", "cluster"]).await;
    for (fault, told) in [
        ("empty-redis", "emptying Redis"),
        ("mass-expiry", "stopping redis, pid "),
        ("kill-pump", "killing pump, pid "),
    ] {
        let output = drill(&state, fault).await;
        let seen = format!("{fault}: {} {}", output.stdout, output.stderr);
        assert!(output.stdout.contains(told), "{seen}\n{}", demo.log());
        assert!(output.stdout.contains(", failed: 0\n"), "{seen}\n{}", demo.log());
        assert!(output.stdout.ends_with("passed\n"), "{seen}\n{}", demo.log());
        assert_eq!(output.status.code(), Some(0), "{seen}");
    }
    assert!(demo.terminate(GRACE).await.success(), "{}", demo.log());
}

#[tokio::test]
async fn without_a_demo_on_redis_and_zookeeper_it_says_what_to_start() {
    let state = TempDir::new("state");
    refused(&drill(&state, "kill-redis").await, "no demo runs");
    let demo = demo(&state, &[]).await;
    refused(&drill(&state, "kill-redis").await, "in one process");
    assert!(demo.terminate(GRACE).await.success(), "{}", demo.log());
}

/// The negative control: a demo whose providers are dead is no ground for a drill, and the drill notices.
#[tokio::test]
async fn a_demo_without_providers_is_not_drilled() {
    let state = TempDir::new("state");
    let demo = demo(&state, &["--backend", "cluster", "--no-shop"]).await;
    let output = drill(&state, "empty-redis").await;
    assert_eq!(
        output.status.code(),
        Some(1),
        "{} {}",
        output.stdout,
        output.stderr
    );
    assert!(!output.stdout.contains("passed"), "{}", output.stdout);
    assert!(
        output.stderr.contains("shop.v1.MemberService"),
        "{}",
        output.stderr
    );
    assert!(demo.terminate(GRACE).await.success(), "{}", demo.log());
}

async fn demo(state: &TempDir, arguments: &[&str]) -> Process {
    let demo = Program::workspace("rsf")
        .name("dev")
        .arg("dev")
        .args(arguments)
        .args(["--lease-ttl-ms", "8000", "--rate", "20"])
        .env("RSF_STATE", state.path())
        .start();
    demo.line("Ctrl-C ends", SOON).await;
    demo
}

async fn drill(state: &TempDir, fault: &str) -> Output {
    Program::workspace("rsf")
        .name("drill")
        .args(["drill", fault])
        .env("RSF_STATE", state.path())
        .output(DRILL)
        .await
}

fn refused(output: &Output, why: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", output.stdout);
    assert!(output.stderr.contains(why), "{}", output.stderr);
    assert!(
        output.stderr.contains("make demo BACKEND=cluster"),
        "{}",
        output.stderr
    );
}
