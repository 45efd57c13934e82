//! What the cluster backend does when its Redis or its ZooKeeper misbehaves; every case breaks real servers.

#![allow(
    clippy::print_stdout,
    reason = "the times that were measured are read by people"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test has nothing better to do with an error"
)]

mod access;
mod bad_lists;
mod damaged;
mod directory;
mod leases;
mod observers;
mod pumps;
mod renewals;
mod servers;
mod signed;
mod tls;
mod users;
mod volume;

use std::time::Duration;

use rsf_registry::cluster::{self, Cluster};
use rsf_registry::record::{Lease, LeaseState, ListVersion, ListedInstance, ServiceList};
use rsf_registry::{Observed, Watch};
use rsf_testkit::{RedisServer, ZooKeeper};

/// How long a case waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(60);
/// An address where nobody listens, for the half that a case does not need.
const NOBODY: &str = "127.0.0.1:1";

fn with_redis(redis: &RedisServer) -> Cluster {
    cluster::open(&redis.url(), NOBODY, "default").unwrap()
}

fn with_zookeeper(zookeeper: &ZooKeeper) -> Cluster {
    let nowhere = format!("redis://{NOBODY}");
    cluster::open(&nowhere, &zookeeper.address().to_string(), "default").unwrap()
}

/// A connection of the test's own, to do to Redis what others do.
async fn operator(redis: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

fn lease(instance: &str, sequence: u64) -> Lease {
    Lease {
        namespace: "default".into(),
        application: "member".into(),
        instance: instance.into(),
        incarnation: 7,
        sequence,
        address: "127.0.0.1:7001".into(),
        weight: 100,
        state: LeaseState::Up.into(),
        ..Default::default()
    }
}

fn list(service: &str, epoch: u64, sequence: u64) -> ServiceList {
    ServiceList {
        service: service.into(),
        version: Some(ListVersion { epoch, sequence }),
        instances: vec![ListedInstance {
            instance: "member/1".into(),
            address: "127.0.0.1:7001".into(),
            weight: 100,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Waits for a state that `wanted` accepts.
async fn observe<T: std::fmt::Debug, U>(
    watch: &mut Watch<T>,
    what: &str,
    mut wanted: impl FnMut(&Observed<T>) -> Option<U>,
) -> U {
    let search = async {
        let mut state = watch.current();
        loop {
            match wanted(&state) {
                Some(found) => return found,
                None => state = watch.changed().await.expect("the watch goes on"),
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, search).await;
    found.unwrap_or_else(|_| panic!("never observed: {what}; last {:?}", watch.current()))
}

async fn observe_version(watch: &mut Watch<ServiceList>, epoch: u64, sequence: u64) {
    let version = ListVersion { epoch, sequence };
    observe(watch, &format!("{version:?}"), |state| match state {
        Observed::Present(list) => (list.version == Some(version)).then_some(()),
        Observed::Unknown | Observed::Absent => None,
    })
    .await;
}

/// Every sequence that `watch` shows from now on until `last`, the one that it shows now first.
async fn sequences_until(mut watch: Watch<ServiceList>, last: u64) -> Vec<u64> {
    let sequence = |state: Observed<ServiceList>| match state {
        Observed::Present(list) => list.version.map_or(0, |version| version.sequence),
        Observed::Unknown | Observed::Absent => 0,
    };
    let mut shown = vec![sequence(watch.current())];
    let all = async {
        while shown.last() != Some(&last) {
            let next = sequence(watch.changed().await.expect("the watch goes on"));
            if shown.last() != Some(&next) {
                shown.push(next);
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, all).await;
    assert!(ended.is_ok(), "{last} was never shown, but {shown:?}");
    shown
}

async fn observe_absent(watch: &mut Watch<ServiceList>) {
    observe(watch, "absent", |state| {
        matches!(state, Observed::Absent).then_some(())
    })
    .await;
}
