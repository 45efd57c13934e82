//! Publishing: writes what changed of the lists, the newest content only, with a version that only rises.

mod draft;

mod round;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rsf_registry::directory::ListSealer;
use rsf_registry::record::{ListVersion, Removal};
use rsf_registry::{DirectoryWriter, StoreError, Term};

use crate::coalesce::{Coalesce, Waiting};
use crate::config::PumpConfig;
use crate::fold::{Fold, Moment, Slots};
use crate::intake::{apart, poll};
use crate::leader::{Lost, StoredList};
use crate::shrink::ShrinkRule;
use crate::state::StateFile;
use draft::Draft;
pub(crate) use draft::Published;
pub(crate) use round::Outcome;

/// The first and the longest pause between tries while the directory is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a list rests that the directory refuses by itself.
const REFUSED_RETRY: Duration = Duration::from_secs(10);
/// How many instances are rendered for one round, about; the rest of what is due follows at once. A fleet's lists all
/// together are gigabytes.
const ROUND_INSTANCES: usize = 50_000;
/// How many lists are deleted at once.
const RETIRED_AT_ONCE: usize = 64;

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
    /// The greatest version of each list that this pump, in any term, has read back or written, or may have. A directory that has an
    /// older one went back to a backup, and consumers refuse what it has.
    versions: HashMap<String, (u64, u64)>,
    /// Lists whose last published view could not be read: rule R has nothing to compare them with, so none is written before
    /// instances had time to show up.
    unread: BTreeSet<String>,
    /// Those of them that have something to write.
    withheld: BTreeSet<String>,
    /// Lists that are stored empty, and when each is deleted.
    empty: BTreeMap<String, Duration>,
    retention: Option<Duration>,
    writing: Option<BoxFuture<'static, Outcome>>,
    in_flight: Vec<InFlight>,
    pause: Duration,
}

struct InFlight {
    key: String,
    since: Duration,
    version: (u64, u64),
}

