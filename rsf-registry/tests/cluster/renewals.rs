//! Renewals of many leases in one process: few round trips, and what they cost Redis.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt, stream};
use redis::aio::MultiplexedConnection;
use rsf_registry::cluster::Cluster;
use rsf_registry::{AgentOptions, Backend, RegistrationRequest, RegistryAgent, Renewal, StoreError};
use rsf_testkit::RedisServer;

use crate::{TTL, lease, operator, with_redis};

/// How many scripts the server has run.
async fn scripts(operator: &mut MultiplexedConnection) -> u64 {
    let stats: HashMap<String, String> = info(operator, "commandstats").await;
    let calls = stats
        .get("cmdstat_evalsha")
        .and_then(|stat| stat.split([',', '=']).nth(1));
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Seconds of processor time that the server's main thread has taken.
async fn processor(operator: &mut MultiplexedConnection) -> f64 {
    let cpu: HashMap<String, String> = info(operator, "cpu").await;
    let seconds = |key: &str| cpu[key].parse::<f64>().unwrap();
    seconds("used_cpu_user_main_thread") + seconds("used_cpu_sys_main_thread")
}

async fn info(operator: &mut MultiplexedConnection, section: &str) -> HashMap<String, String> {
    let text: String = redis::cmd("INFO")
        .arg(section)
        .query_async(operator)
        .await
        .unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

async fn put(cluster: &Cluster, leases: usize) {
    stream::iter(0..leases)
        .for_each_concurrent(500, async |n| {
            let lease = lease(&format!("member/{n}"), 1);
            cluster.leases.put(&lease, TTL).await.unwrap();
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_one_moment_go_out_together() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    let mut operator = operator(&redis).await;
    put(&cluster, 1_000).await;
    let before = scripts(&mut operator).await;
    let renewals = (0..1_000).map(|n| {
        let leases = cluster.leases.clone();
        async move { leases.renew(&format!("member/{n}"), 7, TTL).await }
    });
    for renewal in try_join_all(renewals).await.unwrap() {
        assert_eq!(renewal, Renewal::Renewed);
    }
    // One more where this process stood still for longer than it gathers.
    let ran = scripts(&mut operator).await - before;
    assert!((10..=20).contains(&ran), "{ran} scripts for 1 000 renewals");
    // Each gets its own answer.
    let answers = [("member/1", 7), ("member/2", 8), ("nobody/1", 7)].map(|(instance, incarnation)| {
        let leases = cluster.leases.clone();
        async move { leases.renew(instance, incarnation, TTL).await.unwrap() }
    });
    assert_eq!(
        join_all(answers).await,
        [Renewal::Renewed, Renewal::Unknown, Renewal::Unknown]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_lease_costs_the_others_nothing() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    put(&cluster, 10).await;
    let mut operator = operator(&redis).await;
    let mut push = redis::cmd("RPUSH");
    push.arg("rsf:default:lease:member/list").arg("x");
    push.exec_async(&mut operator).await.unwrap();
    let renew = async |instance: String| cluster.leases.renew(&instance, 7, TTL).await;
    let others = join_all((0..10).map(|n| renew(format!("member/{n}"))));
    let (wrong, others) = tokio::join!(renew("member/list".to_owned()), others);
    assert!(matches!(wrong, Err(StoreError::Refused { .. })), "{wrong:?}");
    for renewal in others {
        assert_eq!(renewal.unwrap(), Renewal::Renewed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instances_of_a_process_renew_at_one_moment() {
    const INSTANCES: usize = 50;
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    let options = AgentOptions {
        lease_ttl: Duration::from_secs(3),
        ..AgentOptions::new("default", "redis")
    };
    let agent = RegistryAgent::new(Backend::from(cluster.clone()), options).unwrap();
    let mut registrations = Vec::new();
    for n in 0..INSTANCES {
        let registration = agent.register(RegistrationRequest {
            application: "member".into(),
            instance: Some(n.to_string()),
            ..Default::default()
        });
        registrations.push(registration.unwrap());
    }
    for registration in &registrations {
        let mut status = registration.status();
        status.wait_for(|status| status.registered).await.unwrap();
    }
    let mut operator = operator(&redis).await;
    let before = scripts(&mut operator).await;
    // Two TTLs: each lease is renewed five times at least, or it would be gone.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let ran = scripts(&mut operator).await - before;
    assert_eq!(cluster.sources[0].sweep().await.unwrap().leases.len(), INSTANCES);
    assert!(ran < 40, "{ran} scripts for about 300 renewals");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_they_cost_redis() {
    const LEASES: usize = 20_000;
    const CONNECTIONS: usize = 100;
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    let mut operator = operator(&redis).await;
    put(&cluster, LEASES).await;
    let before = processor(&mut operator).await;
    for some in (0..LEASES).step_by(1_000) {
        let together = (some..some + 1_000).map(|n| {
            let leases = cluster.leases.clone();
            async move { leases.renew(&format!("member/{n}"), 7, TTL).await }
        });
        try_join_all(together).await.unwrap();
    }
    let batched = processor(&mut operator).await - before;
    let processes: Vec<Cluster> = (0..CONNECTIONS).map(|_| with_redis(&redis)).collect();
    let before = processor(&mut operator).await;
    let alone = processes.iter().enumerate().map(|(at, process)| async move {
        for n in (at..LEASES).step_by(CONNECTIONS) {
            process.leases.renew(&format!("member/{n}"), 7, TTL).await?;
        }
        Ok::<_, StoreError>(())
    });
    try_join_all(alone).await.unwrap();
    let single = processor(&mut operator).await - before;
    let of_a_core = |seconds: f64| seconds / LEASES as f64 * 30_000.0 * 100.0;
    println!(
        "30 000 renewals/s take {:.0} % of a core of Redis, each by itself over {CONNECTIONS} connections, and {:.0} % in batches",
        of_a_core(single),
        of_a_core(batched)
    );
    assert!(batched < single, "{batched} s, {single} s");
}
