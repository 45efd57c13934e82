//! RSF's control path: what instances register, what the pump publishes, what consumers watch.
//!
//! The path of one fact, in order:
//!
//! 1. [`record`]: the records of `rsf.registry.v1`, the same bytes on every backend.
//! 2. [`lease`]: an instance writes its [`record::Lease`] under a TTL and renews it ([`LeaseStore`]); the pump reads
//!    all of them ([`LeaseSource`]).
//! 3. [`directory`]: the pump publishes service → instances lists ([`DirectoryWriter`]); consumers watch them
//!    ([`Directory`]).
//! 4. [`policy`]: the console publishes policy revisions ([`PolicyWriter`]) and every instance watches its own ([`PolicyStore`]), and
//!    acknowledges what it runs ([`Acknowledgements`]).
//! 5. [`report`]: consumers say which instances answer them whose leases are in doubt ([`ReportStore`]), for the pump
//!    ([`ReportSource`]).
//! 6. [`embedded`]: all of it in one process and one file, served over gRPC; [`cluster`]: for fleets, on Redis and
//!    ZooKeeper; [`backend`] opens either by its URL. The store
//!    of deduplicated calls' outcomes is opened there too: it is the provider's, not the registry's, and may share its Redis.
//! 7. [`agent`]: an instance's side of any backend, the [`ControlPlane`](rsf_core::control::ControlPlane) of its data
//!    path; what it last knew is on disk ([`snapshot`]).
//!
//! This crate folds nothing (that is `rsf-pump`), keeps no history of policies (that is `rsf-console`), and decides
//! nothing about a call (that is `rsf-core`).

pub mod world;

pub mod record;

pub mod error;
pub mod watch;

pub mod directory;
pub mod lease;
pub mod policy;
pub mod report;

pub mod limits;

mod format;

mod backoff;

pub mod cluster;
pub mod embedded;

pub mod backend;

pub mod snapshot;

pub mod agent;

pub use agent::{AgentOptions, Registration, RegistrationRequest, RegistryAgent};
pub use backend::{Backend, ControlBackend, DedupUrl, RegistryUrl};
pub use directory::{Directory, DirectoryWriter, Term};
pub use error::StoreError;
pub use lease::{Hint, LeaseSource, LeaseStore, Renewal, Sweep};
pub use policy::{Acknowledgements, PolicyStore, PolicyWriter};
pub use report::{ReportSource, ReportStore, Reported};
pub use watch::{Observed, Watch};