/// The end of one round, for the pump's books.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// How long each written list's change had waited.
    pub(crate) lags: Vec<Duration>,
    /// The lists that were deleted.
    pub(crate) removed: Vec<String>,
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
            coalesce: Coalesce::new(config.coalesce, config.first_delay, config.write_rate),
            term: None,
            sequence: 0,
            published: HashMap::new(),
            versions: HashMap::new(),
            unread: BTreeSet::new(),
            withheld: BTreeSet::new(),
            empty: BTreeMap::new(),
            retention: config.list_retention,
            writing: None,
            in_flight: Vec::new(),
            pause: RETRY.0,
        }
    }

    /// Whether this pump has read back or written a newer one than this, or may have.
    pub(crate) fn knows_newer(&self, list: &StoredList) -> bool {
        let known = self.versions.get(&list.service);
        known.is_some_and(|known| list.version < *known)
    }

    /// Begins a term: whatever differs from the published lists is due, and those that could not be read when they are
    /// [released](Publisher::release_unread). Of a directory that went back to a backup all lists are written anew, for
    /// consumers refuse what is older than they have seen.
    pub(crate) fn begin(
        &mut self,
        term: Term,
        lists: Vec<StoredList>,
        refused: Vec<String>,
        lost: Option<Lost>,
        fold: &Fold,
        now: Duration,
    ) {
        self.end();
        self.sequence = 0;
        self.term = Some(term);
        self.unread = refused.into_iter().collect();
        let unix_ms = millis(rsf_registry::world::unix_now());
        let mut behind = 0;
        for list in lists {
            if list.instances == 0 {
                // How long it has been empty is only known by the wall clock; at worst it stays as long again.
                let age = Duration::from_millis(unix_ms.saturating_sub(list.left_unix_ms));
                self.note_empty(&list.service, now, age);
            }
            let newest = self.versions.entry(list.service.clone()).or_default();
            if list.version < *newest {
                behind += 1;
                continue;
            }
            *newest = list.version;
            if lost.is_none() {
                self.published.insert(list.service, list.published);
            }
        }
        if behind > 0 {
            tracing::warn!(
                lists = behind,
                "the directory has older lists than were written before; they are written anew"
            );
        }
        for service in fold.services() {
            self.touch(service.to_owned(), Slots::ALL, now);
        }
    }

    /// Ends the term: nothing is written any more, and what the directory has is no longer known.
    pub(crate) fn end(&mut self) {
        self.term = None;
        self.writing = None;
        for list in self.in_flight.drain(..) {
            // Whether it was written is not known any more.
            self.versions.insert(list.key, list.version);
        }
        self.published.clear();
        self.unread.clear();
        self.withheld.clear();
        self.empty.clear();
        self.coalesce.clear();
        self.pause = RETRY.0;
    }

    /// Notes that a list changed; without a term there is nothing to do.
    pub(crate) fn touch(&mut self, service: String, slots: Slots, now: Duration) {
        if self.term.is_none() {
            return;
        }
        if self.unread.contains(&service) {
            self.withheld.insert(service);
        } else {
            self.coalesce.touch(service, slots, now);
        }
    }

    /// Instances had time to show up: lists that could not be read back are written too.
    pub(crate) fn release_unread(&mut self, now: Duration) {
        self.unread.clear();
        for service in std::mem::take(&mut self.withheld) {
            self.coalesce.touch(service, Slots::ALL, now);
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
        self.coalesce.len() + self.withheld.len() + self.in_flight.len()
    }

    /// Since when the longest waiting change waits.
    pub(crate) fn waiting_since(&self) -> Option<Duration> {
        let in_flight = self.in_flight.iter().map(|list| list.since).min();
        [in_flight, self.coalesce.oldest()].into_iter().flatten().min()
    }

    /// Begins a round: renders what is due as it is *now*, and leaves out what the directory already has.
    pub(crate) fn flush(&mut self, at: Moment, fold: &Fold, rule: &ShrinkRule) {
        let Some(term) = self.term.clone() else { return };
        let (mut drafts, mut rendered) = (Vec::new(), 0);
        for (key, waiting) in self.coalesce.take(at.elapsed) {
            if rendered >= ROUND_INSTANCES {
                self.coalesce.give_back(key, waiting, at.elapsed);
                continue;
            }
            let Waiting { since, slots } = waiting;
            let published = self.published.get(&key);
            let forgotten = published.is_none()
                && fold.count(&key) == 0
                && self.is_forgotten(&fold.removed(&key), at.unix_ms);
            if forgotten {
                // It was deleted, or would be at once.
                continue;
            }
            let hold = rule.published_hold(at.elapsed, at.unix_ms, &key);
            let Some(draft) = Draft::of(&key, fold, slots, published, hold) else {
                continue;
            };
            rendered += draft.instances();
            self.sequence += 1;
            let version = ListVersion {
                epoch: term.epoch,
                sequence: self.sequence,
            };
            drafts.push(draft.at(version, at.unix_ms));
            self.in_flight.push(InFlight {
                key,
                since,
                version: version.order(),
            });
        }
        if !drafts.is_empty() {
            let (writer, limit, state) = (self.writer.clone(), self.write_timeout, self.state.clone());
            let sealer = self.sealer.clone();
            let versions: Vec<(u64, u64)> = self.in_flight.iter().map(|list| list.version).collect();
            let writing = async move {
                let outcome = round::write(&*writer, &term, drafts, &sealer, limit).await;
                let newest = outcome.written.iter().map(|(index, _)| *index).max();
                if let Some(version) = newest.and_then(|index| versions.get(index)) {
                    state.record_list(*version).await;
                }
                outcome
            };
            self.writing = Some(apart(writing));
        }
    }

    /// Deletes lists that have been empty for the whole retention; nobody has stood in them since, and a list that rule R
    /// holds is never empty. Does nothing while a round is under way.
    pub(crate) fn retire(&mut self, now: Duration, fold: &Fold) {
        let Some(term) = self.term.clone().filter(|_| self.writing.is_none()) else {
            return;
        };
        let due = |(key, at): &(&String, &Duration)| **at <= now && fold.count(key) == 0;
        let services: Vec<String> = self
            .empty
            .iter()
            .filter(due)
            .map(|(key, _)| key.clone())
            .take(RETIRED_AT_ONCE)
            .collect();
        if services.is_empty() {
            return;
        }
        let (writer, limit) = (self.writer.clone(), self.write_timeout);
        let removing = async move { round::remove(&*writer, &term, services, limit).await };
        self.writing = Some(apart(removing));
    }

    /// Whether the last one left longer than the retention ago.
    fn is_forgotten(&self, removed: &[Removal], unix_ms: u64) -> bool {
        let last = removed.iter().map(|removal| removal.at_unix_ms).max();
        let retention = self.retention.map_or(u64::MAX, millis);
        last.is_some_and(|last| last.saturating_add(retention) <= unix_ms)
    }

    fn note_empty(&mut self, key: &str, now: Duration, age: Duration) {
        if let Some(retention) = self.retention {
            self.empty
                .insert(key.to_owned(), now + retention.saturating_sub(age));
        }
    }

    /// Waits for the end of a round; for ever where none is under way. Safe to drop and call again.
    pub(crate) async fn written(&mut self) -> Outcome {
        poll(&mut self.writing).await
    }

    /// Closes a round's books.
    pub(crate) fn settle(&mut self, outcome: Outcome, now: Duration) -> Round {
        let mut round = Round::default();
        for key in outcome.removed {
            self.empty.remove(&key);
            self.published.remove(&key);
            self.versions.remove(&key);
            round.removed.push(key);
        }
        if let Some(error) = outcome.not_removed {
            round.fenced |= round::ends_term(&error);
            // Not in every report anew: deletions have time.
            self.empty
                .values_mut()
                .for_each(|at| *at = (*at).max(now + REFUSED_RETRY));
            round.error = Some(error.to_string());
        }
        let mut in_flight: Vec<_> = std::mem::take(&mut self.in_flight)
            .into_iter()
            .map(Some)
            .collect();
        for (index, published) in outcome.written {
            let Some(list) = in_flight.get_mut(index).and_then(Option::take) else {
                continue;
            };
            round.lags.push(now.saturating_sub(list.since));
            self.versions.insert(list.key.clone(), list.version);
            if published.is_out_of_shape() {
                // The next round cuts it anew.
                self.coalesce.touch(list.key.clone(), Slots::ALL, now);
            }
            if published.is_empty() {
                self.note_empty(&list.key, now, Duration::ZERO);
            } else {
                self.empty.remove(&list.key);
            }
            self.published.insert(list.key, published);
        }
        let refused = outcome.failed.iter().any(|(_, error)| round::ends_term(error));
        let mut away = false;
        for (index, error) in outcome.failed {
            let Some(list) = in_flight.get_mut(index).and_then(Option::take) else {
                continue;
            };
            round.failed += 1;
            round.fenced |= round::ends_term(&error);
            if error.is_transient() && !refused {
                // It may have been written all the same.
                self.versions.insert(list.key.clone(), list.version);
            }
            let known = self.published.remove(&list.key);
            self.empty.remove(&list.key);
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
