//! A scope's policy as an instance takes it: the newest revision, and at start that of the disk.

use std::sync::Arc;

use rsf_core::control::{PolicyState, PolicyText};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::saver::Record;
use super::{DISK_AFTER, Shared, trouble};
use crate::Observed;
use crate::backoff::Backoff;
use crate::record::PolicyRecord;
use crate::snapshot::Snapshot;

/// Follows `scope` until nobody is left to tell.
///
/// Unlike a list, the disk's policy is in force at once: it is safer than none, and a newer revision follows. Where the
/// disk has none, that there is no policy is said when the registry says so, or does not answer.
pub(super) async fn follow(shared: &Shared, scope: &str, sender: &watch::Sender<PolicyState>) {
    let mut good = shared.read_disk::<PolicyRecord>(scope).await.0.map(Arc::new);
    if let Some(record) = &good {
        show(record, sender);
    }
    let mut watch = shared.backend.policies.watch(scope);
    let deadline = Instant::now() + DISK_AFTER;
    let mut failing = std::pin::pin!(trouble(&shared.backend.directory, Backoff::default()));
    loop {
        let pending = *sender.borrow() == PolicyState::Pending;
        tokio::select! {
            biased;
            state = watch.changed() => match state {
                Some(Observed::Present(record)) => match judge(scope, good.as_deref(), &record) {
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
                        shared.acknowledger.acknowledge(scope, record.revision, Some(reason));
                        none_yet(sender);
                    }
                },
                Some(Observed::Absent) if good.is_some() => {
                    tracing::warn!(
                        scope,
                        "the registry lost this scope's policy; the last good one stays"
                    );
                }
                Some(Observed::Absent) => none_yet(sender),
                Some(Observed::Unknown) => {}
                None => break,
            },
            _ = &mut failing, if pending => none_yet(sender),
            () = sleep_until(deadline), if pending => none_yet(sender),
        }
    }
    // The backend is closed: what is known stays.
    none_yet(sender);
    sender.closed().await;
}

/// Says that there is no policy, unless something is known.
fn none_yet(sender: &watch::Sender<PolicyState>) {
    sender.send_if_modified(|state| {
        let pending = *state == PolicyState::Pending;
        if pending {
            *state = PolicyState::Absent;
        }
        pending
    });
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

fn show(record: &PolicyRecord, sender: &watch::Sender<PolicyState>) {
    let text = PolicyText {
        revision: record.revision,
        document: record.document.clone(),
    };
    // A deleted policy is an empty document: the data path acknowledges that revision too.
    sender.send_replace(PolicyState::Present(Arc::new(text)));
}
