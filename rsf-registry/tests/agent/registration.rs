//! Registration: written when the registry can be reached, renewed, put again, ended on purpose.

use std::time::Duration;

use rsf_registry::record::{Lease, LeaseState, ProvidedService};
use rsf_registry::{LeaseSource, LeaseStore, RegistrationRequest, Renewal, StoreError};

use crate::server::Server;
use crate::{agent, eventually, seen};

#[tokio::test]
async fn lives_past_its_ttl_and_leaves_a_tombstone() {
    let server = Server::started().await;
    let agent = agent(&server);
    let registration = agent.register(provider("1")).expect("register");
    let mut status = registration.status();
    seen(&mut status, "registered", |status| {
        status.registered.then_some(())
    })
    .await;
    let lease = found(&server, "member/1", |_| true).await;
    assert_eq!(
        (lease.state(), lease.weight, lease.incarnation),
        (LeaseState::Up, 100, registration.lease().incarnation)
    );
    assert!(lease.incarnation > 1_600_000_000_000, "Unix milliseconds");
    // Three TTLs: without renewals it would be gone.
    tokio::time::sleep(Duration::from_millis(2700)).await;
    found(&server, "member/1", |later| later.sequence == lease.sequence).await;

    registration.update(vec![service("b.B")]).await.expect("update");
    let updated = found(&server, "member/1", |_| true).await;
    assert_eq!(updated.services, [service("b.B")]);
    assert!(updated.sequence > lease.sequence);
    registration.drain().await.expect("drain");
    assert_eq!(
        found(&server, "member/1", |_| true).await.state(),
        LeaseState::Draining
    );
    registration.deregister().await.expect("deregister");
    assert_eq!(
        found(&server, "member/1", |_| true).await.state(),
        LeaseState::Deregistered
    );
    let read = server.namespace().read(&["member/1".into()]).await.expect("read");
    let remaining = read[0].as_ref().expect("the tombstone stays").remaining;
    assert!(remaining > Duration::from_secs(20), "{remaining:?}");
}

