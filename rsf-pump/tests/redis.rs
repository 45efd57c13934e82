//! The pump over three real Redis servers, with instances that keep their leases as applications do.

#![allow(clippy::expect_used, reason = "a test's steps may not fail")]

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rsf_pump::{Pump, PumpHandle, PumpSettings};
use rsf_registry::cluster::{self, Cluster};
use rsf_registry::embedded::{EmbeddedNamespace, EmbeddedStore};
use rsf_registry::record::{ProvidedService, RemovalCause, ServiceList};
use rsf_registry::{
    AgentOptions, Backend, DirectoryWriter, Registration, RegistrationRequest, RegistryAgent,
};
use rsf_testkit::{RedisServer, TempDir, eventually};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const TTL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// Nobody listens there: the lists stand in a file, and ZooKeeper is not needed.
const NOBODY: &str = "127.0.0.1:1";

/// A pump between three Redis servers and a directory in a file, and the instances of the service `s`.
struct Site {
    redis: Vec<RedisServer>,
    cluster: Cluster,
    directory: EmbeddedNamespace,
    handle: PumpHandle,
    agent: RegistryAgent,
    registrations: Vec<Registration>,
    _pump: AbortOnDropHandle<()>,
    _store: EmbeddedStore,
    _folder: TempDir,
}

impl Site {
    async fn open() -> Site {
        let redis = vec![
            RedisServer::start().await,
            RedisServer::start().await,
            RedisServer::start().await,
        ];
        let urls: Vec<String> = redis.iter().map(RedisServer::url).collect();
        let open = || cluster::open(&urls.join(","), NOBODY, "test").expect("open");
        let folder = TempDir::new("pump-redis");
        let store = EmbeddedStore::open(&folder.join("registry"), &["test"])
            .await
            .expect("a file");
        let directory = store.namespace("test").expect("served");
        let settings = PumpSettings {
            lease_ttl_ms: 3_000,
            sweep_ms: 1_000,
            ..PumpSettings::default()
        };
        let config = settings.validate().expect("valid");
        let writer = Arc::new(directory.clone());
        let pump = Pump::new(open().sources, writer, config, &Registry::new()).expect("a fresh registry");
        let handle = pump.handle();
        let pump = AbortOnDropHandle::new(tokio::spawn(pump.run(CancellationToken::new())));
        let cluster = open();
        let options = AgentOptions {
            lease_ttl: TTL,
            ..AgentOptions::new("test", "three servers")
        };
        Site {
            agent: RegistryAgent::new(Backend::from(cluster.clone()), options).expect("an agent"),
            redis,
            cluster,
            directory,
            handle,
            registrations: Vec::new(),
            _pump: pump,
            _store: store,
            _folder: folder,
        }
    }

    fn register(&mut self, count: usize) {
        for _ in 0..count {
            let n = self.registrations.len();
            let request = RegistrationRequest {
                application: "member".into(),
                instance: Some(format!("{n:03}")),
                address: format!("127.0.0.1:{}", 7_000 + n),
                services: vec![ProvidedService {
                    name: "s".into(),
                    ..Default::default()
                }],
                ..Default::default()
            };
            self.registrations
                .push(self.agent.register(request).expect("a good request"));
        }
    }

    async fn list(&self) -> ServiceList {
        let lists = self.directory.lists().await.expect("lists");
        lists
            .into_iter()
            .find(|list| list.service == "s")
            .unwrap_or_default()
    }

    async fn lists(&self, count: usize) -> Duration {
        let begun = Instant::now();
        eventually(PATIENCE, async || match self.list().await.instances.len() {
            listed if listed == count => Ok(()),
            listed => Err(format!("{listed} of {count} are listed")),
        })
        .await;
        begun.elapsed()
    }

    /// Looks at the list again and again for a while: nobody leaves it.
    async fn keeps(&self, count: usize, during: Duration) {
        let end = Instant::now() + during;
        while Instant::now() < end {
            let list = self.list().await;
            assert_eq!(list.instances.len(), count, "{:?}", list.removed);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many leases are on a server, which may have come back a moment ago.
    async fn on_server(&self, at: usize) -> usize {
        let sweep = eventually(PATIENCE, async || self.cluster.sources[at].sweep().await).await;
        sweep.leases.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_one_of_three_servers_is_down() {
    let mut site = Site::open().await;
    site.register(30);
    site.lists(30).await;
    let share = site.on_server(0).await;
    assert!(
        share > 0 && share < 30,
        "{share} of 30 leases are on the first server"
    );

    site.redis[0].kill9().await;
    site.keeps(30, TTL * 2).await;
    site.register(15);
    let listed = site.lists(45).await;
    println!("15 newcomers are listed {listed:?} after they began, one of three servers down");
    assert_eq!(site.on_server(1).await + site.on_server(2).await, 45);
    // One that leaves meanwhile goes at once, wherever its home is.
    for registration in site.registrations.drain(..5) {
        registration.deregister().await.expect("taken by the next");
    }
    site.lists(40).await;

    site.redis[0].restart_empty().await;
    eventually(PATIENCE, async || match site.on_server(0).await {
        0 => Err("nobody has come home"),
        _ => Ok(()),
    })
    .await;
    site.keeps(40, TTL * 2).await;
    let causes: Vec<RemovalCause> = site
        .list()
        .await
        .removed
        .iter()
        .map(|gone| gone.cause())
        .collect();
    assert_eq!(causes, [RemovalCause::Deregistered; 5]);
    assert!(site.handle.status().ready, "{:?}", site.handle.status());
}
