//! The same truth over the real embedded store: what is published reaches a watcher, and a wiped file gets it back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rsf_console::model::PutPolicy;
use rsf_console::{Console, ConsoleClient, ConsoleSettings, Parts, Token};
use rsf_core::control::Scope;
use rsf_registry::embedded::{EmbeddedNamespace, EmbeddedStore};
use rsf_registry::record::PolicyRecord;
use rsf_registry::{Observed, PolicyStore, Watch};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::twin::{MEMBER, TOKEN};

struct Running {
    client: ConsoleClient,
    registry: EmbeddedStore,
    namespace: EmbeddedNamespace,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(folder: &Path, registry: &str) -> Self {
        let registry = EmbeddedStore::open(&folder.join(registry), &["test"])
            .await
            .unwrap();
        let namespace = registry.namespace("test").unwrap();
        let shared = Arc::new(namespace.clone());
        let settings = ConsoleSettings {
            namespace: Some("test".to_owned()),
            database: Some(folder.join("console.db")),
            ..ConsoleSettings::default()
        };
        let parts = Parts {
            policies: shared.clone(),
            acknowledgements: shared.clone(),
            directory: shared.clone(),
            leases: vec![shared],
            pump: None,
        };
        let console = Console::new(settings.validate().unwrap(), Token::new(TOKEN).unwrap(), parts)
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client =
            ConsoleClient::new(&format!("http://{}", listener.local_addr().unwrap()), TOKEN).unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { console.serve(listener, stop).await.unwrap() });
        Running {
            client,
            registry,
            namespace,
            shutdown,
            task,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
        drop(self.namespace);
        self.registry.close().await;
    }
}

async fn seen(watch: &mut Watch<PolicyRecord>, revision: u64) -> PolicyRecord {
    let wanted = async {
        loop {
            if let Observed::Present(record) = watch.current()
                && record.revision == revision
            {
                return PolicyRecord::clone(&record);
            }
            assert!(watch.changed().await.is_some(), "the watch ended");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wanted)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_real_store_is_published_to_and_healed() {
    let folder = tempfile::tempdir().unwrap();
    let scope = Scope::Service(MEMBER.to_owned());
    let running = Running::start(folder.path(), "registry").await;
    let mut watch = running.namespace.watch(&scope.to_string());
    for revision in 1..=3_u64 {
        let asked = PutPolicy {
            document: serde_json::json!({"call": {"timeout_ms": revision}}),
            expected_revision: Some(revision - 1),
            ..PutPolicy::default()
        };
        running.client.put(&scope, &asked).await.unwrap();
        let record = seen(&mut watch, revision).await;
        assert_eq!(
            record.document,
            format!("{{\"call\":{{\"timeout_ms\":{revision}}}}}")
        );
    }
    drop(watch);
    running.stop().await;
    // The registry lost its file; the console did not.
    let running = Running::start(folder.path(), "another").await;
    let mut watch = running.namespace.watch(&scope.to_string());
    assert_eq!(seen(&mut watch, 3).await.document, r#"{"call":{"timeout_ms":3}}"#);
    drop(watch);
    running.stop().await;
}
