//! Policies in ZooKeeper: the current and the previous record of each scope, changed together or not at all.

use std::sync::Arc;

use async_trait::async_trait;
use zookeeper_client::{Client, Error, MultiWriteError};

use super::zookeeper::namespace::{Namespace, NodeAcls, check_node_name};
use super::zookeeper::watched::{Decode, Undecoded, watch_node};
use crate::format;
use crate::record::PolicyRecord;
use crate::{PolicyStore, PolicyWriter, StoreError, Watch, limits};

/// The longest document, in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;
/// How often a publication that met another one looks again before it gives up.
const ATTEMPTS: usize = 16;

/// The records at `/rsf/<namespace>/policy/current/<scope>` and `…/previous/<scope>`, and the greatest revision of all
/// at `…/revision`.
#[derive(Debug)]
pub struct ZooKeeperPolicies {
    namespace: Arc<Namespace>,
}

impl ZooKeeperPolicies {
    pub(crate) fn new(namespace: Arc<Namespace>) -> Self {
        ZooKeeperPolicies { namespace }
    }

    /// Tries once; `false` where another publication came between and this one must look again.
    async fn try_publish(&self, record: &PolicyRecord, data: &[u8]) -> Result<bool, StoreError> {
        let scope = &record.scope;
        let current = self.namespace.read(&current_tail(scope)).await?;
        let stored = current
            .as_ref()
            .and_then(|(data, _)| match decode_policy(scope, data) {
                Ok(stored) => Some(stored),
                Err(error) => {
                    tracing::warn!(%error, "replacing a broken policy record");
                    None
                }
            });
        if let Some(stored) = stored.filter(|stored| stored.revision >= record.revision) {
            return if stored.document == record.document {
                Ok(true)
            } else {
                Err(stale(&stored, record))
            };
        }
        let previous = self.namespace.read(&previous_tail(scope)).await?;
        let revision = self.namespace.read("policy/revision").await?;
        let greatest = revision
            .as_ref()
            .and_then(|(data, _)| std::str::from_utf8(data).ok()?.parse().ok());
        let greatest = record.revision.max(greatest.unwrap_or(0)).to_string();

        let mut changes = vec![
            Change::new(
                self.namespace.path(&current_tail(scope)),
                data,
                current.as_ref().map(|(_, v)| *v),
            ),
            Change::new(
                self.namespace.path("policy/revision"),
                greatest.as_bytes(),
                revision.map(|(_, v)| v),
            ),
        ];
        if let Some((replaced, _)) = &current {
            changes.push(Change::new(
                self.namespace.path(&previous_tail(scope)),
                replaced,
                previous.map(|(_, version)| version),
            ));
        }
        let acls = self.namespace.acls().await?;
        let path = &changes[0].path;
        let done = self
            .namespace
            .session
            .run(path, async |client| commit(&client, &changes, &acls).await)
            .await?;
        if matches!(done, Committed::NoParent) {
            self.namespace.check().await?;
            self.namespace.create().await?;
        }
        Ok(matches!(done, Committed::Yes))
    }
}

#[async_trait]
impl PolicyStore for ZooKeeperPolicies {
    fn watch(&self, scope: &str) -> Watch<PolicyRecord> {
        if let Err(error) = check_scope(scope) {
            tracing::warn!(%error, "watching a scope that cannot exist");
        }
        let scope = scope.to_owned();
        let tail = current_tail(&scope);
        watch_node(self.namespace.clone(), &tail, PolicyNode { scope })
    }

    async fn current(&self) -> Result<Vec<PolicyRecord>, StoreError> {
        let mut scopes = Vec::new();
        for name in self.namespace.children("policy/current").await? {
            if is_kind(&name) {
                let named = self.namespace.children(&current_tail(&name)).await?;
                scopes.extend(named.into_iter().map(|child| format!("{name}/{child}")));
            } else {
                scopes.push(name);
            }
        }
        let tails = scopes.iter().map(|scope| current_tail(scope)).collect();
        let mut records = Vec::with_capacity(scopes.len());
        for (tail, data) in self.namespace.read_all(tails).await? {
            match decode_policy(tail.trim_start_matches("policy/current/"), &data) {
                Ok(record) => records.push(record),
                // Whoever holds the history finds it missing and publishes it again.
                Err(error) => tracing::warn!(%error, "left out a broken policy record"),
            }
        }
        records.sort_by(|a, b| a.scope.cmp(&b.scope));
        Ok(records)
    }
}

