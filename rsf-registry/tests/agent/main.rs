//! The agent of one process against a real embedded registry that comes and goes.

#![allow(clippy::expect_used, reason = "a broken expectation is a failed test")]

#[path = "../support/server.rs"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod server;

mod acknowledgements;
mod lists;
mod overrides;
mod peers;
mod policies;
mod registration;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rsf_core::control::{Discovery, InstanceList};
use rsf_registry::embedded::EmbeddedRegistry;
use rsf_registry::record::{LeaseState, ListVersion, ListedInstance, Removal, RemovalCause, ServiceList};
use rsf_registry::{AgentOptions, Backend, DirectoryWriter, RegistryAgent, Term};
use server::Server;
use tokio::sync::watch;

/// How long a test waits for what must come; none waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(20);
const SERVICE: &str = "shop.v1.MemberService";

fn options(address: &str, state: &Path) -> AgentOptions {
    let mut options = AgentOptions::new("default", &format!("rsf://{address}"));
    options.state = Some(state.to_owned());
    options.lease_ttl = Duration::from_millis(900);
    options
}

/// An agent of `server` that keeps its snapshots in the server's folder.
fn agent(server: &Server) -> RegistryAgent {
    agent_with(server, |_| {})
}

fn agent_with(server: &Server, change: impl FnOnce(&mut AgentOptions)) -> RegistryAgent {
    let registry = EmbeddedRegistry::new(&server.address(), "default").expect("client");
    let mut options = options(&server.address(), server.folder());
    change(&mut options);
    RegistryAgent::new(Backend::from(registry), options).expect("agent")
}

/// Waits until a watched value is as `wanted` makes something of it.
async fn seen<T: Clone + std::fmt::Debug, U>(
    receiver: &mut watch::Receiver<T>,
    what: &str,
    wanted: impl Fn(&T) -> Option<U>,
) -> U {
    let search = async {
        loop {
            if let Some(found) = wanted(&receiver.borrow_and_update()) {
                return found;
            }
            receiver
                .changed()
                .await
                .unwrap_or_else(|_| panic!("the watch ended before {what}"));
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("never seen: {what}; last {:?}", receiver.borrow()))
}

async fn ready(
    receiver: &mut watch::Receiver<Discovery>,
    what: &str,
    wanted: impl Fn(&InstanceList) -> bool,
) -> Arc<InstanceList> {
    seen(receiver, what, |discovery| match discovery {
        Discovery::Ready(list) if wanted(list) => Some(list.clone()),
        _ => None,
    })
    .await
}

/// A pump that leads and writes lists.
struct Pump {
    writer: rsf_registry::embedded::EmbeddedNamespace,
    term: Term,
    sequence: u64,
}

impl Pump {
    async fn of(server: &Server) -> Self {
        let writer = server.namespace();
        let term = writer.lead("pump", 0).await.expect("lead");
        Pump {
            writer,
            term,
            sequence: 0,
        }
    }

    /// Writes the list of [`SERVICE`] and returns its version.
    async fn write(&mut self, instances: &[&str], removed: &[&str]) -> (u64, u64) {
        self.sequence += 1;
        let list = list((self.term.epoch, self.sequence), instances, removed);
        self.writer.write(&self.term, &[list]).await.expect("write");
        (self.term.epoch, self.sequence)
    }
}

fn list((epoch, sequence): (u64, u64), instances: &[&str], removed: &[&str]) -> ServiceList {
    let listed = |(n, name): (usize, &&str)| ListedInstance {
        instance: format!("member/{name}"),
        incarnation: 10,
        application: "member".into(),
        address: format!("127.0.0.1:{}", 7000 + n),
        zone: "east".into(),
        weight: 100,
        state: LeaseState::Up.into(),
        ..Default::default()
    };
    let removal = |name: &&str| Removal {
        instance: format!("member/{name}"),
        incarnation: 10,
        cause: RemovalCause::Deregistered.into(),
        at_unix_ms: 1,
    };
    ServiceList {
        service: SERVICE.into(),
        version: Some(ListVersion { epoch, sequence }),
        written_unix_ms: 1,
        instances: instances.iter().enumerate().map(listed).collect(),
        removed: removed.iter().map(removal).collect(),
        hold: None,
    }
}

/// Waits until `found` yields something.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    let search = async {
        loop {
            if let Some(found) = found().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}
