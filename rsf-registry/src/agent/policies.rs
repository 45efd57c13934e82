//! A scope's policy as an instance takes it: the newest revision, and at start that of the disk.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rsf_core::control::{PolicyState, PolicyText};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::peers::Said;
use super::saver::Record;
use super::{DISK_AFTER, Shared, trouble};
use crate::Observed;
use crate::backoff::Backoff;
use crate::record::PolicyRecord;
use crate::snapshot::Snapshot;

/// Follows `scope` until nobody is left to tell.
///
/// Unlike a list, the disk's policy is in force at once: it is safer than none, and a newer revision follows. Where the
/// disk has none, that there is no policy is said when the registry says so, or does not answer and no peer has one either.
/// A peer's policy yields to whatever the registry says, and does not go to the disk, where nothing would mark it: nothing
/// shows of a revision that it is not made up.
pub(super) async fn follow(shared: &Shared, scope: &str, sender: &watch::Sender<PolicyState>) {
    let mut good = shared.read_disk::<PolicyRecord>(scope).await.0.map(Arc::new);
    if let Some(record) = &good {
        show(record, sender);
        shared.uses(Record::Policy(record.clone()));
    }
    let mut watch = shared.backend.policies.watch(scope);
    let deadline = Instant::now() + DISK_AFTER;
    let mut failing = std::pin::pin!(trouble(&shared.backend.directory, Backoff::default()));
    // Whether the registry has said anything of this scope; what peers are being asked.
    let mut answered = false;
    let mut asking: Asking<'_> = None;
    loop {
        let pending = *sender.borrow() == PolicyState::Pending;
        let unknown = matches!(*sender.borrow(), PolicyState::Pending | PolicyState::Absent);
        let may_ask = unknown && !answered && asking.is_none() && !shared.peers.is_empty();
        tokio::select! {
            biased;
            state = watch.changed() => match state {
                Some(Observed::Present(record)) => {
                    (answered, asking) = (true, None);
                    match judge(scope, good.as_deref(), &record) {
                        Ok(true) => {
                            show(&record, sender);
                            shared.keep(Record::Policy(record.clone()));
                            good = Some(record);
                        }
                        Ok(false) => {}
                        Err(reason) => {
                            tracing::warn!(scope, reason, "a policy is refused; the last good one stays");
                            shared.acknowledger.acknowledge(scope, record.revision, Some(reason));
                            none_yet(sender);
                        }
                    }
                }
                Some(Observed::Absent) => {
                    (answered, asking) = (true, None);
                    if !unknown {
                        tracing::warn!(
                            scope,
                            "the registry lost this scope's policy; the last good one stays"
                        );
                    }
                    none_yet(sender);
                }
                Some(Observed::Unknown) => {}
                None => break,
            },
            said = asked(&mut asking) => {
                asking = None;
                match said.found {
                    Some(record) => from_peer(shared, record, sender),
                    None => none_yet(sender),
                }
            }
            (_, backoff) = &mut failing, if pending || may_ask => {
                failing.set(trouble(&shared.backend.directory, backoff));
                match may_ask {
                    true => asking = Some(shared.peers.policy(scope).boxed()),
                    false if asking.is_none() => none_yet(sender),
                    false => {}
                }
            }
            () = sleep_until(deadline), if pending && asking.is_none() => match may_ask {
                true => asking = Some(shared.peers.policy(scope).boxed()),
                false => none_yet(sender),
            },
        }
    }
    // The backend is closed: what is known stays.
    none_yet(sender);
    sender.closed().await;
}

/// What peers are being asked.
type Asking<'a> = Option<BoxFuture<'a, Said<PolicyRecord>>>;

/// What peers say. It never ends while nobody is asked.
async fn asked(asking: &mut Asking<'_>) -> Said<PolicyRecord> {
    match asking {
        Some(answer) => answer.await,
        None => std::future::pending().await,
    }
}

fn from_peer(shared: &Shared, record: PolicyRecord, sender: &watch::Sender<PolicyState>) {
    tracing::warn!(
        scope = record.scope,
        revision = record.revision,
        "the registry does not answer and the disk has no policy; a peer's is used"
    );
    show(&record, sender);
    shared.uses(Record::Policy(Arc::new(record)));
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
