//! `rsf explain` on running processes: what it says before a call, and what it saw of one.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test has nothing better to do with an error, and shows what it printed"
)]

use std::collections::BTreeSet;

use rsf_console::model::PutPolicy;
use rsf_core::control::Scope;
use rsf_suite::{Kind, Lists, MEMBERS, SOON, Site};
use serde_json::{Value, json};

/// How long the providers take for a call; longer than a hedge waits, so that a call is made twice.
const LATENCY_MS: &str = "400";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_explains_a_call_and_shows_its_attempts() {
    let site = Site::start(Kind::Embedded).await;
    let of = |zone| [("SHOP_LATENCY_MS", LATENCY_MS), ("RSF_ZONE", zone)];
    let (east, west) = (of("east"), of("west"));
    let _providers = tokio::join!(
        site.provider("1", &east),
        site.provider("2", &east),
        site.provider("3", &west),
        site.provider("4", &east),
    );
    let watching = site.consumer("watching").await;
    Lists::become_these(&watching, &["shop/1", "shop/2", "shop/3", "shop/4"], SOON).await;
    let document = json!({
        "call": {
            "timeout_ms": 2750,
            "retry": {"hedge_delay_ms": 30},
            "routing": {"rules": [{"same_zone": {}}]},
        },
        "instances": [{"instance": "shop/4", "disabled": true}],
    });
    let scope = Scope::Service(MEMBERS.to_owned());
    let put = PutPolicy {
        document,
        ..PutPolicy::default()
    };
    site.console().put(&scope, &put).await.expect("a good policy");

    let explain = async |arguments: &[&str]| {
        let call = format!("{MEMBERS}/Get");
        let rsf = site
            .rsf("cli")
            .args(["explain", &call, r#"{"id":7}"#, "--zone", "east"]);
        rsf.args(arguments).output(SOON).await
    };

    let output = explain(&["--json", "--call"]).await;
    assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
    let said: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let explanation = &said["explanation"];
    let removed = |instance: &str, reason: &str| json!([{"instance": instance, "reason": reason}]);
    assert_eq!(
        explanation["route"]["left_out"],
        removed("shop/4", "is disabled by policy")
    );
    assert_eq!(
        explanation["route"]["rules"][0]["removed"],
        removed("shop/3", "in zone west")
    );
    assert_eq!(explanation["documents"], json!([format!("{scope}@1")]));
    assert_eq!(said["not_in_force"], json!([]));
    assert_eq!(explanation["time_ms"], 2750);
    assert_eq!(explanation["stopped"], Value::Null);
    let candidates = explanation["candidates"].as_array().expect("candidates");
    assert_eq!(candidates.len(), 2, "{explanation}");
    assert!(
        candidates.iter().all(|seen| seen["candidate"]["tier"] == "well"),
        "{explanation}"
    );
    // Both east instances are attempted, the second as a hedge; the first is one that was named.
    let attempts = said["call"]["attempts"].as_array().expect("attempts");
    let instances: BTreeSet<_> = attempts
        .iter()
        .map(|attempt| attempt["instance"].as_str())
        .collect();
    assert_eq!(
        instances,
        BTreeSet::from([Some("shop/1"), Some("shop/2")]),
        "{said}"
    );
    let first = attempts
        .iter()
        .find(|attempt| attempt["hedge"] == false)
        .expect("a first attempt");
    let named = explanation["first"]["among"].as_array().expect("names");
    assert!(named.contains(&first["instance"]), "{said}");
    let hedge = attempts
        .iter()
        .find(|attempt| attempt["hedge"] == true)
        .expect("a hedge");
    assert!(hedge["begun_ms"].as_f64() >= Some(30.0), "{said}");
    assert_eq!(said["call"]["reply"]["id"], "7", "{said}");

    let text = explain(&[]).await.stdout;
    let origin = format!("service/{MEMBERS}@1");
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for wanted in [
        format!("timeout_ms 2750 {origin}"),
        "takes no calls: shop/4 is disabled by policy".to_owned(),
        "shop/3 is in zone west".to_owned(),
    ] {
        assert!(lines.contains(&wanted), "{wanted}\n{text}");
    }
    assert!(
        lines.iter().any(|line| line.starts_with("would go to shop/")),
        "{text}"
    );
    println!("{text}");

    let failed = site
        .rsf("cli")
        .args(["explain", &format!("{MEMBERS}/Get"), "{\"id\":7}", "--call"]);
    let failed = failed.args(["--timeout-ms", "200"]).output(SOON).await;
    assert_eq!(failed.status.code(), Some(1), "{}", failed.stdout);
    assert!(
        failed.stdout.contains("under way") && failed.stdout.contains("DEADLINE_EXCEEDED"),
        "{}",
        failed.stdout
    );
    println!("{}", failed.stdout);
    site.stop().await;
}