#[tokio::test]
async fn keeps_trying_while_the_registry_is_down() {
    let server = Server::stopped().await;
    let agent = agent(&server);
    let registration = agent
        .register(provider("1"))
        .expect("a registry that is down is no error");
    let mut status = registration.status();
    let reason = seen(&mut status, "an error", |status| status.last_error.clone()).await;
    assert!(reason.contains(&server.address()), "{reason}");
    let error = registration
        .drain()
        .await
        .expect_err("nobody took it")
        .to_string();
    assert!(
        error.contains("member/1") && error.contains(&server.address()),
        "{error}"
    );
    server.start().await;
    let lease = found(&server, "member/1", |_| true).await;
    assert_eq!(lease.state(), LeaseState::Draining);
    seen(&mut status, "registered", |status| {
        (status.registered && status.last_error.is_none()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn is_put_again_where_the_registry_lost_it() {
    let server = Server::started().await;
    let agent = agent(&server);
    let _registration = agent.register(provider("1")).expect("register");
    let lease = found(&server, "member/1", |_| true).await;
    server.stop().await;
    std::fs::remove_file(server.file()).expect("the registry's file is lost");
    server.start().await;
    let again = found(&server, "member/1", |_| true).await;
    assert_eq!(again.incarnation, lease.incarnation);
    assert!(again.sequence > lease.sequence);
}

#[tokio::test]
async fn a_newer_incarnation_is_not_disturbed() {
    let server = Server::started().await;
    let agent = agent(&server);
    let registration = agent.register(provider("1")).expect("register");
    let lease = found(&server, "member/1", |_| true).await;
    let mut newer = lease.clone();
    newer.incarnation += 1_000_000;
    server
        .namespace()
        .put(&newer, Duration::from_secs(60))
        .await
        .expect("put");
    let mut status = registration.status();
    let reason = seen(&mut status, "the error", |status| status.last_error.clone()).await;
    assert!(
        reason.contains("RSF_INSTANCE") && reason.contains("clock"),
        "{reason}"
    );
    drop(registration);
    seen_ended(&mut status).await;
    found(&server, "member/1", |lease| {
        lease.incarnation == newer.incarnation
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_stepped_back_keeps_nobody_out() {
    let server = Server::started().await;
    let agent = agent(&server);
    let mut ahead = lease_of_another_start("1");
    ahead.incarnation = now_ms() + 3_600_000;
    server
        .namespace()
        .put(&ahead, Duration::from_secs(2))
        .await
        .expect("put");
    let registration = agent.register(provider("1")).expect("register");
    let first = registration.lease().incarnation;
    let mut status = registration.status();
    seen(&mut status, "the error", |status| status.last_error.clone()).await;
    // While that lease is renewed its owner lives, and keeps it.
    let renewed = server.namespace();
    for _ in 0..3 {
        let renewal = renewed
            .renew("member/1", ahead.incarnation, Duration::from_secs(2))
            .await;
        assert_eq!(renewal.expect("renew"), Renewal::Renewed);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(registration.lease().incarnation, first);
    // It is renewed no longer.
    let taken = found(&server, "member/1", |lease| lease.incarnation > ahead.incarnation).await;
    assert_eq!(taken.incarnation, ahead.incarnation + 1);
    seen(&mut status, "registered", |status| {
        status.registered.then_some(())
    })
    .await;
    assert_eq!(registration.lease().incarnation, ahead.incarnation + 1);
    found(&server, "member/1", |lease| lease.sequence == taken.sequence).await;
}

#[tokio::test]
async fn who_left_keeps_nobody_out_at_all() {
    let server = Server::started().await;
    let agent = agent(&server);
    let mut left = lease_of_another_start("1");
    left.incarnation = now_ms() + 3_600_000;
    left.state = LeaseState::Deregistered.into();
    server
        .namespace()
        .put(&left, Duration::from_secs(3600))
        .await
        .expect("put");
    let _registration = agent.register(provider("1")).expect("register");
    let lease = found(&server, "member/1", |lease| lease.state() == LeaseState::Up).await;
    assert_eq!(lease.incarnation, left.incarnation + 1);
}

#[tokio::test]
async fn dropping_it_deregisters() {
    let server = Server::started().await;
    let agent = agent(&server);
    let registration = agent.register(provider("1")).expect("register");
    found(&server, "member/1", |lease| lease.state() == LeaseState::Up).await;
    drop(registration);
    found(&server, "member/1", |lease| {
        lease.state() == LeaseState::Deregistered
    })
    .await;
}

#[tokio::test]
async fn consumers_register_and_bad_requests_do_not() {
    let server = Server::started().await;
    let agent = agent(&server);
    let consumer = RegistrationRequest {
        application: "order".into(),
        ..Default::default()
    };
    let registration = agent.register(consumer).expect("register");
    let id = registration.lease().instance;
    assert!(id.starts_with("order/consumer-"), "{id}");
    let lease = found(&server, &id, |_| true).await;
    assert!(lease.address.is_empty() && lease.services.is_empty());
    let by_address = RegistrationRequest {
        instance: None,
        ..provider("1")
    };
    assert_eq!(
        agent.register(by_address).expect("register").lease().instance,
        "member/127.0.0.1:7001"
    );
    let bad = [
        RegistrationRequest {
            application: String::new(),
            ..provider("1")
        },
        RegistrationRequest {
            address: "nowhere".into(),
            ..provider("1")
        },
        RegistrationRequest {
            address: String::new(),
            ..provider("1")
        },
        RegistrationRequest {
            weight: Some(10_001),
            ..provider("1")
        },
    ];
    for request in bad {
        let refused = agent.register(request.clone()).err();
        assert!(
            matches!(refused, Some(StoreError::Invalid { .. })),
            "{request:?}: {refused:?}"
        );
    }
}

fn provider(name: &str) -> RegistrationRequest {
    RegistrationRequest {
        application: "member".into(),
        instance: Some(name.into()),
        address: "127.0.0.1:7001".into(),
        services: vec![service("a.A")],
        ..Default::default()
    }
}

fn lease_of_another_start(name: &str) -> Lease {
    Lease {
        namespace: "default".into(),
        application: "member".into(),
        instance: format!("member/{name}"),
        sequence: 1,
        address: "127.0.0.1:7001".into(),
        state: LeaseState::Up.into(),
        ..Default::default()
    }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_millis()).expect("fits")
}

fn service(name: &str) -> ProvidedService {
    ProvidedService {
        name: name.into(),
        ..Default::default()
    }
}

async fn found(server: &Server, instance: &str, wanted: impl Fn(&Lease) -> bool) -> Lease {
    let (namespace, ids) = (server.namespace(), [instance.to_owned()]);
    eventually("the lease is there", async || {
        let live = namespace.read(&ids).await.expect("read").pop()??;
        wanted(&live.lease).then_some(live.lease)
    })
    .await
}

/// Waits until the task behind a registration has ended.
async fn seen_ended<T>(status: &mut tokio::sync::watch::Receiver<T>) {
    let ended = async { while status.changed().await.is_ok() {} };
    tokio::time::timeout(crate::PATIENCE, ended).await.expect("ends");
}
