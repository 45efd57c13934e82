//! `rsf bench` with a small fleet on Redis and ZooKeeper of its own: its figures are JSON, and add up.

use std::time::Duration;

use rsf_testkit::Program;
use serde_json::Value;

/// What a small fleet takes, its servers' starts, restarts and ends included.
const LIMIT: Duration = Duration::from_secs(200);

#[tokio::test]
async fn a_small_fleets_changes_all_come_to_its_consumer() {
    let fleet = [
        "registry",
        "--leases",
        "300",
        "--services",
        "150",
        "--watched",
        "50",
    ];
    let short = ["--seconds", "3", "--ttl", "15", "--release-per-mille", "50"];
    let figures = bench(&[&fleet[..], &short].concat()).await;
    assert_eq!(figures["largest_service"], 20, "{figures}");
    assert_eq!(figures["lists_complete_at_consumer"], true, "{figures}");
    for part in ["single_changes", "rolling_release"] {
        let part = &figures[part];
        assert_eq!(part["change_to_consumer"]["changes_not_seen"], 0, "{figures}");
        assert!(
            part["change_to_consumer"]["count"].as_u64() > Some(0),
            "{figures}"
        );
        assert!(part["lists_written"].as_u64() > Some(0), "{figures}");
        assert!(part["zookeeper_transactions"].as_u64() > Some(0), "{figures}");
    }
    let gone = &figures["deaths"]["death_to_consumer"]["count"];
    assert!(gone.as_u64() > Some(0), "{figures}");
    assert_eq!(figures["renewals_alone"]["lists_written"], 0, "{figures}");
    assert_eq!(figures["acknowledgements"]["read_by_a_console"], 300, "{figures}");
    assert_eq!(
        figures["takeover"]["lists_complete_at_consumer"], true,
        "{figures}"
    );
    assert!(figures["pump_memory_most_mib"].as_u64() > Some(0), "{figures}");
}

#[tokio::test]
async fn all_sessions_are_back_after_restarts_and_cost_no_transactions() {
    let consumers = [
        "sessions",
        "--sessions",
        "60",
        "--watched",
        "10",
        "--services",
        "30",
    ];
    let figures = bench(&consumers).await;
    for part in [
        "start",
        "one_server_restarts",
        "all_servers_restart",
        "every_list_changes",
    ] {
        let told = ["everybody_has_every_list_s", "everybody_has_the_next_lists_s"];
        assert!(
            told.iter().any(|name| figures[part][name].is_f64()),
            "{part}: {figures}"
        );
    }
    assert_eq!(figures["start"]["transactions"], 0, "{figures}");
    for part in ["one_server_restarts", "all_servers_restart"] {
        // The writer's session is one that the ensemble knows; those of 60 consumers are not.
        let transactions = figures[part]["transactions_until_then"].as_u64();
        assert!(transactions.is_some_and(|count| count < 10), "{part}: {figures}");
    }
    assert!(
        figures["start"]["sessions"]["local"].as_u64() >= Some(60),
        "{figures}"
    );
}

#[tokio::test]
async fn sizes_that_do_not_go_together_are_refused_with_advice() {
    let output = Program::workspace("rsf")
        .name("bench")
        .args([
            "bench",
            "registry",
            "--registry",
            "redis://127.0.0.1:1,zk://127.0.0.1:1",
        ])
        .args(["--leases", "10"])
        .output(LIMIT)
        .await;
    assert_eq!(output.status.code(), Some(1), "{}", output.stdout);
    assert!(
        output.stderr.contains("use at least 30 leases"),
        "{}",
        output.stderr
    );
}

async fn bench(arguments: &[&str]) -> Value {
    let output = Program::workspace("rsf")
        .name("bench")
        .arg("bench")
        .args(arguments)
        .output(LIMIT)
        .await;
    assert_eq!(output.status.code(), Some(0), "{}", output.stderr);
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", output.stdout))
}
