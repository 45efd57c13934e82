//! The embedded backend over the network: instances hold an `EmbeddedRegistry`, pump and console are in its process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rsf_registry::embedded::{EmbeddedNamespace, EmbeddedRegistry, EmbeddedStore, serve};
use rsf_registry::{
    Acknowledgements, Directory, DirectoryWriter, LeaseSource, LeaseStore, PolicyStore, PolicyWriter,
    StoreError,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, Outage};

conformance!(OverNetwork);
conformance!(outages of OverNetwork);

struct OverNetwork {
    client: EmbeddedRegistry,
    address: SocketAddr,
    server: Mutex<Option<Server>>,
    folder: TempDir,
}

struct Server {
    namespace: EmbeddedNamespace,
    store: Arc<EmbeddedStore>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    async fn start(folder: &Path, listener: TcpListener) -> Self {
        let store = EmbeddedStore::open(&folder.join("registry.redb"), &["default", "other"])
            .await
            .expect("open");
        let (store, shutdown) = (Arc::new(store), CancellationToken::new());
        let serving = serve(listener, store.clone(), shutdown.clone());
        Server {
            namespace: store.namespace("default").expect("served"),
            store,
            shutdown,
            serving: tokio::spawn(async move { serving.await.expect("serve") }),
        }
    }
}

impl OverNetwork {
    fn namespace(&self) -> EmbeddedNamespace {
        self.server
            .lock()
            .as_ref()
            .expect("the server runs")
            .namespace
            .clone()
    }
}

#[async_trait]
impl Fixture for OverNetwork {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        // A loopback address of its own, so that the port is still free when the server starts again.
        let host = [127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255)];
        let listener = TcpListener::bind(SocketAddr::from((host, 0)))
            .await
            .expect("bind");
        let address = listener.local_addr().expect("address");
        let server = Server::start(folder.path(), listener).await;
        let client = EmbeddedRegistry::new(&address.to_string(), "default").expect("client");
        OverNetwork {
            client,
            address,
            server: Mutex::new(Some(server)),
            folder,
        }
    }

    fn leases(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.client.clone())
    }
    fn source(&self) -> Arc<dyn LeaseSource> {
        Arc::new(self.namespace())
    }
    fn directory(&self) -> Arc<dyn Directory> {
        Arc::new(self.client.clone())
    }
    fn writer(&self) -> Arc<dyn DirectoryWriter> {
        Arc::new(self.namespace())
    }
    fn policies(&self) -> Arc<dyn PolicyStore> {
        Arc::new(self.client.clone())
    }
    fn publisher(&self) -> Arc<dyn PolicyWriter> {
        Arc::new(self.namespace())
    }
    fn acknowledgements(&self) -> Arc<dyn Acknowledgements> {
        Arc::new(self.client.clone())
    }

    async fn unknown_namespace(&self) -> StoreError {
        let client = EmbeddedRegistry::new(&self.address.to_string(), "nowhere").expect("client");
        client.services().await.expect_err("not served")
    }
}

#[async_trait]
impl Outage for OverNetwork {
    async fn stop(&self) {
        let server = self.server.lock().take().expect("the server runs");
        server.shutdown.cancel();
        server.serving.await.expect("served to the end");
        server.store.close().await;
    }

    async fn start(&self) {
        let listener = TcpListener::bind(self.address).await.expect("bind again");
        *self.server.lock() = Some(Server::start(self.folder.path(), listener).await);
    }
}
