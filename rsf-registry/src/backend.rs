//! A backend, opened by its URL.

mod dedup;
mod url;

use std::sync::Arc;
use std::time::Duration;

pub use dedup::{DedupUrl, InvalidDedupUrl};
pub use url::{InvalidRegistryUrl, RegistryUrl};

use crate::cluster::{self, Cluster, LEADER_SESSION, READER_SESSION, RedisUrl};
use crate::directory::ListOpener;
use crate::embedded::{EmbeddedNamespace, EmbeddedRegistry};
use crate::{
    Acknowledgements, Directory, DirectoryWriter, LeaseSource, LeaseStore, PolicyStore, PolicyWriter,
    ReportSource, ReportStore, StoreError,
};

/// What every instance uses of a registry, in one namespace.
#[derive(Clone)]
pub struct Backend {
    /// Its own lease.
    pub leases: Arc<dyn LeaseStore>,
    /// The lists that it watches.
    pub directory: Arc<dyn Directory>,
    /// The policies that it watches.
    pub policies: Arc<dyn PolicyStore>,
    /// What it says of the policies that it runs.
    pub acknowledgements: Arc<dyn Acknowledgements>,
    /// What it says of instances whose registration is in doubt.
    pub reports: Arc<dyn ReportStore>,
}

impl Backend {
    /// The registry at `url`. Returns at once and connects when it is used; call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a name that is no namespace.
    pub fn open(url: &RegistryUrl, namespace: &str) -> Result<Self, StoreError> {
        Self::open_with(url, namespace, ListOpener::unverified())
    }

    /// The same, with the keys that lists must be signed with.
    ///
    /// # Errors
    /// As [`Backend::open`].
    pub fn open_with(url: &RegistryUrl, namespace: &str, lists: ListOpener) -> Result<Self, StoreError> {
        match url {
            RegistryUrl::Embedded { address, token } => {
                EmbeddedRegistry::with(address, namespace, token.as_deref(), lists).map(Backend::from)
            }
            RegistryUrl::Cluster { redis, zookeeper } => {
                open_cluster(redis, zookeeper, READER_SESSION, namespace, lists).map(Backend::from)
            }
        }
    }
}

/// What pump and console use of a registry besides, in one namespace.
#[derive(Clone)]
pub struct ControlBackend {
    /// Where the pump reads leases: one source for each server.
    pub lease_sources: Vec<Arc<dyn LeaseSource>>,
    /// Where the pump writes lists.
    pub directory: Arc<dyn DirectoryWriter>,
    /// Where the console publishes policies.
    pub policies: Arc<dyn PolicyWriter>,
    /// Where the console reads which revision runs where.
    pub acknowledgements: Arc<dyn Acknowledgements>,
    /// Where the pump reads what consumers say of instances.
    pub reports: Arc<dyn ReportSource>,
}

impl ControlBackend {
    /// The registry at `url`, for a pump or a console in a process of its own.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for an embedded registry: its pump and console run in its own process.
    pub fn open(url: &RegistryUrl, namespace: &str) -> Result<Self, StoreError> {
        match url {
            RegistryUrl::Embedded { address, .. } => Err(StoreError::Refused {
                backend: "registry",
                reason: format!(
                    "the pump and the console of an embedded registry run in its own process (`rsf dev` at {address}); \
                     for processes of their own set RSF_REGISTRY to redis://host:port,zk://host:port"
                ),
            }),
            RegistryUrl::Cluster { redis, zookeeper } => {
                let lists = ListOpener::unverified();
                open_cluster(redis, zookeeper, LEADER_SESSION, namespace, lists).map(ControlBackend::from)
            }
        }
    }
}

/// Over the network, as every process but the registry's own has it.
impl From<EmbeddedRegistry> for Backend {
    fn from(registry: EmbeddedRegistry) -> Self {
        let registry = Arc::new(registry);
        Backend {
            leases: registry.clone(),
            directory: registry.clone(),
            policies: registry.clone(),
            acknowledgements: registry.clone(),
            reports: registry,
        }
    }
}

/// In the registry's own process.
impl From<EmbeddedNamespace> for Backend {
    fn from(namespace: EmbeddedNamespace) -> Self {
        let namespace = Arc::new(namespace);
        Backend {
            leases: namespace.clone(),
            directory: namespace.clone(),
            policies: namespace.clone(),
            acknowledgements: namespace.clone(),
            reports: namespace,
        }
    }
}

/// In the registry's own process.
impl From<EmbeddedNamespace> for ControlBackend {
    fn from(namespace: EmbeddedNamespace) -> Self {
        let namespace = Arc::new(namespace);
        ControlBackend {
            lease_sources: vec![namespace.clone()],
            directory: namespace.clone(),
            policies: namespace.clone(),
            acknowledgements: namespace.clone(),
            reports: namespace,
        }
    }
}

/// On Redis and ZooKeeper, as every process has it.
impl From<Cluster> for Backend {
    fn from(cluster: Cluster) -> Self {
        Backend {
            leases: cluster.leases,
            directory: cluster.directory,
            policies: cluster.policies,
            acknowledgements: cluster.acknowledgements,
            reports: cluster.reports,
        }
    }
}

/// On Redis and ZooKeeper, for a pump or a console.
impl From<Cluster> for ControlBackend {
    fn from(cluster: Cluster) -> Self {
        ControlBackend {
            lease_sources: cluster.sources,
            directory: cluster.writer,
            policies: cluster.policies,
            acknowledgements: cluster.acknowledgements,
            reports: cluster.report_source,
        }
    }
}

fn open_cluster(
    redis: &[RedisUrl],
    zookeeper: &[String],
    session: Duration,
    namespace: &str,
    lists: ListOpener,
) -> Result<Cluster, StoreError> {
    cluster::open_at(redis, &zookeeper.join(","), session, namespace, lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_embedded_registry_has_its_pump_and_console_inside() {
        let url: RegistryUrl = "rsf://127.0.0.1:7000".parse().expect("good");
        assert!(Backend::open(&url, "default").is_ok(), "it connects later");
        assert!(matches!(
            Backend::open(&url, "a/b"),
            Err(StoreError::Invalid { .. })
        ));
        let refused = ControlBackend::open(&url, "default")
            .err()
            .expect("refused")
            .to_string();
        assert!(
            refused.contains("127.0.0.1:7000") && refused.contains("redis://"),
            "{refused}"
        );
    }
}
