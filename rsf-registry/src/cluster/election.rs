//! Which pump leads: ephemeral sequential nodes decide who, a version-checked epoch node fences all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use zookeeper_client::{Client, Error, OneshotWatcher};

use super::zookeeper::Connection;
use super::zookeeper::namespace::{Namespace, NodeAcls};
use crate::backoff::{Backoff, jittered};
use crate::error::REQUEST_TIMEOUT;
use crate::{StoreError, Term};

/// A waiting candidate looks again about this often even if its watch is silent.
const INSURANCE: Duration = Duration::from_secs(30);

/// The election of one namespace as one pump takes part in it.
#[derive(Debug)]
pub(crate) struct Election {
    namespace: Arc<Namespace>,
    /// Starts the names of this pump's nodes, so that one whose creation timed out is found again.
    name: String,
    /// Counts the candidacies, so that ending one never touches the next.
    candidacies: AtomicU64,
    /// One candidacy at a time.
    running: tokio::sync::Mutex<()>,
    current: Mutex<Option<Current>>,
}

/// What fences the writes of one term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) epoch: u64,
    /// The version of the epoch node that this term wrote.
    pub(crate) version: i32,
}

#[derive(Debug)]
struct Current {
    tenure: Tenure,
    lost: CancellationToken,
    _guard: AbortOnDropHandle<()>,
}

impl Drop for Current {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

/// What one look at the election came to.
enum Outcome {
    Leads(Tenure, String),
    /// Another candidate is ahead, or was and is gone: look again.
    Again,
}

impl Election {
    pub(crate) fn new(namespace: Arc<Namespace>) -> Self {
        Election {
            namespace,
            name: format!("{:016x}.", fastrand::u64(..)),
            candidacies: AtomicU64::new(0),
            running: tokio::sync::Mutex::new(()),
            current: Mutex::new(None),
        }
    }

    /// Where the epoch stands.
    pub(crate) fn epoch_path(&self) -> String {
        self.namespace.path("pump/epoch")
    }

    /// What fences the writes of `term`; `None` where it is not this pump's latest.
    pub(crate) fn tenure(&self, term: &Term) -> Option<Tenure> {
        self.current
            .lock()
            .as_ref()
            .map(|current| current.tenure)
            .filter(|tenure| tenure.epoch == term.epoch)
    }

