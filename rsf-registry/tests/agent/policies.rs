//! Policies: live, kept on disk, never older.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rsf_core::control::{ControlPlane, PolicyState, PolicyText, Scope};
use rsf_registry::record::PolicyRecord;
use rsf_registry::snapshot::SnapshotFolder;
use rsf_registry::{
    Acknowledgements, AgentOptions, Backend, Observed, PolicyStore, PolicyWriter, RegistrationRequest,
    RegistryAgent, StoreError, Watch,
};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::server::Server;
use crate::{agent, eventually, seen};

/// What a watch gets to answer.
const DISK_AFTER: Duration = Duration::from_secs(1);

#[tokio::test]
async fn follows_publishes_and_deletions() {
    let server = Server::started().await;
    let agent = agent(&server);
    let mut policy = agent.policy(&Scope::Fleet);
    assert_eq!(*policy.borrow(), PolicyState::Pending);
    said(&mut policy, PolicyState::Absent).await;
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
    assert!(matches!(&*policy.borrow(), PolicyState::Present(text) if text.revision == 6));
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

#[tokio::test]
async fn what_nobody_answers_is_absent_in_time() {
    let server = Server::stopped().await;
    let begun = Instant::now();
    said(&mut agent(&server).policy(&Scope::Fleet), PolicyState::Absent).await;
    assert!(
        begun.elapsed() < DISK_AFTER,
        "a refused connection is known at once"
    );

    // The directory is well; only the policy's watch says nothing.
    let server = Server::started().await;
    let states = Arc::new(watch::Sender::new(Observed::Unknown));
    let mut backend = Backend::from(server.client("default"));
    backend.policies = Arc::new(Scripted(states.clone()));
    let slow = RegistryAgent::new(backend, AgentOptions::new("default", "scripted")).expect("agent");
    let begun = Instant::now();
    let mut policy = slow.policy(&Scope::Fleet);
    said(&mut policy, PolicyState::Absent).await;
    assert!(
        begun.elapsed() >= DISK_AFTER,
        "it had its second: {:?}",
        begun.elapsed()
    );
    states.send_replace(Observed::Present(Arc::new(record(7, "{}"))));
    revision(&mut policy, 7).await;
}

#[tokio::test]
async fn a_slow_store_is_pending_until_it_speaks() {
    let server = Server::started().await;
    let states = Arc::new(watch::Sender::new(Observed::Unknown));
    let mut backend = Backend::from(server.client("default"));
    backend.policies = Arc::new(Scripted(states.clone()));
    let agent = RegistryAgent::new(backend, AgentOptions::new("default", "scripted")).expect("agent");
    let mut policy = agent.policy(&Scope::Fleet);
    tokio::time::timeout(DISK_AFTER / 2, policy.changed())
        .await
        .expect_err("nothing is said of it");
    assert_eq!(*policy.borrow(), PolicyState::Pending);
    states.send_replace(Observed::Absent);
    let begun = Instant::now();
    said(&mut policy, PolicyState::Absent).await;
    assert!(begun.elapsed() < DISK_AFTER / 4, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_the_agent_refuses_is_acknowledged_as_refused() {
    let server = Server::started().await;
    let states = Arc::new(watch::Sender::new(Observed::Unknown));
    let mut backend = Backend::from(server.client("default"));
    backend.policies = Arc::new(Scripted(states.clone()));
    let agent = RegistryAgent::new(backend, AgentOptions::new("default", "scripted")).expect("agent");
    let request = RegistrationRequest {
        application: "order".into(),
        instance: Some("1".into()),
        ..Default::default()
    };
    let _registration = agent.register(request).expect("register");
    let mut policy = agent.policy(&Scope::Fleet);
    said(&mut policy, PolicyState::Absent).await;
    states.send_replace(Observed::Present(Arc::new(record(5, "{}"))));
    revision(&mut policy, 5).await;
    states.send_replace(Observed::Present(Arc::new(record(4, "{}"))));
    let namespace = server.namespace();
    let refused = eventually("the refusal arrives", async || {
        let found = namespace.acknowledged("fleet").await.expect("acknowledged");
        found.into_iter().find(|found| found.revision == 4)
    })
    .await;
    assert!(refused.refusal.contains("older than 5"), "{}", refused.refusal);
    revision(&mut policy, 5).await;
}

/// A store that says what the test wants.
struct Scripted(Arc<watch::Sender<Observed<PolicyRecord>>>);

#[async_trait]
impl PolicyStore for Scripted {
    fn watch(&self, _scope: &str) -> Watch<PolicyRecord> {
        Watch::new(self.0.subscribe(), None)
    }

    async fn current(&self) -> Result<Vec<PolicyRecord>, StoreError> {
        Ok(Vec::new())
    }
}

async fn said(policy: &mut watch::Receiver<PolicyState>, wanted: PolicyState) {
    seen(policy, &format!("{wanted:?}"), |state| {
        (*state == wanted).then_some(())
    })
    .await;
}

async fn revision(policy: &mut watch::Receiver<PolicyState>, revision: u64) -> Arc<PolicyText> {
    seen(policy, &format!("revision {revision}"), |state| match state {
        PolicyState::Present(text) if text.revision == revision => Some(text.clone()),
        _ => None,
    })
    .await
}
