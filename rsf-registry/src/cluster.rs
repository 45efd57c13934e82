//! The backend for fleets: leases and acknowledgements in Redis, directory, election and policies in ZooKeeper.
//!
//! [`open`] returns at once and connects in the background; every request has a time limit; what a server refuses
//! comes back as [`StoreError::Refused`] with what to do about it.

mod zookeeper;

mod directory;
mod lists;

mod election;
mod policy;
mod redis;

use std::sync::Arc;
use std::time::Duration;

pub use directory::ZooKeeperDirectory;
pub use policy::ZooKeeperPolicies;
pub use redis::{RedisDedup, RedisLeases, RedisServers, RedisUrl};

use crate::directory::ListOpener;
use crate::{
    Acknowledgements, Directory, DirectoryWriter, LeaseSource, LeaseStore, PolicyWriter, ReportSource,
    ReportStore, StoreError, limits,
};
use zookeeper::Session;
use zookeeper::namespace::Namespace;
pub(crate) use zookeeper::place::Place;
pub(crate) use zookeeper::{LEADER_SESSION, READER_SESSION};

/// The stores of one namespace on Redis and ZooKeeper. They share one connection to each server.
#[derive(Clone)]
pub struct Cluster {
    /// Where instances keep their leases.
    pub leases: Arc<dyn LeaseStore>,
    /// Where the pump reads all leases: one source for each server.
    pub sources: Vec<Arc<dyn LeaseSource>>,
    /// Where instances say which policies they run.
    pub acknowledgements: Arc<dyn Acknowledgements>,
    /// Where consumers say what they know of instances.
    pub reports: Arc<dyn ReportStore>,
    /// Where the pump reads that.
    pub report_source: Arc<dyn ReportSource>,
    /// Where consumers watch lists.
    pub directory: Arc<dyn Directory>,
    /// Where the leading pump writes lists.
    pub writer: Arc<dyn DirectoryWriter>,
    /// Where the current policies stand and the console publishes them.
    pub policies: Arc<dyn PolicyWriter>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// Opens the stores of a namespace; must be called inside a Tokio runtime.
///
/// Its ZooKeeper session is a leader's: it ends when it was silent for 6 s. What [`Backend`](crate::Backend) opens only
/// reads, and ends after 30 s.
///
/// `redis` is `redis[s]://[user:password@]host:port[/db][,host:port…]`, `zookeeper_servers` is `host:port[,host:port…]`
/// without a scheme. No server needs to be up. [`StoreError::Refused`] or [`StoreError::Invalid`] where an address or
/// the namespace makes no sense.
pub fn open(redis: &str, zookeeper_servers: &str, namespace: &str) -> Result<Cluster, StoreError> {
    open_with(redis, zookeeper_servers, namespace, ListOpener::unverified())
}

/// The same, with the keys that lists must be signed with.
///
/// # Errors
/// As [`open`].
pub fn open_with(
    redis: &str,
    zookeeper_servers: &str,
    namespace: &str,
    lists: ListOpener,
) -> Result<Cluster, StoreError> {
    let redis = RedisUrl::parse_list(redis).map_err(redis::invalid_url)?;
    open_at(&redis, zookeeper_servers, LEADER_SESSION, namespace, lists)
}

pub(crate) fn open_at(
    redis: &[RedisUrl],
    zookeeper_servers: &str,
    session: Duration,
    namespace: &str,
    lists: ListOpener,
) -> Result<Cluster, StoreError> {
    limits::check_namespace(namespace)?;
    let servers = redis
        .iter()
        .map(|url| RedisLeases::open(url, namespace))
        .collect::<Result<Vec<_>, _>>()?;
    let nodes = Namespace::new(Session::open(zookeeper_servers, session)?, namespace);
    let directory = Arc::new(ZooKeeperDirectory::new(nodes.clone(), lists));
    let sources = servers
        .iter()
        .map(|server| Arc::new(server.clone()) as Arc<dyn LeaseSource>)
        .collect();
    let stores = match &servers[..] {
        [only] => Stores::of(Arc::new(only.clone())),
        _ => Stores::of(Arc::new(RedisServers::new(servers))),
    };
    Ok(Cluster {
        leases: stores.leases,
        sources,
        acknowledgements: stores.acknowledgements,
        reports: stores.reports,
        report_source: stores.report_source,
        directory: directory.clone(),
        writer: directory,
        policies: Arc::new(ZooKeeperPolicies::new(nodes)),
    })
}

/// What one Redis server does as well as several.
struct Stores {
    leases: Arc<dyn LeaseStore>,
    acknowledgements: Arc<dyn Acknowledgements>,
    reports: Arc<dyn ReportStore>,
    report_source: Arc<dyn ReportSource>,
}

impl Stores {
    fn of<S: LeaseStore + Acknowledgements + ReportStore + ReportSource>(store: Arc<S>) -> Self {
        Stores {
            leases: store.clone(),
            acknowledgements: store.clone(),
            reports: store.clone(),
            report_source: store,
        }
    }
}
