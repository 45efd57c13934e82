//! Live figures from real admin ports, through scrapes and the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use rsf_console::model::{Stats, Status};
use tokio::net::TcpListener;

use crate::twin::{MEMBER, Served, Twin, lease, listed, until};

/// An admin port whose counter rises by `step` with each scrape.
async fn admin(side: &'static str, step: u64) -> String {
    let calls = Arc::new(AtomicU64::new(0));
    let metrics = move || {
        let calls = calls.clone();
        async move {
            let count = calls.fetch_add(step, Ordering::Relaxed);
            let labels = format!("rpc_method=\"{MEMBER}/Get\",error_type=\"\"");
            let name = format!("rpc_{side}_call_duration_seconds");
            format!(
                "# TYPE {name} histogram\n{name}_bucket{{{labels},le=\"0.005\"}} {count}\n\
                 {name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_count{{{labels}}} {count}\n"
            )
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().route("/metrics", get(metrics));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn calls(stats: &Stats) -> (f64, f64) {
    let service = stats.services.get(MEMBER);
    service.map_or((0.0, 0.0), |service| {
        (service.client.calls_per_second, service.server.calls_per_second)
    })
}

#[tokio::test]
async fn consumers_and_providers_are_scraped() {
    let served = Served::start().await;
    let (provider, consumer) = (admin("server", 10).await, admin("client", 20).await);
    served
        .twin
        .list(MEMBER, vec![listed("member/1", "a", &provider)], Vec::new());
    *served.twin.leases.lock() = vec![
        lease("member/1", "a", &provider, &[MEMBER]),
        lease("order/1", "a", &consumer, &[]),
    ];
    until("both sides have rates", async || {
        let (client, server) = calls(&served.client.stats(None, 10).await.unwrap());
        client > 0.0 && server > 0.0
    })
    .await;
    let stats = served
        .client
        .stats(Some(&format!("{MEMBER}:gold")), 5)
        .await
        .unwrap();
    let service = &stats.services[MEMBER];
    assert!(service.instances["member/1"] > 0.0);
    assert!(service.client.p99_ms.is_some_and(|p99| p99 <= 5.0), "{service:?}");
    assert!(!service.points.is_empty() && service.points.len() <= 5);
    assert!(
        served
            .client
            .stats(Some("other"), 5)
            .await
            .unwrap()
            .services
            .is_empty()
    );
}

#[tokio::test]
async fn without_leases_the_directory_names_whom_to_scrape() {
    let twin = Arc::new(Twin::default());
    let provider = admin("server", 10).await;
    twin.list(MEMBER, vec![listed("member/1", "a", &provider)], Vec::new());
    let served = Served::with(twin, Arc::new(tempfile::tempdir().unwrap()), false, 100).await;
    until("the provider has a rate", async || {
        calls(&served.client.stats(None, 0).await.unwrap()).1 > 0.0
    })
    .await;
    assert_eq!(served.client.instances().await.unwrap().len(), 1);
}

/// Five hundred changes, one after the other: each is accepted, in the store and in the audit log.
#[tokio::test]
async fn many_changes_are_all_recorded() {
    let served = Served::start().await;
    let scope = rsf_core::control::Scope::Fleet;
    for ms in 1..=500_u64 {
        let asked = rsf_console::model::PutPolicy {
            document: serde_json::json!({"call": {"timeout_ms": ms}}),
            ..Default::default()
        };
        assert_eq!(
            served.client.put(&scope, &asked).await.unwrap().revision.revision,
            ms
        );
    }
    assert!(served.twin.stored("fleet").unwrap().document.contains("500"));
    let audit = served.client.audit(None, 500).await.unwrap();
    let published = audit
        .iter()
        .filter(|entry| entry.status == Status::Published)
        .count();
    assert_eq!(published, 250);
}
