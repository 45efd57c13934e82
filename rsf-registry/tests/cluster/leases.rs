//! Redis: emptied, replaced, refusing, silent.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rsf_registry::error::REQUEST_TIMEOUT;
use rsf_registry::record::Acknowledgement;
use rsf_registry::{Hint, Renewal, StoreError, cluster};
use rsf_testkit::{RedisServer, eventually};
use tokio::time::{Instant, timeout};

use crate::{NOBODY, PATIENCE, TTL, lease, operator, with_redis};

/// A gap must be told within this time of its cause.
const GAP_WITHIN: Duration = Duration::from_secs(5);

async fn gap(hints: &mut BoxStream<'static, Hint>, cause: &str) {
    let told = async { while hints.next().await.expect("hints go on") != Hint::Gap {} };
    timeout(GAP_WITHIN, told)
        .await
        .unwrap_or_else(|_| panic!("no gap after {cause}"));
}

async fn changed(hints: &mut BoxStream<'static, Hint>, instance: &str) {
    let wanted = Hint::Changed(instance.to_owned());
    let told = async { while hints.next().await.expect("hints go on") != wanted {} };
    timeout(PATIENCE, told)
        .await
        .unwrap_or_else(|_| panic!("no hint of {instance}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_empty_again_it_is_another_source_and_knows_no_lease() {
    let mut redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    let before = cluster.sources[0].sweep().await.unwrap();
    assert_eq!(before.leases.len(), 1);
    let ids = ["member/1".to_owned()];
    redis.restart_empty().await;
    let renewal = eventually(PATIENCE, async || cluster.leases.renew("member/1", 7, TTL).await).await;
    assert_eq!(renewal, Renewal::Unknown);
    let unswept = cluster.sources[0].read(&ids).await;
    assert!(
        matches!(unswept, Err(StoreError::Unavailable { .. })),
        "what the store lost has not left: {unswept:?}"
    );
    let after = cluster.sources[0].sweep().await.unwrap();
    assert_ne!(after.source, before.source);
    assert_eq!(after.leases, []);
    assert_eq!(
        cluster.sources[0].read(&ids).await.unwrap(),
        [None],
        "told once it was swept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_its_old_data_is_another_source_too() {
    let mut redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    let before = cluster.sources[0].sweep().await.unwrap();
    redis.save().await;
    redis.restart().await;
    let after = eventually(PATIENCE, async || cluster.sources[0].sweep().await).await;
    assert_eq!(after.leases.len(), 1);
    assert_ne!(after.source, before.source);
}

#[tokio::test(flavor = "multi_thread")]
async fn flushed_it_is_another_source_and_tells_a_gap() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    let mut hints = cluster.sources[0].hints().await.unwrap();
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    let before = cluster.sources[0].sweep().await.unwrap();
    redis::cmd("FLUSHALL")
        .exec_async(&mut operator(&redis).await)
        .await
        .unwrap();
    gap(&mut hints, "FLUSHALL").await;
    assert_ne!(cluster.sources[0].sweep().await.unwrap().source, before.source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_subscription_tells_a_gap_and_goes_on() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    let mut hints = cluster.sources[0].hints().await.unwrap();
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    changed(&mut hints, "member/1").await;
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("pubsub");
    let killed: u64 = kill.query_async(&mut operator(&redis).await).await.unwrap();
    assert_eq!(killed, 1);
    gap(&mut hints, "CLIENT KILL").await;
    cluster.leases.put(&lease("member/2", 1), TTL).await.unwrap();
    changed(&mut hints, "member/2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_turned_off_tell_gaps_until_they_are_on_again() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    let mut hints = cluster.sources[0].hints().await.unwrap();
    let mut operator = operator(&redis).await;
    let mut set = async |value: &str| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("notify-keyspace-events").arg(value);
        set.exec_async(&mut operator).await.unwrap();
    };
    set("").await;
    gap(&mut hints, "turning them off").await;
    gap(&mut hints, "leaving them off").await;
    set("K$x").await;
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    changed(&mut hints, "member/1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_renewals_nor_acknowledgements_are_hinted() {
    // With every notification on, as a careless operator sets it.
    let redis = RedisServer::start_with(&["--notify-keyspace-events", "KEA"]).await;
    let cluster = with_redis(&redis);
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    let mut hints = cluster.sources[0].hints().await.unwrap();
    for n in 0..500 {
        let acknowledgement = acknowledgement(&format!("member/{n}"));
        cluster
            .acknowledgements
            .acknowledge(&[acknowledgement], TTL)
            .await
            .unwrap();
        assert_eq!(
            cluster.leases.renew("member/1", 7, TTL).await.unwrap(),
            Renewal::Renewed
        );
    }
    cluster.leases.put(&lease("member/2", 1), TTL).await.unwrap();
    let first = timeout(PATIENCE, hints.next()).await.unwrap();
    assert_eq!(first, Some(Hint::Changed("member/2".to_owned())));
    assert_eq!(
        cluster
            .acknowledgements
            .acknowledged("fleet")
            .await
            .unwrap()
            .len(),
        500
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn overdue_acknowledgements_go_even_where_nobody_reads_them() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    let short = Duration::from_millis(200);
    for n in 0..200 {
        let acknowledgement = acknowledgement(&format!("member/{n}"));
        cluster
            .acknowledgements
            .acknowledge(&[acknowledgement], short)
            .await
            .unwrap();
    }
    let mut operator = operator(&redis).await;
    let living = [acknowledgement("member/living")];
    eventually(PATIENCE, async || {
        cluster.acknowledgements.acknowledge(&living, TTL).await.unwrap();
        let left: u64 = redis::cmd("HLEN")
            .arg("rsf:default:ack:fleet")
            .query_async(&mut operator)
            .await
            .unwrap();
        if left == 1 {
            Ok(())
        } else {
            Err(format!("{left} fields are left"))
        }
    })
    .await;
    assert_eq!(
        cluster.acknowledgements.acknowledged("fleet").await.unwrap(),
        living
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_new_leases_and_still_renews() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    let mut operator = operator(&redis).await;
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg(1)
        .exec_async(&mut operator)
        .await
        .unwrap();
    let refused = cluster.leases.put(&lease("member/2", 1), TTL).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Refused { .. }) && !refused.is_transient(),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("maxmemory"), "{refused}");
    assert_eq!(
        cluster.leases.renew("member/1", 7, TTL).await.unwrap(),
        Renewal::Renewed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_refuses_writes_and_is_no_source() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    cluster.sources[0].sweep().await.unwrap();
    let mut operator = operator(&redis).await;
    redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(1)
        .exec_async(&mut operator)
        .await
        .unwrap();
    let refused = cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Refused { .. }), "{refused:?}");
    assert!(refused.to_string().contains("primary"), "{refused}");
    let swept = cluster.sources[0].sweep().await;
    assert!(matches!(swept, Err(StoreError::Refused { .. })), "{swept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_wrong_password_says_so_and_is_never_shown() {
    let redis = RedisServer::start().await;
    let mut require = redis::cmd("CONFIG");
    require.arg("SET").arg("requirepass").arg("right-secret");
    require.exec_async(&mut operator(&redis).await).await.unwrap();
    let address = redis.address();
    for url in [
        format!("redis://{address}"),
        format!("redis://:wrong-secret@{address}"),
    ] {
        let cluster = cluster::open(&url, NOBODY, "default").unwrap();
        let refused = cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Refused { .. }), "{refused:?}");
        let shown = format!("{refused} {refused:?} {cluster:?}");
        assert!(
            shown.contains("RSF_REGISTRY") && !shown.contains("secret"),
            "{shown}"
        );
    }
    let cluster = cluster::open(&format!("redis://:right-secret@{address}"), NOBODY, "default").unwrap();
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    let nonsense = cluster::open("http://user:some-secret@host", NOBODY, "default")
        .unwrap_err()
        .to_string();
    assert!(
        nonsense.contains("redis[s]://") && !nonsense.contains("secret"),
        "{nonsense}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_unavailable_in_time_and_comes_back() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    redis.pause().await;
    let begun = Instant::now();
    let renewal = cluster.leases.renew("member/1", 7, TTL).await;
    assert!(
        matches!(renewal, Err(StoreError::Unavailable { .. })),
        "{renewal:?}"
    );
    assert!(
        begun.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    redis.resume();
    let renewal = eventually(PATIENCE, async || cluster.leases.renew("member/1", 7, TTL).await).await;
    assert_eq!(renewal, Renewal::Renewed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_under_a_lease_is_left_out() {
    let redis = RedisServer::start().await;
    let cluster = with_redis(&redis);
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    let mut operator = operator(&redis).await;
    let mut set = redis::pipe();
    set.cmd("SET")
        .arg("rsf:default:lease:member/x")
        .arg("not a lease");
    set.cmd("PERSIST").arg("rsf:default:lease:member/1");
    set.cmd("SET")
        .arg("rsf:default-2:lease:member/y")
        .arg("of another namespace");
    set.exec_async(&mut operator).await.unwrap();
    let sweep = cluster.sources[0].sweep().await.unwrap();
    assert_eq!(sweep.leases.len(), 1);
    assert!(
        sweep.leases[0].remaining < TTL,
        "a lease without TTL does not live for ever"
    );
}

fn acknowledgement(instance: &str) -> Acknowledgement {
    Acknowledgement {
        instance: instance.into(),
        incarnation: 7,
        application: "member".into(),
        scope: "fleet".into(),
        revision: 1,
        ..Default::default()
    }
}
