//! The nodes of one namespace: where they are, that they exist, and what to say when they do not.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use zookeeper_client::{Acl, Acls, CreateMode, CreateOptions, Error};

use super::Session;
use crate::StoreError;

/// How many reads are in flight at once where many nodes are read.
const READS_IN_FLIGHT: usize = 64;

/// `/rsf/<namespace>` and the session that reaches it.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) session: Arc<Session>,
    name: String,
    /// `/rsf`, behind the chroot.
    root: String,
    acls: Mutex<Option<NodeAcls>>,
}

/// What nodes are open to when they are made.
#[derive(Debug, Clone)]
pub(crate) struct NodeAcls(Arc<[Acl]>);

impl NodeAcls {
    /// A node that stays.
    pub(crate) fn persistent(&self) -> CreateOptions<'_> {
        CreateMode::Persistent.with_acls(Acls::new(&self.0))
    }

    /// A candidate for an election.
    pub(crate) fn candidate(&self) -> CreateOptions<'_> {
        CreateMode::EphemeralSequential.with_acls(Acls::new(&self.0))
    }
}

impl Namespace {
    pub(crate) fn new(session: Arc<Session>, name: &str) -> Arc<Self> {
        Arc::new(Namespace {
            root: format!("{}/rsf", session.chroot()),
            session,
            name: name.to_owned(),
            acls: Mutex::default(),
        })
    }

    /// The ACL of `/rsf` as its operator has set it: every node gets the same. Where `/rsf` is not there yet, it belongs
    /// to whoever comes with credentials, and to everybody where nobody does.
    pub(crate) async fn acls(&self) -> Result<NodeAcls, StoreError> {
        if let Some(acls) = self.acls.lock().clone() {
            return Ok(acls);
        }
        let root = &self.root;
        let found = self
            .session
            .run(root, async |client| match client.get_acl(root).await {
                Ok((acls, _)) => Ok(Some(acls)),
                Err(Error::NoNode) => Ok(None),
                Err(error) => Err(error),
            });
        let Some(found) = found.await? else {
            let new = if self.session.is_authenticated() {
                Acls::creator_all()
            } else {
                Acls::anyone_all()
            };
            return Ok(NodeAcls(new.to_vec().into()));
        };
        let acls = NodeAcls(found.into());
        *self.acls.lock() = Some(acls.clone());
        Ok(acls)
    }

    /// The path of a node of this namespace.
    pub(crate) fn path(&self, tail: &str) -> String {
        format!("{}/{}/{tail}", self.root, self.name)
    }

    /// Creates the nodes that everything else hangs under; those that exist are left alone.
    pub(crate) async fn create(&self) -> Result<(), StoreError> {
        const BRANCHES: [&str; 7] = [
            "directory",
            "shards",
            "pump/election",
            "policy/current/application",
            "policy/current/service",
            "policy/previous/application",
            "policy/previous/service",
        ];
        let acls = self.acls().await?;
        for branch in BRANCHES {
            let path = self.path(branch);
            self.session
                .run(&path, async |client| {
                    client.mkdir(&path, &acls.persistent()).await
                })
                .await?;
        }
        Ok(())
    }

    /// [`StoreError::UnknownNamespace`] where this namespace is not there and others are.
    ///
    /// An empty ZooKeeper is no error: it is new or was wiped, and the first pump fills it.
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        let known = self
            .session
            .run(&self.root, async |client| {
                client.list_children(&self.root).await.or_else(none)
            })
            .await?;
        if known.is_empty() || known.contains(&self.name) {
            return Ok(());
        }
        let mut known: Vec<String> = known.into_iter().map(|name| format!("`{name}`")).collect();
        known.sort();
        Err(StoreError::UnknownNamespace {
            namespace: self.name.clone(),
            address: format!("zk://{}", self.session.address()),
            known: known.join(", "),
        })
    }

    /// The names of a node's children; none where the node is not there, unless the namespace is unknown.
    pub(crate) async fn children(&self, tail: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(tail);
        let children = self
            .session
            .run(&path, async |client| match client.list_children(&path).await {
                Ok(children) => Ok(Some(children)),
                Err(Error::NoNode) => Ok(None),
                Err(error) => Err(error),
            });
        match children.await? {
            Some(children) => Ok(children),
            None => self.check().await.map(|()| Vec::new()),
        }
    }

    /// What the nodes hold, in no order; those that are gone are left out.
    pub(crate) async fn read_all(&self, tails: Vec<String>) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut reads = stream::iter(tails)
            .map(|tail| async move {
                self.read(&tail)
                    .await
                    .map(|data| data.map(|(data, _)| (tail, data)))
            })
            .buffer_unordered(READS_IN_FLIGHT);
        let mut found = Vec::new();
        while let Some(read) = reads.next().await {
            found.extend(read?);
        }
        Ok(found)
    }

    /// What a node holds and its version; `None` where it is not there.
    pub(crate) async fn read(&self, tail: &str) -> Result<Option<(Vec<u8>, i32)>, StoreError> {
        let path = self.path(tail);
        let read = self
            .session
            .run(&path, async |client| match client.get_data(&path).await {
                Ok((data, stat)) => Ok(Some((data, stat.version))),
                Err(Error::NoNode) => Ok(None),
                Err(error) => Err(error),
            });
        read.await
    }
}

fn none(error: Error) -> Result<Vec<String>, Error> {
    if error == Error::NoNode {
        Ok(Vec::new())
    } else {
        Err(error)
    }
}

/// Refuses a name that cannot be one node: it is checked before it becomes part of a path.
pub(crate) fn check_node_name(name: &str) -> Result<(), StoreError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name == "." || name == ".." || name == "zookeeper" {
        "ZooKeeper keeps that name for itself"
    } else if name.contains('/') {
        "it holds a `/`"
    } else if name
        .chars()
        .any(|c| c.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&c) || c >= '\u{fff0}')
    {
        "it holds a character that ZooKeeper does not allow"
    } else {
        return Ok(());
    };
    Err(StoreError::Invalid {
        key: name.to_owned(),
        reason: reason.to_owned(),
    })
}
