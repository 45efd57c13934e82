//! The embedded registry's file and the namespaces in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::namespace::EmbeddedNamespace;
use super::tables::Tables;
use crate::{StoreError, limits};

/// How long a written lease may stay in memory alone. A kill loses at most this much, and its owners put it again
/// with their next renewal.
const LEASE_WRITE_INTERVAL: Duration = Duration::from_millis(500);

/// The registry of a small site: one file that survives `kill -9`, served to one or several namespaces.
///
/// Lists, policies and epochs are on the disk before a write returns. Leases follow within half a second and have one
/// full TTL after a restart; acknowledgements live in memory, for they are repeated.
#[derive(Debug)]
pub struct EmbeddedStore {
    tables: Arc<Tables>,
    namespaces: BTreeMap<String, EmbeddedNamespace>,
    clock: AbortOnDropHandle<()>,
}

impl EmbeddedStore {
    /// Opens or creates the file at `path` and serves `namespaces` from it. One process at a time can have it open.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a name that is no namespace or where none is given, [`StoreError::Refused`] where
    /// the file cannot be opened.
    pub async fn open(path: &Path, namespaces: &[&str]) -> Result<Self, StoreError> {
        if namespaces.is_empty() {
            let reason = "no namespace is given; name at least one, such as `default`".to_owned();
            return Err(StoreError::Invalid {
                key: path.display().to_string(),
                reason,
            });
        }
        namespaces
            .iter()
            .try_for_each(|name| limits::check_namespace(name))?;
        let names: Vec<String> = namespaces.iter().map(|&name| name.to_owned()).collect();
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking(move || {
            let tables = Arc::new(Tables::open(&path)?);
            // Another one with each start, so that the pump does not take leases lost in between for dead instances.
            let source = format!("embedded-{:016x}", fastrand::u64(..));
            let load = |name: String| {
                Ok((
                    name.clone(),
                    EmbeddedNamespace::load(tables.clone(), &name, &source)?,
                ))
            };
            let namespaces = names
                .into_iter()
                .map(load)
                .collect::<Result<BTreeMap<_, _>, StoreError>>()?;
            Ok((tables, namespaces))
        });
        let refused = |error: tokio::task::JoinError| StoreError::Refused {
            backend: "registry",
            reason: format!("opening its file failed: {error}"),
        };
        let (tables, namespaces) = opening.await.map_err(refused)??;
        let ticking: Vec<EmbeddedNamespace> = namespaces.values().cloned().collect();
        let clock = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASE_WRITE_INTERVAL).await;
                for namespace in &ticking {
                    namespace.tick().await;
                }
            }
        }));
        Ok(EmbeddedStore {
            tables,
            namespaces,
            clock,
        })
    }

    /// The traits of one namespace, in this process.
    ///
    /// # Errors
    /// [`StoreError::UnknownNamespace`] for one that was not named when the store was opened.
    pub fn namespace(&self, name: &str) -> Result<EmbeddedNamespace, StoreError> {
        self.namespaces
            .get(name)
            .cloned()
            .ok_or_else(|| StoreError::UnknownNamespace {
                namespace: name.to_owned(),
                address: self.tables.path(),
                known: self.served(),
            })
    }

    /// The served namespaces, for people.
    pub fn served(&self) -> String {
        self.namespaces
            .keys()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Writes what is only in memory and releases the file; what still holds a namespace is answered
    /// [`StoreError::Unavailable`]. Without it the file is released when the store and its namespaces are dropped.
    pub async fn close(&self) {
        self.clock.abort();
        // A tick that was just writing may still do so on its thread; redb puts the two in order.
        for namespace in self.namespaces.values() {
            namespace.tick().await;
        }
        let tables = self.tables.clone();
        // It fails only where the runtime ends, and the file is released with the process.
        let _ = tokio::task::spawn_blocking(move || tables.close()).await;
    }
}