#[async_trait]
impl PolicyWriter for ZooKeeperPolicies {
    async fn publish(&self, record: &PolicyRecord) -> Result<(), StoreError> {
        limits::check_policy(record)?;
        check_scope(&record.scope)?;
        if record.document.len() > MAX_DOCUMENT {
            return Err(StoreError::Invalid {
                key: record.scope.clone(),
                reason: format!(
                    "{} bytes of document are more than {MAX_DOCUMENT}",
                    record.document.len()
                ),
            });
        }
        let data = format::encode(&record.scope, record)?;
        for _ in 0..ATTEMPTS {
            if self.try_publish(record, &data).await? {
                return Ok(());
            }
        }
        Err(self
            .namespace
            .session
            .unavailable(format!("others keep publishing beside {}", record.scope)))
    }
}

/// One node's new content, if it still has the version that was read.
struct Change {
    path: String,
    data: Vec<u8>,
    version: Option<i32>,
}

impl Change {
    fn new(path: String, data: &[u8], version: Option<i32>) -> Self {
        Change {
            path,
            data: data.to_vec(),
            version,
        }
    }
}

enum Committed {
    Yes,
    /// Somebody else changed one of the nodes.
    Outrun,
    /// The namespace's nodes are not there.
    NoParent,
}

async fn commit(client: &Client, changes: &[Change], acls: &NodeAcls) -> Result<Committed, Error> {
    let options = acls.persistent();
    let mut writer = client.new_multi_writer();
    for Change { path, data, version } in changes {
        match version {
            Some(version) => writer.add_set_data(path, data, Some(*version))?,
            None => writer.add_create(path, data, &options)?,
        }
    }
    match writer.commit().await {
        Ok(_) => Ok(Committed::Yes),
        Err(MultiWriteError::OperationFailed {
            source: Error::NoNode,
            ..
        }) => Ok(Committed::NoParent),
        Err(MultiWriteError::OperationFailed {
            source: Error::BadVersion | Error::NodeExists,
            ..
        }) => Ok(Committed::Outrun),
        Err(error) => Err(error.into()),
    }
}

fn stale(stored: &PolicyRecord, offered: &PolicyRecord) -> StoreError {
    StoreError::Stale {
        key: offered.scope.clone(),
        reason: format!(
            "revision {} is stored, {} was offered",
            stored.revision, offered.revision
        ),
    }
}

/// Opens what a policy's node holds.
struct PolicyNode {
    scope: String,
}

#[async_trait]
impl Decode<PolicyRecord> for PolicyNode {
    const MANY: bool = false;

    async fn decode(&mut self, data: &[u8]) -> Result<PolicyRecord, Undecoded> {
        decode_policy(&self.scope, data).map_err(|error| Undecoded::Refused(error.to_string()))
    }
}

fn decode_policy(scope: &str, data: &[u8]) -> Result<PolicyRecord, StoreError> {
    let record: PolicyRecord = format::decode(scope, data)?;
    if record.scope != scope {
        return Err(StoreError::Invalid {
            key: scope.to_owned(),
            reason: format!("it holds the policy of `{}`", record.scope),
        });
    }
    Ok(record)
}

/// A scope is `fleet`, `application/<name>` or `service/<key>`; the latter two lie one node deeper.
fn check_scope(scope: &str) -> Result<(), StoreError> {
    let known = match scope.split_once('/') {
        None => scope == "fleet",
        Some((kind, name)) => is_kind(kind) && check_node_name(name).is_ok(),
    };
    if known {
        return Ok(());
    }
    Err(StoreError::Invalid {
        key: scope.to_owned(),
        reason: "a scope is `fleet`, `application/<name>` or `service/<key>`".to_owned(),
    })
}

fn is_kind(name: &str) -> bool {
    matches!(name, "application" | "service")
}

fn current_tail(scope: &str) -> String {
    format!("policy/current/{scope}")
}

fn previous_tail(scope: &str) -> String {
    format!("policy/previous/{scope}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_three_kinds_of_scope_are_accepted() {
        for scope in ["fleet", "application/order", "service/shop.v1.Stock:gold"] {
            assert!(check_scope(scope).is_ok(), "{scope}");
        }
        for scope in [
            "",
            "fleets",
            "fleet/x",
            "application",
            "application/",
            "service/a/b",
            "service/..",
            "/fleet",
        ] {
            assert!(check_scope(scope).is_err(), "{scope}");
        }
    }
}
