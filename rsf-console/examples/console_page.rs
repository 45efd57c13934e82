//! Serves the console's page over invented services and instances, to look at it: `cargo run --example console_page`.

#![allow(clippy::print_stdout, reason = "it says where to look")]
#![allow(clippy::unwrap_used, reason = "it stands on the tests' twin of the stores")]

#[path = "../tests/console/twin.rs"]
mod twin;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use parking_lot::Mutex;
use rsf_console::model::PatchPolicy;
use rsf_core::control::Scope;
use rsf_registry::record::RemovalCause;
use tokio::net::TcpListener;
use tokio::time::Instant;
use twin::{Served, TOKEN, lease, listed, removal};

const SERVICES: [(&str, &str, &[&str], f64); 3] = [
    (
        "shop.v1.MemberService",
        "member",
        &["Get", "List", "Update"],
        120.0,
    ),
    ("shop.v1.OrderService", "order", &["Place", "Get"], 48.0),
    ("shop.v1.StockService", "stock", &["Reserve", "Count"], 61.0),
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let admin = TcpListener::bind("127.0.0.1:0").await?;
    let admin_address = admin.local_addr()?;
    let began = Arc::new(Mutex::new(Instant::now()));
    let router = Router::new()
        .route("/{side}/{service}/{share}/metrics", get(metrics))
        .with_state(began);
    tokio::spawn(async move { axum::serve(admin, router).await });

    let served = Served::with(Arc::default(), Arc::new(tempfile::tempdir()?), true, 1000).await;
    let mut leases = Vec::new();
    for (index, (service, application, _, _)) in SERVICES.iter().enumerate() {
        let mut instances = Vec::new();
        for number in 1..=3 {
            let id = format!("{application}/{number}");
            let zone = ["east", "east", "west"][number - 1];
            let port = format!("{admin_address}/server/{index}/3");
            instances.push(listed(&id, zone, &port));
            leases.push(lease(&id, zone, &port, &[service]));
        }
        let removed = vec![removal(&format!("{application}/0"), RemovalCause::Expired)];
        served.twin.list(service, instances, removed);
        let consumer = format!("{admin_address}/client/{index}/1");
        leases.push(lease(&format!("web/{}", index + 1), "east", &consumer, &[]));
    }
    *served.twin.leases.lock() = leases;
    let scope = Scope::Service("shop.v1.MemberService".to_owned());
    for (assignments, comment) in [
        (vec!["call.timeout_ms=300"], "first limits"),
        (
            vec!["methods.Get.timeout_ms=50", "call.retry.attempts=2"],
            "reads are quick",
        ),
        (vec!["instances[member/3].weight=20"], "warm up the new machine"),
    ] {
        let asked = PatchPolicy {
            assignments: assignments.into_iter().map(str::to_owned).collect(),
            author: Some("ann".to_owned()),
            comment: comment.to_owned(),
            ..PatchPolicy::default()
        };
        served.client.patch(&scope, &asked).await?;
    }
    let fleet = PatchPolicy {
        assignments: vec!["call.timeout_ms=2000".to_owned()],
        author: Some("bob".to_owned()),
        ..PatchPolicy::default()
    };
    served.client.patch(&Scope::Fleet, &fleet).await?;
    let scope = scope.to_string();
    served.twin.acknowledges("member/1", &scope, 3, "");
    served.twin.acknowledges("member/2", &scope, 3, "");
    served.twin.acknowledges("web/1", &scope, 2, "");
    println!("{}", served.url(&format!("/login?token={TOKEN}")));
    std::future::pending().await
}

/// Counters that grow with time, a little unevenly, with a few failures now and then.
async fn metrics(
    State(began): State<Arc<Mutex<Instant>>>,
    Path((side, service, share)): Path<(String, usize, f64)>,
) -> String {
    let seconds = began.lock().elapsed().as_secs_f64();
    let name = format!("rpc_{side}_call_duration_seconds");
    let (service, _, methods, rate) = SERVICES[service % SERVICES.len()];
    let mut text = format!("# TYPE {name} histogram\n");
    for (index, method) in methods.iter().enumerate() {
        let wave = rate / (index + 1) as f64 / share * (seconds + 1.7 * (seconds / 4.0 + index as f64).sin());
        let good = wave.max(0.0).floor();
        let bad = if index == 1 { (seconds / 6.0).floor() } else { 0.0 };
        for (error, count) in [("", good), ("deadline", bad)] {
            let labels = format!("rpc_method=\"{service}/{method}\",error_type=\"{error}\"");
            for (le, part) in [
                ("0.001", 0.3),
                ("0.005", 0.9),
                ("0.02", 0.985),
                ("0.1", 1.0),
                ("+Inf", 1.0),
            ] {
                text += &format!(
                    "{name}_bucket{{{labels},le=\"{le}\"}} {}\n",
                    (count * part).floor()
                );
            }
            text += &format!("{name}_count{{{labels}}} {count}\n");
        }
    }
    text
}