    /// Waits until this pump leads. An earlier term of it ends; dropping the future withdraws the candidacy.
    pub(crate) async fn lead(&self, pump: &str, least_epoch: u64) -> Result<Term, StoreError> {
        let _running = self.running.lock().await;
        self.current.lock().take();
        let mark = format!(
            "{}{}-",
            self.name,
            self.candidacies.fetch_add(1, Ordering::Relaxed)
        );
        let withdrawal = Withdrawal {
            namespace: self.namespace.clone(),
            mark: mark.clone(),
        };
        let mut backoff = Backoff::default();
        loop {
            let connection = self.namespace.session.connected().await;
            match self.stand(&connection, &mark, pump, least_epoch).await {
                Ok(Outcome::Leads(tenure, candidate)) => {
                    return Ok(self.take_office(tenure, candidate, connection, withdrawal));
                }
                Ok(Outcome::Again) => backoff.reset(),
                Err(error) if error.is_transient() => {
                    if backoff.attempts() == 0 {
                        tracing::warn!(%error, "the election is interrupted; standing again");
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sees to it that this pump's candidate exists, and either leads or waits for the one ahead to go.
    async fn stand(
        &self,
        now: &Connection,
        mark: &str,
        pump: &str,
        least_epoch: u64,
    ) -> Result<Outcome, StoreError> {
        let root = self.namespace.path("pump/election");
        let session = &self.namespace.session;
        let seen = session.run(&root, async |client| match client.list_children(&root).await {
            Err(Error::NoNode) => Ok(None),
            children => children.map(Some),
        });
        let Some(children) = seen.await? else {
            self.namespace.create().await?;
            return Ok(Outcome::Again);
        };
        let (candidates, left_over): (Vec<_>, Vec<_>) = in_order(children)
            .into_iter()
            .partition(|name| name.starts_with(mark) || !name.starts_with(&self.name));
        for earlier in left_over {
            withdraw(&self.namespace, &earlier).await;
        }
        let Some(own) = candidates
            .iter()
            .position(|candidate| candidate.starts_with(mark))
        else {
            let prefix = format!("{root}/{mark}");
            let acls = self.namespace.acls().await?;
            session
                .run(&prefix, async |client| {
                    client.create(&prefix, pump.as_bytes(), &acls.candidate()).await
                })
                .await?;
            return Ok(Outcome::Again);
        };
        if own == 0 {
            let candidate = format!("{root}/{}", candidates[0]);
            let tenure = self.begin_epoch(least_epoch).await?;
            return Ok(tenure.map_or(Outcome::Again, |tenure| Outcome::Leads(tenure, candidate)));
        }
        let ahead = format!("{root}/{}", candidates[own - 1]);
        let (there, watcher) = session
            .run(&ahead, async |client| client.check_and_watch_stat(&ahead).await)
            .await?;
        if there.is_some() {
            tracing::info!(pump, ahead, "waiting to lead");
            tokio::select! {
                _ = watcher.changed() => {}
                () = session.moved_on(now.number) => {}
                () = tokio::time::sleep(jittered(INSURANCE)) => {}
            }
        }
        Ok(Outcome::Again)
    }

    /// Writes the next epoch; `None` where another pump was faster or the nodes were wiped meanwhile.
    async fn begin_epoch(&self, least_epoch: u64) -> Result<Option<Tenure>, StoreError> {
        let path = self.epoch_path();
        let acls = self.namespace.acls().await?;
        let begun = self.namespace.session.run(&path, async |client| {
            match write_epoch(&client, &path, least_epoch, &acls).await {
                Err(Error::BadVersion | Error::NodeExists | Error::NoNode) => Ok(None),
                written => written.map(Some),
            }
        });
        begun.await
    }

    fn take_office(
        &self,
        tenure: Tenure,
        candidate: String,
        now: Connection,
        withdrawal: Withdrawal,
    ) -> Term {
        tracing::info!(epoch = tenure.epoch, candidate, "this pump leads");
        let lost = CancellationToken::new();
        let guard = Guard {
            namespace: self.namespace.clone(),
            epoch_path: self.epoch_path(),
            candidate,
            version: tenure.version,
            lost: lost.clone(),
            _withdrawal: withdrawal,
        };
        let guard = AbortOnDropHandle::new(tokio::spawn(guard.watch(now)));
        *self.current.lock() = Some(Current {
            tenure,
            lost: lost.clone(),
            _guard: guard,
        });
        Term {
            epoch: tenure.epoch,
            lost,
        }
    }
}

/// Ends a term as soon as its leadership is in doubt.
struct Guard {
    namespace: Arc<Namespace>,
    epoch_path: String,
    candidate: String,
    version: i32,
    lost: CancellationToken,
    /// Leaves the election when the term is over, however it ends, so that another pump can lead at once.
    _withdrawal: Withdrawal,
}

impl Guard {
    async fn watch(self, now: Connection) {
        let reason = tokio::select! {
            () = self.lost.cancelled() => "it was given up",
            // The client learns of an expired session seconds late: a lost connection is doubt enough.
            () = self.namespace.session.moved_on(now.number) => "the connection to ZooKeeper was lost",
            () = self.overtaken(&now.client) => "another pump leads, or its node was removed",
        };
        tracing::warn!(candidate = self.candidate, reason, "the term is over");
        self.lost.cancel();
    }

    /// Returns once the epoch was written by somebody else or the candidate is gone.
    async fn overtaken(&self, client: &Client) {
        let mut backoff = Backoff::default();
        loop {
            match tokio::time::timeout(REQUEST_TIMEOUT, self.look(client)).await {
                Ok(Ok(None)) => return,
                Ok(Ok(Some((epoch, candidate)))) => {
                    backoff.reset();
                    tokio::select! {
                        _ = epoch.changed() => {}
                        _ = candidate.changed() => {}
                    }
                }
                Ok(Err(_)) | Err(_) => tokio::time::sleep(backoff.next()).await,
            }
        }
    }

    /// Arms watches on the epoch and the candidate; `None` where either is not as this term left it.
    async fn look(&self, client: &Client) -> Result<Option<(OneshotWatcher, OneshotWatcher)>, Error> {
        let (epoch, epoch_watcher) = client.check_and_watch_stat(&self.epoch_path).await?;
        let (candidate, candidate_watcher) = client.check_and_watch_stat(&self.candidate).await?;
        let stands = epoch.is_some_and(|stat| stat.version == self.version) && candidate.is_some();
        Ok(stands.then_some((epoch_watcher, candidate_watcher)))
    }
}

/// Removes this pump's candidates when dropped, in the background.
#[derive(Debug)]
struct Withdrawal {
    namespace: Arc<Namespace>,
    mark: String,
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let (namespace, mark) = (self.namespace.clone(), std::mem::take(&mut self.mark));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { withdraw(&namespace, &mark).await });
        }
    }
}

/// Removes the candidates that bear `mark`. What cannot be removed now goes with the session.
async fn withdraw(namespace: &Namespace, mark: &str) {
    let root = namespace.path("pump/election");
    let withdrawn = namespace.session.run(&root, async |client| {
        let children = match client.list_children(&root).await {
            Err(Error::NoNode) => return Ok(()),
            children => children?,
        };
        for own in children.iter().filter(|child| child.starts_with(mark)) {
            match client.delete(&format!("{root}/{own}"), None).await {
                Ok(()) | Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    if let Err(error) = withdrawn.await {
        tracing::debug!(%error, "could not withdraw from the election");
    }
}

async fn write_epoch(
    client: &Client,
    path: &str,
    least_epoch: u64,
    acls: &NodeAcls,
) -> Result<Tenure, Error> {
    let (stored, version) = match client.get_data(path).await {
        Ok((data, stat)) => (parse_epoch(&data), stat.version),
        Err(Error::NoNode) => (0, client.create(path, b"0", &acls.persistent()).await?.0.version),
        Err(error) => return Err(error),
    };
    let epoch = next_epoch(stored, least_epoch);
    let stat = client
        .set_data(path, epoch.to_string().as_bytes(), Some(version))
        .await?;
    Ok(Tenure {
        epoch,
        version: stat.version,
    })
}

/// The candidates among the election's children, the oldest first.
fn in_order(children: Vec<String>) -> Vec<String> {
    let sequence = |name: &str| {
        name.rsplit_once('-')
            .and_then(|(_, sequence)| sequence.parse::<i64>().ok())
    };
    let mut candidates: Vec<(i64, String)> = children
        .into_iter()
        .filter_map(|name| Some((sequence(&name)?, name)))
        .collect();
    candidates.sort();
    candidates.into_iter().map(|(_, name)| name).collect()
}

/// The stored epoch; what is not a number counts as 0, for the Unix seconds are greater than any earlier epoch.
fn parse_epoch(data: &[u8]) -> u64 {
    std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| {
            tracing::warn!("the stored epoch is not a number; going on from the clock");
            0
        })
}

fn next_epoch(stored: u64, least_epoch: u64) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    stored.saturating_add(1).max(least_epoch).max(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_stand_in_the_order_of_their_sequence_not_of_their_names() {
        let children = [
            "ff.0-0000000002",
            "aa.0-0000000010",
            "stranger",
            "bb.1-0000000001",
        ];
        let ordered = in_order(children.map(str::to_owned).to_vec());
        assert_eq!(ordered, ["bb.1-0000000001", "ff.0-0000000002", "aa.0-0000000010"]);
    }

    #[test]
    fn the_next_epoch_is_greater_than_everything_that_was() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((now..now + 5).contains(&next_epoch(0, 0)));
        assert_eq!(next_epoch(now * 2, 0), now * 2 + 1);
        assert_eq!(next_epoch(now * 2, now * 3), now * 3);
        assert_eq!(parse_epoch(b"17"), 17);
        assert_eq!(parse_epoch(b"\xff?"), 0);
    }
}
