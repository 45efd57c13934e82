//! Leadership: campaigns, takes over what was published last, and notices when the term ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rsf_registry::directory::{ListOpener, SealedList};
use rsf_registry::record::{ListHold, ListVersion, RemovalCause, ServiceList, ShardReference};
use rsf_registry::{DirectoryWriter, StoreError, Term};
use tokio::time::{Instant, sleep_until};

use crate::fold::LastView;
use crate::publish::Published;
use crate::state::StateFile;

/// How long a campaign or takeover that failed waits before the next.
const RETRY: Duration = Duration::from_secs(1);
/// After so many instances of lists that are read back the pump looks at something else.
const READ_AT_ONCE: usize = 10_000;

/// What changed about the leadership.
pub(crate) enum Leadership {
    /// A term was won; the published lists are being read.
    Won { epoch: u64 },
    /// The term is in force; nothing has been written in it yet.
    Begun(Box<Takeover>),
    /// The term ended.
    Lost { epoch: u64 },
    /// Campaigning or taking over failed and is tried again.
    Failed { reason: String },
}

/// What a new term starts from.
pub(crate) struct Takeover {
    pub(crate) term: Term,
    pub(crate) stored: Stored,
    /// What the directory has lost, as far as this pump knows.
    pub(crate) lost: Option<Lost>,
}

/// What a directory lost: the last published view is not known then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Lists were published before, and it has none.
    All,
    /// A newer list was published than any that it has: it went back to a backup. One whose newest list was deleted, because
    /// nobody provided it for long, looks the same: a pump that starts waits for one TTL then, and writes more than it had to.
    Newest,
}

/// The published lists as they were read back. Each was opened by itself, and what it says of its instances is kept once
/// for all lists: those of a large fleet are gigabytes together.
#[derive(Default)]
pub(crate) struct Stored {
    pub(crate) lists: Vec<StoredList>,
    /// What they say of the instances.
    pub(crate) view: LastView,
    /// The services whose stored lists were refused: what was published of them last is not known.
    pub(crate) refused: Vec<String>,
}

/// What a list says of itself.
pub(crate) struct StoredList {
    pub(crate) service: String,
    /// Epoch and sequence.
    pub(crate) version: (u64, u64),
    pub(crate) instances: usize,
    pub(crate) published: Published,
    /// The hold that lasted on it.
    pub(crate) hold: Option<ListHold>,
    /// When those left whose leases ran out, Unix milliseconds, in the list's order.
    pub(crate) expired: Vec<u64>,
    /// When the last one left it, or when it was written where nobody did, Unix milliseconds.
    pub(crate) left_unix_ms: u64,
}

/// One pump's part in the election.
pub(crate) struct Leader {
    writer: Arc<dyn DirectoryWriter>,
    opener: ListOpener,
    pump: String,
    state: Arc<StateFile>,
    phase: Phase,
}

enum Phase {
    Resting(Instant),
    Campaigning(BoxFuture<'static, Result<Term, StoreError>>),
    TakingOver(Term, BoxFuture<'static, Result<Takeover, String>>),
    Leading(Term),
}

impl Leader {
    pub(crate) fn new(
        writer: Arc<dyn DirectoryWriter>,
        opener: ListOpener,
        pump: String,
        state: Arc<StateFile>,
    ) -> Self {
        Leader {
            writer,
            opener,
            pump,
            state,
            phase: Phase::Resting(Instant::now()),
        }
    }

    /// Gives the term up, because a write in it was refused.
    pub(crate) fn step_down(&mut self) {
        self.resign();
        self.phase = Phase::Resting(Instant::now() + RETRY);
    }

    /// The next change of the leadership. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Leadership {
        loop {
            match &mut self.phase {
                Phase::Resting(until) => {
                    sleep_until(*until).await;
                    self.phase = Phase::Campaigning(self.campaign());
                }
                Phase::Campaigning(campaign) => match campaign.await {
                    Ok(term) => {
                        let epoch = term.epoch;
                        self.phase = Phase::TakingOver(term.clone(), self.take_over(term));
                        return Leadership::Won { epoch };
                    }
                    Err(error) => return self.failed(error.to_string()),
                },
                Phase::TakingOver(term, work) => {
                    let taken = tokio::select! {
                        biased;
                        () = term.lost.cancelled() => {
                            let epoch = term.epoch;
                            self.phase = Phase::Resting(Instant::now());
                            return Leadership::Lost { epoch };
                        }
                        taken = work => taken,
                    };
                    match taken {
                        Ok(takeover) => {
                            self.phase = Phase::Leading(takeover.term.clone());
                            return Leadership::Begun(Box::new(takeover));
                        }
                        Err(reason) => return self.failed(reason),
                    }
                }
                Phase::Leading(term) => {
                    term.lost.cancelled().await;
                    let epoch = term.epoch;
                    self.phase = Phase::Resting(Instant::now());
                    return Leadership::Lost { epoch };
                }
            }
        }
    }

    /// Lets the next pump lead without waiting for this one's session to end.
    fn resign(&self) {
        if let Phase::TakingOver(term, _) | Phase::Leading(term) = &self.phase {
            term.lost.cancel();
        }
    }

    fn failed(&mut self, reason: String) -> Leadership {
        self.resign();
        self.phase = Phase::Resting(Instant::now() + RETRY);
        Leadership::Failed { reason }
    }

    fn campaign(&self) -> BoxFuture<'static, Result<Term, StoreError>> {
        let (writer, pump, state) = (self.writer.clone(), self.pump.clone(), self.state.clone());
        async move {
            let least = state.get().epoch.saturating_add(1);
            writer.lead(&pump, least).await
        }
        .boxed()
    }

