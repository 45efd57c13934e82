//! Real ZooKeeper servers: alone and as an ensemble, broken on demand, with their data kept or wiped.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failure is the finding"
)]

use rsf_testkit::{ZooKeeper, eventually};
use std::time::Duration;
use zookeeper_client::{Acls, Client, CreateMode, Error};

const SOON: Duration = Duration::from_secs(60);

/// A new session; `url` is `zk://…` as in `RSF_REGISTRY`.
async fn connect(url: &str) -> Client {
    Client::connector()
        .with_session_timeout(Duration::from_secs(20))
        .connect(&url["zk://".len()..])
        .await
        .unwrap()
}

async fn create(client: &Client, path: &str) {
    client
        .create(
            path,
            b"data",
            &CreateMode::Persistent.with_acls(Acls::anyone_all()),
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_keeps_its_data_over_a_kill_and_loses_it_when_wiped() {
    let mut server = ZooKeeper::start().await;
    let url = server.url();
    assert_eq!(server.mode().await.as_deref(), Ok("standalone"));
    create(&connect(&url).await, "/kept").await;

    server.kill9().await;
    assert!(server.mode().await.is_err());
    server.restart().await;
    assert_eq!(server.url(), url);
    let (data, _) = connect(&url).await.get_data("/kept").await.unwrap();
    assert_eq!(data, b"data");

    server.stop().await;
    server.wipe().await;
    server.restart().await;
    assert_eq!(
        connect(&url).await.get_data("/kept").await.unwrap_err(),
        Error::NoNode
    );
}

#[tokio::test]
async fn a_server_stands_still_while_it_is_paused() {
    let server = ZooKeeper::start().await;
    server.pause().await;
    assert_eq!(
        server.mode().await,
        Err("no answer to srvr within 2 s".to_owned())
    );
    server.resume();
    eventually(SOON, || server.mode()).await;
}

#[tokio::test]
async fn an_ensemble_elects_another_leader_and_keeps_its_data() {
    let mut ensemble = ZooKeeper::ensemble(3).await;
    let url = ensemble.url();
    create(&connect(&url).await, "/kept").await;

    let first = ensemble.leader().await;
    ensemble.servers[first].kill9().await;
    let second = ensemble.leader().await;
    assert_ne!(first, second);
    ensemble.servers[first].restart().await;
    assert_eq!(ensemble.servers[first].mode().await.as_deref(), Ok("follower"));

    ensemble.kill9().await;
    ensemble.restart().await;
    assert_eq!(connect(&url).await.get_data("/kept").await.unwrap().0, b"data");

    ensemble.wipe().await;
    ensemble.restart().await;
    assert_eq!(
        connect(&url).await.get_data("/kept").await.unwrap_err(),
        Error::NoNode
    );
}
