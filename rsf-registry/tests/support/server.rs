//! An embedded registry that serves on a loopback address of its own and can be stopped and started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rsf_registry::embedded::{EmbeddedNamespace, EmbeddedRegistry, EmbeddedStore, serve};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The server and its folder; both end with it.
pub(crate) struct Server {
    address: SocketAddr,
    running: Mutex<Option<Running>>,
    folder: TempDir,
}

struct Running {
    namespace: EmbeddedNamespace,
    store: Arc<EmbeddedStore>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    /// Has an address, but does not serve yet.
    pub(crate) async fn stopped() -> Self {
        // A loopback address of its own, so that the port is still free when the server starts again.
        let host = [127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255)];
        let listener = TcpListener::bind(SocketAddr::from((host, 0)))
            .await
            .expect("bind");
        let address = listener.local_addr().expect("address");
        Server {
            address,
            running: Mutex::new(None),
            folder: tempfile::tempdir().expect("folder"),
        }
    }

    /// Serves the namespaces `default` and `other`.
    pub(crate) async fn started() -> Self {
        let server = Server::stopped().await;
        server.start().await;
        server
    }

    pub(crate) async fn start(&self) {
        let listener = TcpListener::bind(self.address).await.expect("bind");
        let store = EmbeddedStore::open(&self.file(), &["default", "other"])
            .await
            .expect("open");
        let (store, shutdown) = (Arc::new(store), CancellationToken::new());
        let serving = serve(listener, store.clone(), shutdown.clone());
        *self.running.lock() = Some(Running {
            namespace: store.namespace("default").expect("served"),
            store,
            shutdown,
            serving: tokio::spawn(async move { serving.await.expect("serve") }),
        });
    }

    pub(crate) async fn stop(&self) {
        let running = self.running.lock().take().expect("it runs");
        running.shutdown.cancel();
        running.serving.await.expect("served to the end");
        running.store.close().await;
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The registry's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("registry.redb")
    }

    /// The pump's and the console's side of `default`.
    pub(crate) fn namespace(&self) -> EmbeddedNamespace {
        self.running.lock().as_ref().expect("it runs").namespace.clone()
    }

    pub(crate) fn client(&self, namespace: &str) -> EmbeddedRegistry {
        EmbeddedRegistry::new(&self.address(), namespace).expect("client")
    }
}
