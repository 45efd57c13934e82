//! Who may do what: Redis with the users of `deploy/redis-users.conf`; and servers that RSF does not use.

use std::net::SocketAddr;

use futures_util::StreamExt;
use rsf_registry::cluster::{self, Cluster};
use rsf_registry::record::{Acknowledgement, Lease, Report, ReportFinding};
use rsf_registry::{Hint, Renewal, StoreError};
use rsf_testkit::{Process, Program, RedisServer, TempDir, deploy_file, eventually, free_port};
use tokio::time::timeout;

use crate::{NOBODY, PATIENCE, TTL, lease, operator};

/// A server with the users of `deploy/redis-users.conf`, each with a password.
struct Guarded {
    address: SocketAddr,
    database: u8,
    _process: Process,
    _folder: TempDir,
}

impl Guarded {
    async fn start() -> Self {
        Self::start_in_database(0).await
    }

    /// Where RSF's data is in this database, which the pump's channels must name.
    async fn start_in_database(database: u8) -> Self {
        let folder = TempDir::new("redis-users");
        let users = std::fs::read_to_string(deploy_file("redis-users.conf")).unwrap();
        let users = users.replace("&__keyspace@0__", &format!("&__keyspace@{database}__"));
        let mut named = String::new();
        for line in users.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["user", name, "on", ..] => {
                    named.push_str(&line.replacen(" on ", &format!(" on >secret-{name} "), 1))
                }
                _ => named.push_str(line),
            }
            named.push('\n');
        }
        named.push_str("user operator on >secret-operator ~* &* +@all\n");
        std::fs::write(folder.join("users.conf"), named).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = Program::new("redis-server")
            .arg(deploy_file("redis.conf"))
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .arg("--dir")
            .arg(folder.path())
            .arg("--include")
            .arg(folder.join("users.conf"))
            .start();
        let client = redis::Client::open(format!("redis://pump:secret-pump@{address}")).unwrap();
        eventually(PATIENCE, async || {
            client.get_multiplexed_async_connection().await.map(drop)
        })
        .await;
        Guarded {
            address,
            database,
            _process: process,
            _folder: folder,
        }
    }

    fn open(&self, user: &str) -> Cluster {
        let url = format!("redis://{user}:secret-{user}@{}/{}", self.address, self.database);
        cluster::open(&url, NOBODY, "prod").unwrap()
    }

    async fn operate(&self, words: &[&str]) {
        let url = format!("redis://operator:secret-operator@{}", self.address);
        let client = redis::Client::open(url).unwrap();
        let mut operator = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.exec_async(&mut operator).await.unwrap();
    }

    /// Which keys `order` may use from now on.
    async fn set_keys(&self, keys: &str) {
        let keys = format!("~{keys}");
        self.operate(&["ACL", "SETUSER", "order", "resetkeys", &keys])
            .await;
    }

    async fn config(&self, setting: &str, value: &str) {
        self.operate(&["CONFIG", "SET", setting, value]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_does_its_own_work() {
    let redis = Guarded::start().await;
    let (order, pump, console) = (redis.open("order"), redis.open("pump"), redis.open("console"));
    let mut hints = pump.sources[0].hints().await.unwrap();
    pump.sources[0].sweep().await.unwrap();
    order.leases.put(&lease("order/1", 1), TTL).await.unwrap();
    let hint = timeout(PATIENCE, hints.next()).await.unwrap();
    assert_eq!(hint, Some(Hint::Changed("order/1".to_owned())), "not by a gap");
    assert_eq!(
        order.leases.renew("order/1", 7, TTL).await.unwrap(),
        Renewal::Renewed
    );
    let late = Lease {
        incarnation: 6,
        ..lease("order/1", 9)
    };
    let superseded = order.leases.put(&late, TTL).await;
    assert!(
        matches!(superseded, Err(StoreError::Superseded { .. })),
        "{superseded:?}"
    );
    let said = Acknowledgement {
        instance: "order/1".into(),
        incarnation: 7,
        application: "order".into(),
        scope: "fleet".into(),
        revision: 3,
        ..Default::default()
    };
    order
        .acknowledgements
        .acknowledge(std::slice::from_ref(&said), TTL)
        .await
        .unwrap();
    let seen = sighting("stock/1");
    let kept = order.reports.report(std::slice::from_ref(&seen), TTL).await;
    assert_eq!(kept.unwrap(), 1);
    let read = pump.report_source.reports(&["stock/1".to_owned()]).await.unwrap();
    assert_eq!((read.reports, read.ill_formed), (vec![seen], 0));
    assert_eq!(pump.sources[0].sweep().await.unwrap().leases.len(), 1);
    assert_eq!(
        pump.sources[0].read(&["order/1".to_owned()]).await.unwrap().len(),
        1
    );
    assert_eq!(
        console.acknowledgements.acknowledged("fleet").await.unwrap(),
        [said]
    );
    assert_eq!(console.sources[0].sweep().await.unwrap().leases.len(), 1);
}

fn sighting(instance: &str) -> Report {
    Report {
        instance: instance.into(),
        incarnation: 7,
        finding: ReportFinding::Answers.into(),
        reporter: "order/1".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_user_does_anothers() {
    let redis = Guarded::start().await;
    let refused = |result: Result<(), StoreError>, whose: &str| {
        let error = result.expect_err(whose).to_string();
        assert!(
            error.contains("NOPERM") && error.contains("redis-users.conf"),
            "{whose}: {error}"
        );
        assert!(!error.contains("secret"), "{error}");
    };
    let (order, pump, console) = (redis.open("order"), redis.open("pump"), redis.open("console"));
    refused(
        order.leases.put(&lease("stock/1", 1), TTL).await,
        "another application's lease",
    );
    refused(
        order.leases.put(&lease("orders/1", 1), TTL).await,
        "one with a like name",
    );
    refused(order.sources[0].sweep().await.map(drop), "all leases");
    refused(
        order.acknowledgements.acknowledged("fleet").await.map(drop),
        "what others said",
    );
    refused(
        pump.leases.put(&lease("order/1", 1), TTL).await,
        "a lease by the pump",
    );
    for other in [&pump, &console] {
        let written = other.reports.report(&[sighting("stock/1")], TTL).await;
        refused(written.map(drop), "a report by who is no consumer");
    }
    refused(
        console.leases.put(&lease("order/1", 1), TTL).await,
        "a lease by the console",
    );
    let elsewhere = cluster::open(
        &format!("redis://order:secret-order@{}", redis.address),
        NOBODY,
        "test",
    )
    .unwrap();
    refused(
        elsewhere.leases.put(&lease("order/1", 1), TTL).await,
        "another namespace",
    );
    for url in [
        format!("redis://order:wrong@{}", redis.address),
        format!("redis://{}", redis.address),
    ] {
        let stranger = cluster::open(&url, NOBODY, "prod").unwrap();
        let error = stranger
            .leases
            .put(&lease("order/1", 1), TTL)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("password in RSF_REGISTRY"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_lease_that_is_not_allowed_costs_the_others_nothing() {
    let redis = Guarded::start().await;
    let order = redis.open("order");
    for n in 0..5 {
        order
            .leases
            .put(&lease(&format!("order/{n}"), 1), TTL)
            .await
            .unwrap();
    }
    let renew = async |instance: String| order.leases.renew(&instance, 7, TTL).await;
    let (mut own, foreign) = (Vec::new(), renew("stock/1".to_owned()));
    for n in 0..5 {
        own.push(renew(format!("order/{n}")));
    }
    let (own, foreign) = tokio::join!(futures_util::future::join_all(own), foreign);
    for renewal in own {
        assert_eq!(renewal.unwrap(), Renewal::Renewed);
    }
    assert!(matches!(foreign, Err(StoreError::Refused { .. })), "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_several_servers_it_does_not_move_the_others_either() {
    let (one, two) = (Guarded::start().await, Guarded::start().await);
    let url = format!("redis://order:secret-order@{},{}", one.address, two.address);
    let cluster = cluster::open(&url, NOBODY, "prod").unwrap();
    for n in 0..6 {
        cluster
            .leases
            .put(&lease(&format!("order/{n}"), 1), TTL)
            .await
            .unwrap();
    }
    for n in 0..6 {
        let foreign = cluster.leases.put(&lease(&format!("stock/{n}"), 1), TTL).await;
        assert!(matches!(foreign, Err(StoreError::Refused { .. })), "{foreign:?}");
        let own = cluster.leases.renew(&format!("order/{n}"), 7, TTL).await.unwrap();
        assert_eq!(own, Renewal::Renewed, "it need not be put again elsewhere");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_denies_one_of_several_is_passed_over_and_taken_again_when_it_allows() {
    let servers = [Guarded::start().await, Guarded::start().await];
    let of_one = |server: &Guarded| format!("redis://order:secret-order@{}", server.address);
    let cluster = cluster::open(&servers.each_ref().map(of_one).join(","), NOBODY, "prod").unwrap();
    let mut member = lease("order/1", 1);
    cluster.leases.put(&member, TTL).await.unwrap();
    // Sources are in the order of the URL.
    let pump = servers.each_ref().map(|server| server.open("pump"));
    let places = async || {
        let mut places = Vec::new();
        for pump in &pump {
            let read = pump.sources[0].read(&["order/1".to_owned()]).await.unwrap();
            places.push(read[0].as_ref().map(|live| live.lease.sequence));
        }
        places
    };
    let home = places().await.iter().position(Option::is_some).unwrap();
    servers[home].set_keys("rsf:prod:lease:elsewhere/*").await;
    let mut keep = async || {
        if cluster.leases.renew("order/1", 7, TTL).await.unwrap() == Renewal::Unknown {
            member.sequence += 1;
            cluster.leases.put(&member, TTL).await.unwrap();
        }
        member.sequence
    };
    assert_eq!(
        keep().await,
        2,
        "put on the other one, for its home denies to renew it"
    );
    assert_eq!(places().await[1 - home], Some(2));
    for _ in 0..3 {
        assert_eq!(keep().await, 2, "and renewed there");
    }
    servers[home].set_keys("rsf:prod:lease:order/*").await;
    assert_eq!(keep().await, 3, "home again");
    assert_eq!(keep().await, 3);
    let mut wanted = vec![None, None];
    wanted[home] = Some(3);
    assert_eq!(places().await, wanted);
    for server in &servers {
        server.set_keys("rsf:prod:lease:elsewhere/*").await;
    }
    assert_eq!(
        cluster.leases.renew("order/1", 7, TTL).await.unwrap(),
        Renewal::Unknown
    );
    let denied = cluster.leases.put(&lease("order/1", 4), TTL).await.unwrap_err();
    assert!(denied.to_string().contains("NOPERM"), "all deny it: {denied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_trial_brings_no_server_back() {
    let (one, two) = (Guarded::start().await, Guarded::start().await);
    let url = format!("redis://order:secret-order@{},{}", one.address, two.address);
    let cluster = cluster::open(&url, NOBODY, "prod").unwrap();
    let names: Vec<String> = (0..24).map(|n| format!("order/{n}")).collect();
    for name in &names {
        cluster.leases.put(&lease(name, 1), TTL).await.unwrap();
    }
    // It takes no writes, so that its leases move, and then denies them.
    one.config("maxmemory", "1").await;
    let mut sequence = 2;
    let mut keep = async || {
        sequence += 1;
        for name in &names {
            if cluster.leases.renew(name, 7, TTL).await.unwrap() == Renewal::Unknown {
                cluster.leases.put(&lease(name, sequence), TTL).await.unwrap();
            }
        }
        let swept = two.open("pump").sources[0].sweep().await.unwrap();
        swept.leases.iter().map(|live| live.lease.sequence).max()
    };
    for name in &names {
        cluster.leases.put(&lease(name, 2), TTL).await.unwrap();
    }
    let moved = keep().await;
    one.set_keys("rsf:prod:lease:elsewhere/*").await;
    one.config("maxmemory", "0").await;
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(4);
    while tokio::time::Instant::now() < end {
        assert_eq!(
            keep().await,
            moved,
            "not put again: nobody moves to where it is denied"
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_work_in_another_database() {
    let redis = Guarded::start_in_database(2).await;
    let (order, pump, console) = (redis.open("order"), redis.open("pump"), redis.open("console"));
    let mut hints = pump.sources[0].hints().await.unwrap();
    pump.sources[0].sweep().await.unwrap();
    order.leases.put(&lease("order/1", 1), TTL).await.unwrap();
    let hint = timeout(PATIENCE, hints.next()).await.unwrap();
    assert_eq!(hint, Some(Hint::Changed("order/1".to_owned())));
    let stock = redis.open("stock");
    stock.leases.put(&lease("stock/1", 1), TTL).await.unwrap();
    assert_eq!(console.sources[0].sweep().await.unwrap().leases.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_is_refused_with_what_to_do() {
    let bus = free_port().to_string();
    let redis = RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
    let refused = |result: Result<(), StoreError>| {
        let error = result.expect_err("refused");
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        assert!(
            error.to_string().contains("several independent servers"),
            "{error}"
        );
    };
    let cluster = cluster::open(&redis.url(), NOBODY, "default").unwrap();
    refused(cluster.leases.put(&lease("member/1", 1), TTL).await);
    // As a whole one: this node serves everything, and the pump would miss what others serve.
    let mut operator = operator(&redis).await;
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("ADDSLOTSRANGE").arg(0).arg(16383);
    slots.exec_async(&mut operator).await.unwrap();
    let source = cluster.sources[0].clone();
    eventually(PATIENCE, async || match source.sweep().await {
        Err(error) if error.to_string().contains("several independent servers") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
