//! Publishing: writes what changed of the lists, the newest content only, with a version that only rises.

mod draft;

mod round;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rsf_registry::directory::ListSealer;
use rsf_registry::record::ListVersion;
use rsf_registry::{DirectoryWriter, StoreError, Term};

use crate::coalesce::Coalesce;
use crate::config::PumpConfig;
use crate::fold::{Fold, Moment};
use crate::intake::poll;
use crate::leader::Takeover;
use crate::state::StateFile;
use draft::{Draft, Published};
pub(crate) use round::Outcome;

/// The first and the longest pause between tries while the directory is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a list rests that the directory refuses by itself.
const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// The lists as they are published in the current term.
pub(crate) struct Publisher {
    writer: Arc<dyn DirectoryWriter>,
    sealer: ListSealer,
    state: Arc<StateFile>,
    write_timeout: Duration,
    coalesce: Coalesce,
    term: Option<Term>,
    sequence: u64,
    /// What the directory is known to have; nothing where a write's outcome is unknown.
    published: HashMap<String, Published>,
    writing: Option<BoxFuture<'static, Outcome>>,
    in_flight: Vec<InFlight>,
    pause: Duration,
}

struct InFlight {
    key: String,
    since: Duration,
}

/// The end of one round, for the pump's books.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// How long each written list's change had waited.
    pub(crate) lags: Vec<Duration>,
    /// How many lists were not written.
    pub(crate) failed: usize,
    /// Why, in one example.
    pub(crate) error: Option<String>,
    /// The term has ended.
    pub(crate) fenced: bool,
}

impl Publisher {
    pub(crate) fn new(
        writer: Arc<dyn DirectoryWriter>,
        sealer: ListSealer,
        state: Arc<StateFile>,
        config: &PumpConfig,
    ) -> Self {
        Publisher {
            writer,
            sealer,
            state,
            write_timeout: config.write_timeout,
            coalesce: Coalesce::new(config.coalesce, config.first_delay),
            term: None,
            sequence: 0,
            published: HashMap::new(),
            writing: None,
            in_flight: Vec::new(),
            pause: RETRY.0,
        }
    }

    /// Begins a term: whatever differs from the published lists is due.
    pub(crate) fn begin(&mut self, takeover: Takeover, fold: &Fold, now: Duration) {
        self.end();
        self.sequence = 0;
        self.term = Some(takeover.term);
        let mut shards = takeover.shards;
        let published = takeover.lists.into_iter().map(|list| {
            let references = shards.remove(&list.service).unwrap_or_default();
            let published = Published::read(&list.instances, references);
            (list.service, published)
        });
        self.published = published.collect();
        for service in fold.services() {
            self.touch(service.to_owned(), now);
        }
    }

    /// Ends the term: nothing is written any more, and what the directory has is no longer known.
    pub(crate) fn end(&mut self) {
        self.term = None;
        self.writing = None;
        self.in_flight.clear();
        self.published.clear();
        self.coalesce.clear();
        self.pause = RETRY.0;
    }

    /// Notes that a list changed; without a term there is nothing to do.
    pub(crate) fn touch(&mut self, service: String, now: Duration) {
        if self.term.is_some() {
            self.coalesce.touch(service, now);
        }
    }

    /// When the next round may begin; `None` while one is under way or nothing waits.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.coalesce
            .due()
            .filter(|_| self.writing.is_none() && self.term.is_some())
    }

    /// How many lists wait or are being written.
    pub(crate) fn waiting(&self) -> usize {
        self.coalesce.len() + self.in_flight.len()
    }

    /// Since when the longest waiting change waits.
    pub(crate) fn waiting_since(&self) -> Option<Duration> {
        let in_flight = self.in_flight.iter().map(|list| list.since).min();
        [in_flight, self.coalesce.oldest()].into_iter().flatten().min()
    }

    /// Begins a round: renders what is due as it is *now*, and leaves out what the directory already has.
    pub(crate) fn flush(&mut self, at: Moment, fold: &Fold) {
        let Some(term) = self.term.clone() else { return };
        let mut drafts = Vec::new();
        for (key, since) in self.coalesce.take(at.elapsed) {
            let Some(draft) = Draft::of(&key, fold.list(&key), self.published.get(&key)) else {
                continue;
            };
            self.sequence += 1;
            let version = ListVersion {
                epoch: term.epoch,
                sequence: self.sequence,
            };
            drafts.push(draft.at(version, at.unix_ms));
            self.in_flight.push(InFlight { key, since });
        }
        if !drafts.is_empty() {
            let (writer, limit, state) = (self.writer.clone(), self.write_timeout, self.state.clone());
            let sealer = self.sealer.clone();
            let writing = async move {
                let outcome = round::write(&*writer, &term, drafts, &sealer, limit).await;
                if !outcome.written.is_empty() {
                    state.record_published().await;
                }
                outcome
            };
            self.writing = Some(writing.boxed());
        }
    }

    /// Waits for the end of a round; for ever where none is under way. Safe to drop and call again.
    pub(crate) async fn written(&mut self) -> Outcome {
        poll(&mut self.writing).await
    }

    /// Closes a round's books.
    pub(crate) fn settle(&mut self, outcome: Outcome, now: Duration) -> Round {
        let mut round = Round::default();
        let mut in_flight: Vec<_> = std::mem::take(&mut self.in_flight)
            .into_iter()
            .map(Some)
            .collect();
        for (index, published) in outcome.written {
            let Some(list) = in_flight.get_mut(index).and_then(Option::take) else {
                continue;
            };
            round.lags.push(now.saturating_sub(list.since));
            if published.is_out_of_shape() {
                // The next round cuts it anew.
                self.coalesce.touch(list.key.clone(), now);
            }
            self.published.insert(list.key, published);
        }
        let mut away = false;
        for (index, error) in outcome.failed {
            let Some(list) = in_flight.get_mut(index).and_then(Option::take) else {
                continue;
            };
            round.failed += 1;
            round.fenced |= matches!(error, StoreError::Fenced { .. } | StoreError::Stale { .. });
            let known = self.published.remove(&list.key);
            if known.is_some_and(|known| known.is_sharded()) && matches!(error, StoreError::Invalid { .. }) {
                // A shard outgrew its limit within one window: the next round cuts the whole list anew.
                self.coalesce.put_back(list.key, list.since, now);
            } else if error.is_transient() {
                away = true;
                self.coalesce.put_back(list.key, list.since, now + self.pause);
            } else {
                self.coalesce.defer(list.key, now + REFUSED_RETRY);
            }
            round.error.get_or_insert_with(|| error.to_string());
        }
        self.pause = if away {
            (self.pause * 2).min(RETRY.1)
        } else {
            RETRY.0
        };
        round
    }
}
