//! A scope's policy as an instance takes it: the newest revision, and at start that of the disk.

use std::sync::Arc;

use rsf_core::control::PolicyText;
use tokio::sync::watch;

use super::Shared;
use super::saver::Record;
use crate::Observed;
use crate::record::PolicyRecord;
use crate::snapshot::Snapshot;

/// Follows `scope` until nobody is left to tell.
///
/// Unlike a list, the disk's policy is in force at once: it is safer than none, and a newer revision follows.
pub(super) async fn follow(shared: &Shared, scope: &str, sender: &watch::Sender<Option<Arc<PolicyText>>>) {
    let mut good = shared.read_disk::<PolicyRecord>(scope).await.0.map(Arc::new);
    if let Some(record) = &good {
        show(record, sender);
    }
    let mut watch = shared.backend.policies.watch(scope);
    while let Some(state) = watch.changed().await {
        match state {
            Observed::Present(record) => match judge(scope, good.as_deref(), &record) {
                Ok(true) => {
                    show(&record, sender);
                    if let Some(saver) = &shared.saver {
                        saver.save(Record::Policy(record.clone()));
                    }
                    good = Some(record);
                }
                Ok(false) => {}
                Err(reason) => {
                    tracing::warn!(scope, reason, "a policy is refused; the last good one stays");
                }
            },
            Observed::Absent if good.is_some() => {
                tracing::warn!(
                    scope,
                    "the registry lost this scope's policy; the last good one stays"
                );
            }
            Observed::Absent | Observed::Unknown => {}
        }
    }
    // The backend is closed: what is known stays.
    sender.closed().await;
}

/// Whether `offered` is news, or why it may not take the place of `good`.
fn judge(scope: &str, good: Option<&PolicyRecord>, offered: &PolicyRecord) -> Result<bool, String> {
    offered.check().map_err(|error| error.to_string())?;
    if offered.scope != scope {
        return Err(format!("it is of scope `{}`", offered.scope));
    }
    match good {
        Some(good) if offered.revision < good.revision => Err(format!(
            "its revision {} is older than {}; where the policy store was begun anew, remove the disk snapshots and \
             restart",
            offered.revision, good.revision
        )),
        Some(good) if offered.revision == good.revision && offered.document != good.document => Err(format!(
            "revision {} is known with another document",
            good.revision
        )),
        Some(good) => Ok(offered.revision > good.revision),
        None => Ok(true),
    }
}

fn show(record: &PolicyRecord, sender: &watch::Sender<Option<Arc<PolicyText>>>) {
    let text = PolicyText {
        revision: record.revision,
        document: record.document.clone(),
    };
    // An empty document is handed on as well: that a policy was deleted is acknowledged like any revision.
    sender.send_replace(Some(Arc::new(text)));
}
