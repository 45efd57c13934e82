//! Leadership: campaigns, takes over what was published last, and notices when the term ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rsf_registry::directory::{ListOpener, SealedList};
use rsf_registry::record::{ServiceList, ShardReference};
use rsf_registry::{DirectoryWriter, StoreError, Term};
use tokio::time::{Instant, sleep_until};

use crate::state::StateFile;

/// How long a campaign or takeover that failed waits before the next.
const RETRY: Duration = Duration::from_secs(1);

/// What changed about the leadership.
pub(crate) enum Leadership {
    /// A term was won; the published lists are being read.
    Won { epoch: u64 },
    /// The term is in force; nothing has been written in it yet.
    Begun(Takeover),
    /// The term ended.
    Lost { epoch: u64 },
    /// Campaigning or taking over failed and is tried again.
    Failed { reason: String },
}

/// What a new term starts from.
pub(crate) struct Takeover {
    pub(crate) term: Term,
    pub(crate) lists: Vec<ServiceList>,
    /// The shards of each list that stands in some.
    pub(crate) shards: HashMap<String, Vec<ShardReference>>,
    /// The services whose stored lists were refused: what was published of them last is not known.
    pub(crate) refused: Vec<String>,
    /// Lists were published before, as far as this pump knows, and the directory has none.
    pub(crate) wiped: bool,
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
                            return Leadership::Begun(takeover);
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
            let least = state.get().await.epoch.saturating_add(1);
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
            let (lists, shards, refused) = opened(stored, &opener);
            let epoch_of = |list: &ServiceList| list.version.as_ref().map_or(0, |version| version.epoch);
            let greatest = lists.iter().map(epoch_of).max().unwrap_or(0);
            if greatest >= term.epoch {
                state.record_epoch(greatest).await;
                let epoch = term.epoch;
                return Err(format!(
                    "a list of epoch {greatest} is published, mine is {epoch}: a greater one is due"
                ));
            }
            if !lists.is_empty() {
                state.record_published().await;
            }
            let wiped = lists.is_empty() && state.get().await.published;
            Ok(Takeover {
                term,
                lists,
                shards,
                refused,
                wiped,
            })
        }
        .boxed()
    }
}

/// The good ones among stored lists, and whose are not: what a stranger wrote is not the last known view.
fn opened(
    stored: Vec<SealedList>,
    opener: &ListOpener,
) -> (
    Vec<ServiceList>,
    HashMap<String, Vec<ShardReference>>,
    Vec<String>,
) {
    let (mut lists, mut shards) = (Vec::with_capacity(stored.len()), HashMap::new());
    let mut refused = Vec::new();
    for sealed in stored {
        match opener.open(&sealed) {
            Ok(opened) => {
                if !opened.shards.is_empty() {
                    shards.insert(sealed.service, opened.shards);
                }
                lists.push(opened.list);
            }
            Err(error) => {
                tracing::warn!(service = sealed.service, %error, "a stored list is refused; it will be written anew");
                refused.push(sealed.service);
            }
        }
    }
    (lists, shards, refused)
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.resign();
    }
}
