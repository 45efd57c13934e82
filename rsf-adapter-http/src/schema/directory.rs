//! Schemas by the directory's lists: the lists say who runs which version, server reflection says what it is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rsf_registry::record::{LeaseState, ServiceList};
use rsf_registry::{Directory, Observed};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::reflection;
use super::{SchemaError, SchemaSource, SchemaVersion};

/// Instances that are asked for one version before it counts as unavailable.
const ADDRESSES_TRIED: usize = 3;

/// A [`SchemaSource`] over a [`Directory`].
///
/// Each service's list is watched from its first mention on. Instances that publish no schema hash (servers that are
/// not RSF's) are asked once for each start of theirs.
pub struct DirectorySchemas {
    directory: Arc<dyn Directory>,
    watches: Mutex<HashMap<String, Watched>>,
    changed: Arc<Notify>,
}

struct Watched {
    list: Arc<Mutex<Option<Arc<ServiceList>>>>,
    _task: AbortOnDropHandle<()>,
}

impl DirectorySchemas {
    /// A source that watches `directory`.
    pub fn new(directory: Arc<dyn Directory>) -> Self {
        DirectorySchemas {
            directory,
            watches: Mutex::default(),
            changed: Arc::default(),
        }
    }

    fn watch(&self, service: &str) {
        let mut watches = self.watches.lock();
        if watches.contains_key(service) {
            return;
        }
        let mut watch = self.directory.watch(service);
        let list = Arc::new(Mutex::new(None));
        let (seen, changed) = (list.clone(), self.changed.clone());
        let task = tokio::spawn(async move {
            let mut state = Some(watch.current());
            while let Some(observed) = state {
                // A list that is gone leaves the last one standing: its schema still reads calls, and the call
                // itself then says that there is no instance.
                if let Observed::Present(present) = observed {
                    *seen.lock() = Some(present);
                    changed.notify_one();
                }
                state = watch.changed().await;
            }
        });
        watches.insert(
            service.to_owned(),
            Watched {
                list,
                _task: AbortOnDropHandle::new(task),
            },
        );
    }
}

#[async_trait]
impl SchemaSource for DirectorySchemas {
    async fn services(&self) -> Result<Vec<String>, SchemaError> {
        let services = self
            .directory
            .services()
            .await
            .map_err(|error| SchemaError::Unavailable {
                from: "the directory".to_owned(),
                reason: error.to_string(),
            })?;
        for service in &services {
            self.watch(service);
        }
        Ok(services)
    }

    fn versions(&self, service: &str) -> Vec<SchemaVersion> {
        let list = self
            .watches
            .lock()
            .get(service)
            .and_then(|watched| watched.list.lock().clone());
        list.map(|list| versions(&list)).unwrap_or_default()
    }

    async fn fetch(&self, service: &str, version: &SchemaVersion) -> Result<Bytes, SchemaError> {
        let name = service.split(':').next().unwrap_or(service);
        let mut last = SchemaError::Unavailable {
            from: format!("schema {}", version.hash),
            reason: "no instance lists it any more".to_owned(),
        };
        for address in version.addresses.iter().take(ADDRESSES_TRIED) {
            match reflection::fetch(address, name).await {
                Ok(schema) => return Ok(schema),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The versions that a list's instances run: the one of most instances first, so that one odd instance does not
/// change what everybody sees; among equals the one that started last.
fn versions(list: &ServiceList) -> Vec<SchemaVersion> {
    let mut found: BTreeMap<String, (usize, u64, Vec<Arc<str>>)> = BTreeMap::new();
    let mut instances: Vec<_> = list
        .instances
        .iter()
        .filter(|instance| !instance.address.is_empty())
        .collect();
    // Those that drain may be gone before they answer: they are asked last.
    instances.sort_by_key(|instance| (instance.state == LeaseState::Draining as i32, &instance.instance));
    for instance in instances {
        let hash = match instance.schema_hash.as_str() {
            "" => format!("unpublished:{}@{}", instance.instance, instance.incarnation),
            hash => hash.to_owned(),
        };
        let (count, newest, addresses) = found.entry(hash).or_default();
        *count += 1;
        *newest = (*newest).max(instance.incarnation);
        addresses.push(instance.address.as_str().into());
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(_, (count, newest, _))| std::cmp::Reverse((*count, *newest)));
    found
        .into_iter()
        .map(|(hash, (_, _, addresses))| SchemaVersion {
            hash: hash.into(),
            addresses,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsf_registry::record::ListedInstance;

    fn instance(name: &str, incarnation: u64, hash: &str, state: LeaseState) -> ListedInstance {
        ListedInstance {
            instance: name.to_owned(),
            incarnation,
            address: format!("{name}:1"),
            schema_hash: hash.to_owned(),
            state: state as i32,
            ..ListedInstance::default()
        }
    }

    #[test]
    fn the_version_of_most_instances_comes_first_then_the_newest() {
        let up = LeaseState::Up;
        let list = ServiceList {
            instances: vec![
                instance("d", 9, "canary", up),
                instance("a", 1, "old", LeaseState::Draining),
                instance("b", 2, "old", up),
                instance("c", 3, "", up),
            ],
            ..ServiceList::default()
        };
        let found = versions(&list);
        let hashes: Vec<_> = found.iter().map(|version| &*version.hash).collect();
        assert_eq!(hashes, ["old", "canary", "unpublished:c@3"]);
        let addresses: Vec<_> = found[0].addresses.iter().map(|address| &**address).collect();
        assert_eq!(addresses, ["b:1", "a:1"], "a draining instance is asked last");
    }
}
