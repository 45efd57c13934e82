//! The embedded backend over the network: instances hold an `EmbeddedRegistry`, pump and console are in its process.

use std::sync::Arc;

use async_trait::async_trait;
use rsf_registry::embedded::EmbeddedRegistry;
use rsf_registry::{
    Acknowledgements, Directory, DirectoryWriter, LeaseSource, LeaseStore, PolicyStore, PolicyWriter,
    ReportSource, ReportStore, StoreError,
};

use crate::fixture::{Fixture, Outage};
use crate::server::Server;

conformance!(OverNetwork);
conformance!(outages of OverNetwork);

struct OverNetwork {
    client: EmbeddedRegistry,
    server: Server,
}

#[async_trait]
impl Fixture for OverNetwork {
    async fn new() -> Self {
        let server = Server::started().await;
        OverNetwork {
            client: server.client("default"),
            server,
        }
    }

    fn leases(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.client.clone())
    }
    fn source(&self) -> Arc<dyn LeaseSource> {
        Arc::new(self.server.namespace())
    }
    fn directory(&self) -> Arc<dyn Directory> {
        Arc::new(self.client.clone())
    }
    fn writer(&self) -> Arc<dyn DirectoryWriter> {
        Arc::new(self.server.namespace())
    }
    fn policies(&self) -> Arc<dyn PolicyStore> {
        Arc::new(self.client.clone())
    }
    fn publisher(&self) -> Arc<dyn PolicyWriter> {
        Arc::new(self.server.namespace())
    }
    fn acknowledgements(&self) -> Arc<dyn Acknowledgements> {
        Arc::new(self.client.clone())
    }

    fn reports(&self) -> Arc<dyn ReportStore> {
        Arc::new(self.client.clone())
    }
    fn report_source(&self) -> Arc<dyn ReportSource> {
        Arc::new(self.server.namespace())
    }

    async fn unknown_namespace(&self) -> StoreError {
        self.server
            .client("nowhere")
            .services()
            .await
            .expect_err("not served")
    }
}

#[async_trait]
impl Outage for OverNetwork {
    async fn stop(&self) {
        self.server.stop().await;
    }

    async fn start(&self) {
        self.server.start().await;
    }
}
