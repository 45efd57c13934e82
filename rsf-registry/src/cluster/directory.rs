//! The directory in ZooKeeper: one znode a service and one a shard, written by the leading pump.

mod batch;

mod write;

mod sweep;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::election::{Election, Tenure};
use super::lists::ListNode;
use super::zookeeper::namespace::{Namespace, check_node_name};
use super::zookeeper::watched::watch_node;
use crate::directory::open::glance;
use crate::directory::{ListOpener, SealedList};
use crate::record::ServiceList;
use crate::{Directory, DirectoryWriter, StoreError, Term, Watch};

/// How many heads are glanced at in a row.
const GLANCES: usize = 64;

/// The lists at `/rsf/<namespace>/directory/<service key>`, their shards at `/rsf/<namespace>/shards`, and the pumps'
/// election beside them.
#[derive(Debug)]
pub struct ZooKeeperDirectory {
    namespace: Arc<Namespace>,
    opener: ListOpener,
    election: Election,
    known: Mutex<Known>,
    /// One call after another, so that none overtakes an earlier one of the same list.
    writing: tokio::sync::Mutex<()>,
}

/// What this writer knows of the nodes.
#[derive(Debug, Default)]
struct Known {
    /// Paths that exist as far as it knows; a guess that spares a request, put right by the server's answer.
    existing: HashSet<String>,
    /// The greatest versions that it wrote, by service. Whatever else is stored is of an earlier epoch.
    written: HashMap<String, (u64, u64)>,
    /// The names of the shards of each list that has some.
    shards: HashMap<String, Vec<String>>,
    /// Shards that no head names any more, and since when; the oldest first.
    superseded: VecDeque<(Instant, String)>,
}

impl ZooKeeperDirectory {
    pub(crate) fn new(namespace: Arc<Namespace>, opener: ListOpener) -> Self {
        ZooKeeperDirectory {
            election: Election::new(namespace.clone()),
            namespace,
            opener,
            known: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Refuses a list that cannot be a node, or is older than what is stored.
    fn check(&self, list: &SealedList, tenure: Tenure) -> Result<(), StoreError> {
        check_node_name(&list.service)?;
        let written = self.known.lock().written.get(&list.service).copied();
        let (stored, offered) = (written.unwrap_or((tenure.epoch, 0)), list.version);
        if offered < stored {
            return Err(StoreError::Stale {
                key: list.service.clone(),
                reason: format!("version {stored:?} is stored or its epoch begun, {offered:?} was offered"),
            });
        }
        Ok(())
    }

    /// What stands at the heads' places, in sealed bytes with the names of their shards.
    async fn heads(&self) -> Result<Vec<SealedList>, StoreError> {
        let services = self.namespace.children("directory").await?;
        let tails = services.iter().map(|service| list_tail(service)).collect();
        let heads = self.namespace.read_all(tails).await?;
        let mut sealed = Vec::with_capacity(heads.len());
        for (tail, data) in heads {
            if sealed.len() % GLANCES == GLANCES - 1 {
                // A fleet's lists take most of a second, and whoever asked has other things to do.
                tokio::task::yield_now().await;
            }
            let service = tail.trim_start_matches("directory/").to_owned();
            // Whoever opens it says what is wrong with it.
            let (version, names) = glance(&data).unwrap_or_default();
            sealed.push(SealedList {
                version,
                head: data.into(),
                names,
                service,
                ..SealedList::default()
            });
        }
        Ok(sealed)
    }
}

#[async_trait]
impl Directory for ZooKeeperDirectory {
    fn watch(&self, service: &str) -> Watch<ServiceList> {
        if let Err(error) = check_node_name(service) {
            tracing::warn!(%error, "watching a service that cannot exist");
        }
        let node = ListNode::new(self.namespace.clone(), self.opener.clone(), service);
        watch_node(self.namespace.clone(), &list_tail(service), node)
    }

    async fn services(&self) -> Result<Vec<String>, StoreError> {
        let mut services = self.namespace.children("directory").await?;
        services.sort();
        Ok(services)
    }

    fn opener(&self) -> ListOpener {
        self.opener.clone()
    }
}

#[async_trait]
impl DirectoryWriter for ZooKeeperDirectory {
    async fn lead(&self, pump: &str, least_epoch: u64) -> Result<Term, StoreError> {
        let term = self.election.lead(pump, least_epoch).await?;
        let services = self.namespace.children("directory").await.unwrap_or_default();
        let paths = services
            .iter()
            .map(|service| self.namespace.path(&list_tail(service)))
            .collect();
        self.known.lock().existing = paths;
        Ok(term)
    }

    async fn stored(&self) -> Result<Vec<SealedList>, StoreError> {
        // A shard whose head is still to come must not be taken for a leftover.
        let _writing = self.writing.lock().await;
        let mut lists = self.heads().await?;
        let named = lists
            .iter()
            .flat_map(|list| list.names.iter().map(|name| shard_tail(&list.service, name)));
        let named: HashSet<String> = named.collect();
        let mut shards: HashMap<String, Bytes> = HashMap::with_capacity(named.len());
        let read = self.namespace.read_all(named.iter().cloned().collect()).await?;
        shards.extend(read.into_iter().map(|(tail, data)| (tail, Bytes::from(data))));
        for list in &mut lists {
            let found = list.names.iter().filter_map(|name| {
                let data = shards.get(&shard_tail(&list.service, name))?;
                Some((name.clone(), data.clone()))
            });
            list.shards = found.collect::<BTreeMap<_, _>>();
        }
        // The usual fleet names none: what an earlier leader left behind is looked for all the same.
        self.note_leftovers(&named).await?;
        let mut known = self.known.lock();
        for list in lists.iter().filter(|list| !list.names.is_empty()) {
            known.shards.insert(list.service.clone(), list.names.clone());
        }
        Ok(lists)
    }

    async fn store(&self, term: &Term, lists: &[SealedList]) -> Result<(), StoreError> {
        let Some(tenure) = self.election.tenure(term) else {
            return Err(StoreError::Fenced { epoch: term.epoch });
        };
        let _writing = self.writing.lock().await;
        // A list that cannot be stored keeps no other from being written.
        let mut refused = None;
        let mut good = Vec::with_capacity(lists.len());
        for list in lists {
            match self.check(list, tenure) {
                Ok(()) => good.push(list),
                Err(error) => refused = Some(error),
            }
        }
        let mut groups = good.into_iter().map(|list| self.group(list)).collect();
        if let Some(error) = self.write_ahead(tenure, &mut groups).await? {
            refused = Some(error);
        }
        match self.write_all(tenure, groups).await {
            Ok(()) => {}
            Err(fenced @ StoreError::Fenced { .. }) => return Err(fenced),
            Err(error) => refused = Some(error),
        }
        self.sweep_shards(tenure).await;
        refused.map_or(Ok(()), Err)
    }

    async fn remove(&self, term: &Term, services: &[String]) -> Result<(), StoreError> {
        let Some(tenure) = self.election.tenure(term) else {
            return Err(StoreError::Fenced { epoch: term.epoch });
        };
        let _writing = self.writing.lock().await;
        for service in services {
            self.remove_one(tenure, service).await?;
        }
        Ok(())
    }
}

fn list_tail(service: &str) -> String {
    format!("directory/{service}")
}

/// Shards of all lists lie in one folder: a service's own node has no children, so that it can be deleted at once.
pub(super) fn shard_tail(service: &str, name: &str) -> String {
    format!("shards/{service}@{name}")
}
