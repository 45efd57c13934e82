//! The store in a Redis of its own.

use std::sync::Arc;
use std::time::Duration;

use rsf_core::server::dedup::{Claimed, DedupStore, EntryState, Held};
use rsf_registry::StoreError;
use rsf_registry::cluster::RedisDedup;
use rsf_testkit::RedisServer;
use tokio::time::{Instant, timeout};

use crate::suite::{Fixture, claim, key};

conformance!(Redis);

struct Redis {
    server: RedisServer,
    store: Arc<RedisDedup>,
}

impl Fixture for Redis {
    async fn new() -> Self {
        let server = RedisServer::start().await;
        let store = Arc::new(RedisDedup::open(&server.url(), "default").expect("open"));
        Redis { server, store }
    }

    fn store(&self) -> Arc<dyn DedupStore> {
        self.store.clone()
    }
}

impl Redis {
    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.server.url()).expect("a client");
        let connection = client.get_multiplexed_async_connection().await;
        connection.expect("a connection")
    }
}

fn is_new(claimed: &Claimed) -> bool {
    matches!(claimed, Claimed::New { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_fails_at_once_and_a_restarted_one_is_found_again() {
    let mut redis = Redis::new().await;
    let own = claim("a", 60_000, 60_000);
    let store = redis.store.clone();
    assert!(is_new(&store.claim(&key("a"), &own).await.expect("claimed")));
    redis.server.kill9().await;
    let begun = Instant::now();
    for _ in 0..10 {
        let error = store.claim(&key("b"), &own).await.expect_err("dead");
        assert!(error.to_string().starts_with("redis at 127.0.0.1:"), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    redis.server.restart_empty().await;
    let back = async {
        loop {
            match store.claim(&key("b"), &own).await {
                Ok(claimed) => break claimed,
                Err(_) => crate::suite::ms(20).await,
            }
        }
    };
    let claimed = timeout(Duration::from_secs(10), back).await.expect("in time");
    // It has forgotten the first claim, and says so.
    let Claimed::New { memory } = claimed else {
        panic!("{claimed:?}")
    };
    assert!(memory < Duration::from_secs(10), "{memory:?}");
    assert_eq!(store.renew(&key("a"), &own).await, Ok(Held::Lost));
}

async fn command(server: &RedisServer, words: &[&str]) -> String {
    let client = redis::Client::open(server.url()).expect("a client");
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .expect("a connection");
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command.query_async(&mut connection).await.expect("an answer")
}

async fn memory(store: &RedisDedup, id: &str) -> Duration {
    match store.claim(&key(id), &claim("a", 60_000, 60_000)).await {
        Ok(Claimed::New { memory }) => memory,
        other => panic!("{id}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_vouches_for_nothing_before_its_promotion() {
    let primary = Redis::new().await;
    let replica = Redis::new().await;
    assert_eq!(memory(&primary.store, "a").await, Duration::ZERO);
    let (host, port) = (
        primary.server.address().ip().to_string(),
        primary.server.address().port().to_string(),
    );
    command(&replica.server, &["REPLICAOF", &host, &port]).await;
    let since = "rsf:default:dedup-since";
    let copied = async {
        while !command(&replica.server, &["INFO", "replication"])
            .await
            .contains("master_link_status:up")
        {
            crate::suite::ms(20).await;
        }
    };
    timeout(Duration::from_secs(20), copied).await.expect("in time");
    let before = command(&replica.server, &["GET", since]).await;
    assert_eq!(before, command(&primary.server, &["GET", since]).await);
    crate::suite::ms(50).await;
    assert!(memory(&primary.store, "b").await >= Duration::from_millis(50));
    command(&replica.server, &["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(memory(&replica.store, "c").await, Duration::ZERO);
    // From then on it remembers, and what was copied stands.
    crate::suite::ms(50).await;
    assert!(memory(&replica.store, "d").await >= Duration::from_millis(50));
    let found = replica.store.look(&key("a")).await.expect("an answer");
    assert_eq!(found.expect("stands").state, EntryState::InProgress);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_restarted_with_its_data_vouches_for_nothing_before_its_restart() {
    let mut redis = Redis::new().await;
    assert_eq!(memory(&redis.store, "a").await, Duration::ZERO);
    redis.server.save().await;
    redis.server.restart().await;
    let store = RedisDedup::open(&redis.server.url(), "default").expect("open");
    assert_eq!(memory(&store, "b").await, Duration::ZERO);
    // Its data is there.
    let found = store.look(&key("a")).await.expect("an answer");
    assert_eq!(found.expect("stands").state, EntryState::InProgress);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stopped_server_is_asked_is_done_in_order_when_it_goes_on() {
    let redis = Redis::new().await;
    let own = claim("a", 60_000, 60_000);
    // So that the server knows the scripts: what it does not know would be sent anew, after its answer.
    redis.store.claim(&key("before"), &own).await.expect("claimed");
    redis
        .store
        .settle(&key("before"), &own, None)
        .await
        .expect("settled");
    redis.server.pause().await;
    let soon = Duration::from_millis(200);
    // Nobody waits for the answers.
    assert!(timeout(soon, redis.store.claim(&key("a"), &own)).await.is_err());
    assert!(timeout(soon, redis.store.claim(&key("b"), &own)).await.is_err());
    assert!(
        timeout(soon, redis.store.settle(&key("b"), &own, None))
            .await
            .is_err()
    );
    redis.server.resume();
    let found = redis
        .store
        .look(&key("a"))
        .await
        .expect("an answer")
        .expect("stands");
    assert_eq!(found.state, EntryState::InProgress);
    let found = redis
        .store
        .look(&key("b"))
        .await
        .expect("an answer")
        .expect("known");
    assert_eq!(found.state, EntryState::Released);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_writes_one_key_a_call_with_a_ttl_under_its_namespace() {
    let redis = Redis::new().await;
    let other = RedisDedup::open(&redis.server.url(), "other").expect("open");
    let own = claim("a", 10_000, 60_000);
    assert!(is_new(
        &redis.store.claim(&key("a"), &own).await.expect("claimed")
    ));
    assert!(is_new(&other.claim(&key("a"), &own).await.expect("claimed")));
    let mut connection = redis.connection().await;
    let mut keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut connection)
        .await
        .expect("keys");
    keys.sort();
    let key = key("a");
    let wanted = [
        "rsf:default:dedup-since".to_owned(),
        format!("rsf:default:dedup:{key}"),
        "rsf:other:dedup-since".to_owned(),
        format!("rsf:other:dedup:{key}"),
    ];
    assert_eq!(keys, wanted);
    let ttl: i64 = redis::cmd("PTTL")
        .arg(&keys[1])
        .query_async(&mut connection)
        .await
        .expect("a TTL");
    assert!((60_000..=70_000).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_version_wrote_is_neither_run_nor_touched() {
    let redis = Redis::new().await;
    let own = claim("a", 60_000, 60_000);
    let mut connection = redis.connection().await;
    for (id, bytes) in [("later", "2c and more"), ("short", "1d"), ("foreign", "")] {
        let name = format!("rsf:default:dedup:{}", key(id));
        let () = redis::cmd("SET")
            .arg(&name)
            .arg(bytes)
            .query_async(&mut connection)
            .await
            .expect("set");
        let claimed = redis.store.claim(&key(id), &own).await.expect("an answer");
        let Claimed::Stands(entry) = claimed else {
            panic!("{id}: {claimed:?}")
        };
        assert_eq!(entry.state, EntryState::Unreadable, "{id}");
        assert_eq!(redis.store.renew(&key(id), &own).await, Ok(Held::Taken), "{id}");
        assert_eq!(
            redis.store.settle(&key(id), &own, None).await,
            Ok(Held::Taken),
            "{id}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_says_what_to_do() {
    let server = RedisServer::start_with(&["--maxmemory", "2mb"]).await;
    let store = RedisDedup::open(&server.url(), "default").expect("open");
    let own = claim("a", 60_000, 60_000);
    let outcome = vec![7; 100_000].into();
    let error = async {
        for number in 0.. {
            let key = key(&number.to_string());
            if let Err(error) = store.settle(&key, &own, Some(&outcome)).await {
                return error.to_string();
            }
        }
        unreachable!()
    };
    let error = error.await;
    assert!(error.contains("maxmemory"), "{error}");
}

#[tokio::test]
async fn a_bad_url_or_namespace_is_refused_without_its_password() {
    let error = RedisDedup::open("redis://:secret@:0/x", "default").expect_err("refused");
    assert!(!error.to_string().contains("secret"), "{error}");
    let refused = RedisDedup::open("redis://127.0.0.1:1", "a/b");
    assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{refused:?}");
}
