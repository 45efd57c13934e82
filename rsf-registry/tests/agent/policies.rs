//! Policies: live, kept on disk, never older.

use std::sync::Arc;

use rsf_core::control::{ControlPlane, PolicyText, Scope};
use rsf_registry::PolicyWriter;
use rsf_registry::record::PolicyRecord;
use rsf_registry::snapshot::SnapshotFolder;
use tokio::sync::watch;

use crate::server::Server;
use crate::{agent, eventually, seen};

#[tokio::test]
async fn follows_publishes_and_deletions() {
    let server = Server::started().await;
    let agent = agent(&server);
    let mut policy = agent.policy(&Scope::Fleet);
    assert_eq!(*policy.borrow(), None);
    let publisher = server.namespace();
    publisher.publish(&record(1, "{\"a\":1}")).await.expect("publish");
    assert_eq!(revision(&mut policy, 1).await.document, "{\"a\":1}");
    publisher.publish(&record(2, "")).await.expect("delete");
    assert_eq!(
        revision(&mut policy, 2).await.document,
        "",
        "the revision that deletes is to be acknowledged"
    );
    publisher.publish(&record(3, "{}")).await.expect("publish");
    revision(&mut policy, 3).await;
}

#[tokio::test]
async fn starts_from_disk_and_refuses_older() {
    let server = Server::started().await;
    let publisher = server.namespace();
    publisher.publish(&record(5, "{\"a\":5}")).await.expect("publish");
    let first = agent(&server);
    revision(&mut first.policy(&Scope::Fleet), 5).await;
    let folder = SnapshotFolder::new(server.folder(), "default");
    eventually("on disk", async || {
        folder.load::<PolicyRecord>("fleet").ok().flatten()
    })
    .await;
    server.stop().await;
    drop(first);
    let second = agent(&server);
    let mut policy = second.policy(&Scope::Fleet);
    assert_eq!(revision(&mut policy, 5).await.document, "{\"a\":5}");

    std::fs::remove_file(server.file()).expect("the registry's file is lost");
    server.start().await;
    let publisher = server.namespace();
    publisher.publish(&record(4, "{\"a\":4}")).await.expect("publish");
    // The agent sees revision 4 or 6, in this order if both; what it shows is never 4.
    policy.mark_unchanged();
    publisher.publish(&record(6, "{\"a\":6}")).await.expect("publish");
    policy.changed().await.expect("goes on");
    assert_eq!(policy.borrow().as_ref().map(|policy| policy.revision), Some(6));
}

fn record(revision: u64, document: &str) -> PolicyRecord {
    let scope = "fleet".to_owned();
    PolicyRecord {
        scope,
        revision,
        document: document.into(),
        written_unix_ms: 1,
        author: "ann".into(),
    }
}

async fn revision(policy: &mut watch::Receiver<Option<Arc<PolicyText>>>, revision: u64) -> Arc<PolicyText> {
    seen(policy, &format!("revision {revision}"), |policy| {
        policy.clone().filter(|policy| policy.revision == revision)
    })
    .await
}
