//! The backend for fleets, on a Redis and a ZooKeeper of its own.

use std::sync::Arc;

use async_trait::async_trait;
use rsf_registry::{
    Acknowledgements, Backend, ControlBackend, Directory, DirectoryWriter, LeaseSource, LeaseStore,
    PolicyStore, PolicyWriter, RegistryUrl, ReportSource, ReportStore, StoreError,
};
use rsf_testkit::{RedisServer, ZooKeeper};
use tokio::sync::Mutex;

use crate::fixture::{Fixture, Outage};

conformance!(RedisAndZooKeeper);
conformance!(outages of RedisAndZooKeeper);

struct RedisAndZooKeeper {
    servers: Mutex<(RedisServer, ZooKeeper)>,
    url: RegistryUrl,
    instance: Backend,
    source: Arc<dyn LeaseSource>,
}

impl RedisAndZooKeeper {
    /// Another pump's or console's view.
    fn control(&self) -> ControlBackend {
        ControlBackend::open(&self.url, "default").expect("open")
    }
}

#[async_trait]
impl Fixture for RedisAndZooKeeper {
    async fn new() -> Self {
        let (redis, zookeeper) = in_place(async { tokio::join!(RedisServer::start(), ZooKeeper::start()) });
        let url: RegistryUrl = format!("{},{}", redis.url(), zookeeper.url())
            .parse()
            .expect("url");
        let instance = Backend::open(&url, "default").expect("open");
        let source = ControlBackend::open(&url, "default")
            .expect("open")
            .lease_sources
            .remove(0);
        RedisAndZooKeeper {
            servers: Mutex::new((redis, zookeeper)),
            url,
            instance,
            source,
        }
    }

    fn leases(&self) -> Arc<dyn LeaseStore> {
        self.instance.leases.clone()
    }
    fn source(&self) -> Arc<dyn LeaseSource> {
        self.source.clone()
    }
    fn directory(&self) -> Arc<dyn Directory> {
        self.instance.directory.clone()
    }
    fn writer(&self) -> Arc<dyn DirectoryWriter> {
        self.control().directory
    }
    fn policies(&self) -> Arc<dyn PolicyStore> {
        self.instance.policies.clone()
    }
    fn publisher(&self) -> Arc<dyn PolicyWriter> {
        self.control().policies
    }
    fn acknowledgements(&self) -> Arc<dyn Acknowledgements> {
        self.instance.acknowledgements.clone()
    }

    fn reports(&self) -> Arc<dyn ReportStore> {
        self.instance.reports.clone()
    }
    fn report_source(&self) -> Arc<dyn ReportSource> {
        self.control().reports
    }

    async fn unknown_namespace(&self) -> StoreError {
        self.writer().lead("pump", 0).await.expect("makes its namespace");
        let stranger = Backend::open(&self.url, "nowhere").expect("open");
        stranger.directory.services().await.expect_err("not served")
    }
}

#[async_trait]
impl Outage for RedisAndZooKeeper {
    async fn stop(&self) {
        self.servers.lock().await.0.kill9().await;
        self.servers.lock().await.1.kill9().await;
    }

    async fn start(&self) {
        let mut servers = self.servers.lock().await;
        let (redis, zookeeper) = &mut *servers;
        in_place(async { tokio::join!(redis.restart(), zookeeper.restart()) });
    }
}

/// Runs a future of the test kit, which the compiler cannot prove to be `Send`.
fn in_place<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}