    /// Remembers the epoch before anything is written in it, and reads what was published last. A list of the same or
    /// a later epoch (a directory whose epoch was lost) asks for a greater epoch: versions never go back.
    fn take_over(&self, term: Term) -> BoxFuture<'static, Result<Takeover, String>> {
        let (writer, opener, state) = (self.writer.clone(), self.opener.clone(), self.state.clone());
        async move {
            state.record_epoch(term.epoch).await;
            let stored = loop {
                match writer.stored().await {
                    Ok(stored) => break stored,
                    Err(error) if error.is_transient() => {
                        tracing::warn!(%error, "the published lists cannot be read yet");
                        sleep_until(Instant::now() + RETRY).await;
                    }
                    Err(error) => return Err(error.to_string()),
                }
            };
            let stored = opened(stored, &opener).await;
            let epochs = stored.lists.iter().map(|list| list.version.0);
            let greatest = epochs.max().unwrap_or(0);
            if greatest >= term.epoch {
                state.record_epoch(greatest).await;
                let epoch = term.epoch;
                return Err(format!(
                    "a list of epoch {greatest} is published, mine is {epoch}: a greater one is due"
                ));
            }
            let before = state.get();
            let newest = stored.lists.iter().map(|list| list.version).max();
            if let Some(newest) = newest {
                state.record_list(newest).await;
            }
            let lost = match newest {
                None => before.published.then_some(Lost::All),
                // A list that a stranger overwrote may have been the newest: it has a version that nobody knows.
                Some(_) if !stored.refused.is_empty() => None,
                Some(newest) => (newest < before.newest).then_some(Lost::Newest),
            };
            Ok(Takeover { term, stored, lost })
        }
        .boxed()
    }
}

/// The good ones among stored lists, and whose are not: what a stranger wrote is not the last known view.
async fn opened(stored: Vec<SealedList>, opener: &ListOpener) -> Stored {
    let mut opened = Stored::default();
    let mut at_once = 0;
    for sealed in stored {
        match opener.open(&sealed) {
            Ok(list) => {
                at_once += list.list.instances.len();
                opened.add(list.list, list.shards);
            }
            Err(error) => {
                tracing::warn!(service = sealed.service, %error, "a stored list is refused; it will be written anew");
                opened.refused.push(sealed.service);
            }
        }
        if at_once > READ_AT_ONCE {
            at_once = 0;
            // A pump that looked at nothing else for seconds would take itself for one that stood still.
            tokio::task::yield_now().await;
        }
    }
    opened
}

impl Stored {
    fn add(&mut self, list: ServiceList, references: Vec<ShardReference>) {
        self.view.add(&list);
        let left = list.removed.iter().map(|removal| removal.at_unix_ms);
        let expired = list.removed.iter();
        let expired = expired.filter(|removal| removal.cause() == RemovalCause::Expired);
        self.lists.push(StoredList {
            version: list.version.as_ref().map_or((0, 0), ListVersion::order),
            instances: list.instances.len(),
            published: Published::read(&list.instances, references, list.hold),
            hold: list.hold,
            expired: expired.map(|removal| removal.at_unix_ms).collect(),
            left_unix_ms: left.max().unwrap_or(list.written_unix_ms),
            service: list.service,
        });
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.resign();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;
    use rsf_registry::directory::ListSealer;
    use rsf_registry::record::{ListedInstance, Removal};

    use super::*;

    fn list(service: usize, instances: usize) -> SealedList {
        let listed = |number| ListedInstance {
            instance: format!("a/{number}"),
            address: "h:1".into(),
            ..ListedInstance::default()
        };
        let removal = |at_unix_ms, cause: RemovalCause| Removal {
            instance: "a/gone".into(),
            incarnation: at_unix_ms,
            cause: cause.into(),
            at_unix_ms,
        };
        let list = ServiceList {
            service: format!("s{service}"),
            version: Some(ListVersion {
                epoch: 3,
                sequence: 4,
            }),
            instances: (0..instances).map(listed).collect(),
            removed: vec![
                removal(5, RemovalCause::Expired),
                removal(6, RemovalCause::Evicted),
            ],
            ..ServiceList::default()
        };
        ListSealer::unsigned().seal(&list).expect("a good list")
    }

    #[tokio::test]
    async fn a_fleets_lists_are_read_back_one_by_one_and_hold_up_nothing_else() {
        let mut lists: Vec<_> = (0..5).map(|service| list(service, READ_AT_ONCE / 2)).collect();
        lists[4].head = b"no list".to_vec().into();
        let opener = ListOpener::unverified();
        let mut reading = pin!(opened(lists, &opener));
        assert!(poll!(&mut reading).is_pending(), "it lets others run in between");
        let stored = reading.await;
        assert_eq!(stored.refused, ["s4"]);
        assert_eq!(stored.lists.len(), 4);
        let first = &stored.lists[0];
        assert_eq!((first.service.as_str(), first.version), ("s0", (3, 4)));
        assert_eq!((first.instances, first.left_unix_ms), (READ_AT_ONCE / 2, 6));
        assert_eq!(first.expired, [5]);
    }
}
