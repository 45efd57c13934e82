//! What a backend gives to be tested.

use std::sync::Arc;

use async_trait::async_trait;
use rsf_registry::{
    Acknowledgements, Directory, DirectoryWriter, LeaseSource, LeaseStore, PolicyStore, PolicyWriter,
    ReportSource, ReportStore, StoreError,
};

/// A fresh and empty backend of its own; dropping it ends it.
///
/// Each call of a method gives a handle to the backend as it runs now: after [`Outage::start`] ask again.
#[async_trait]
pub(crate) trait Fixture: Send + Sync + Sized + 'static {
    /// Starts the backend.
    async fn new() -> Self;

    /// An instance's side.
    fn leases(&self) -> Arc<dyn LeaseStore>;
    /// The pump's side of the same leases.
    fn source(&self) -> Arc<dyn LeaseSource>;
    /// A consumer's side.
    fn directory(&self) -> Arc<dyn Directory>;
    /// The pump's side of the same lists; each call gives another process's view.
    fn writer(&self) -> Arc<dyn DirectoryWriter>;
    /// An instance's side.
    fn policies(&self) -> Arc<dyn PolicyStore>;
    /// The console's side of the same policies.
    fn publisher(&self) -> Arc<dyn PolicyWriter>;
    /// An instance's and the console's side.
    fn acknowledgements(&self) -> Arc<dyn Acknowledgements>;

    /// A consumer's side.
    fn reports(&self) -> Arc<dyn ReportStore>;
    /// The pump's side of the same reports.
    fn report_source(&self) -> Arc<dyn ReportSource>;

    /// What a client answers whose namespace (`nowhere`) this backend does not have.
    async fn unknown_namespace(&self) -> StoreError;
}

/// A backend that can be stopped under its clients' handles.
#[async_trait]
pub(crate) trait Outage: Fixture {
    /// Stops it: afterwards nobody answers at its address.
    async fn stop(&self);
    /// Starts it again at the same address with what it had stored.
    async fn start(&self);
}
