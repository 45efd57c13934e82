//! Acknowledgements: soon, in the instance's name, and again after the registry lost them.

use rsf_core::control::{ControlPlane, Scope};
use rsf_registry::record::Acknowledgement;
use rsf_registry::{Acknowledgements, RegistrationRequest};

use crate::server::Server;
use crate::{agent, eventually};

#[tokio::test]
async fn arrive_in_the_instances_name() {
    let server = Server::started().await;
    let agent = agent(&server);
    agent.acknowledge(&Scope::Fleet, 3, None);
    let registration = agent.register(consumer()).expect("register");
    let lease = registration.lease();
    let found = arrived(&server, "fleet", |found| found.revision == 3).await;
    assert_eq!(
        (found.instance, found.incarnation),
        (lease.instance.clone(), lease.incarnation)
    );
    assert_eq!(
        (found.application.as_str(), found.refusal.as_str()),
        ("order", "")
    );
    agent.acknowledge(&Scope::Fleet, 4, Some("unknown field `timout`".into()));
    agent.acknowledge(&Scope::Service("a.A".into()), 4, None);
    let found = arrived(&server, "fleet", |found| found.revision == 4).await;
    assert_eq!(found.refusal, "unknown field `timout`");
    arrived(&server, "service/a.A", |found| found.revision == 4).await;
}

#[tokio::test]
async fn are_repeated() {
    let server = Server::stopped().await;
    let agent = agent(&server);
    let _registration = agent.register(consumer()).expect("register");
    agent.acknowledge(&Scope::Fleet, 3, None);
    server.start().await;
    arrived(&server, "fleet", |found| found.revision == 3).await;
    // It holds them in memory only.
    server.stop().await;
    server.start().await;
    arrived(&server, "fleet", |found| found.revision == 3).await;
}

fn consumer() -> RegistrationRequest {
    RegistrationRequest {
        application: "order".into(),
        instance: Some("1".into()),
        ..Default::default()
    }
}

async fn arrived(server: &Server, scope: &str, wanted: impl Fn(&Acknowledgement) -> bool) -> Acknowledgement {
    let namespace = server.namespace();
    eventually("the acknowledgement arrives", async || {
        let found = namespace.acknowledged(scope).await.expect("acknowledged");
        assert!(found.len() <= 1, "{found:?}");
        found.into_iter().find(|found| wanted(found))
    })
    .await
}
