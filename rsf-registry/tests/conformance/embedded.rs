//! The embedded backend in its own process.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rsf_registry::embedded::{EmbeddedNamespace, EmbeddedStore};
use rsf_registry::{
    Acknowledgements, Directory, DirectoryWriter, LeaseSource, LeaseStore, PolicyStore, PolicyWriter,
    ReportSource, ReportStore, StoreError,
};
use tempfile::TempDir;

use crate::fixture::Fixture;

conformance!(InProcess);

struct InProcess {
    store: EmbeddedStore,
    namespace: EmbeddedNamespace,
    _folder: TempDir,
}

#[async_trait]
impl Fixture for InProcess {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path: PathBuf = folder.path().join("registry.redb");
        let store = EmbeddedStore::open(&path, &["default", "other"])
            .await
            .expect("open");
        let namespace = store.namespace("default").expect("served");
        InProcess {
            store,
            namespace,
            _folder: folder,
        }
    }

    fn leases(&self) -> Arc<dyn LeaseStore> {
        Arc::new(self.namespace.clone())
    }
    fn source(&self) -> Arc<dyn LeaseSource> {
        Arc::new(self.namespace.clone())
    }
    fn directory(&self) -> Arc<dyn Directory> {
        Arc::new(self.namespace.clone())
    }
    fn writer(&self) -> Arc<dyn DirectoryWriter> {
        Arc::new(self.namespace.clone())
    }
    fn policies(&self) -> Arc<dyn PolicyStore> {
        Arc::new(self.namespace.clone())
    }
    fn publisher(&self) -> Arc<dyn PolicyWriter> {
        Arc::new(self.namespace.clone())
    }
    fn acknowledgements(&self) -> Arc<dyn Acknowledgements> {
        Arc::new(self.namespace.clone())
    }

    fn reports(&self) -> Arc<dyn ReportStore> {
        Arc::new(self.namespace.clone())
    }
    fn report_source(&self) -> Arc<dyn ReportSource> {
        Arc::new(self.namespace.clone())
    }

    async fn unknown_namespace(&self) -> StoreError {
        self.store.namespace("nowhere").expect_err("not served")
    }
}
