//! What a pump does as its leadership comes and goes: takes over, stands by, closes a round of writes.

use std::collections::BTreeSet;
use std::time::Duration;

use rsf_registry::world::Guard;

use super::lane::Lane;
use super::running::Running;
use crate::fold::{Fold, Moment};
use crate::leader::{Leadership, Lost, Stored, StoredList, Takeover};
use crate::publish::Round;
use crate::status::Role;

impl Running {
    /// Takes in what became of the leadership; answers whether all sources have to be read anew.
    pub(super) fn on_leadership(&mut self, event: Leadership) -> bool {
        let mut anew = false;
        match event {
            Leadership::Won { epoch } => {
                tracing::info!(epoch, "won a term");
                self.role = Role::TakingOver;
                self.epoch = Some(epoch);
                self.last_error = None;
            }
            Leadership::Begun(takeover) => anew = self.take_over(*takeover),
            Leadership::Lost { epoch } => {
                tracing::warn!(epoch, "the term ended; back to standby");
                self.stand_by();
            }
            Leadership::Failed { reason } => {
                tracing::warn!(reason, "no leadership yet");
                self.stand_by();
                self.last_error = Some(reason);
            }
        }
        self.report();
        anew
    }

    fn take_over(&mut self, takeover: Takeover) -> bool {
        let now = self.now();
        self.pause.turn(now.elapsed);
        self.role = Role::Leading;
        self.metrics.terms.inc();
        let silent = self.lanes.iter().any(|lane| lane.silent.is_some());
        let anew = (silent || self.pause.missed()) && takeover.lost.is_none();
        if anew {
            // Another leader published what changed meanwhile: a pump that stood still, or could not ask a source, knows no
            // more than one that starts.
            self.fold = Fold::new();
            self.lanes
                .iter_mut()
                .for_each(|lane| lane.begin_anew(now.elapsed));
        }
        let Takeover {
            term,
            stored:
                Stored {
                    lists,
                    mut view,
                    refused,
                },
            lost,
        } = takeover;
        let ttl = self.config.lease_ttl;
        if self.is_settled(now.elapsed) {
            // Whoever has left since would come back for one TTL.
            let outdated: BTreeSet<&str> = lists
                .iter()
                .filter(|list| self.publisher.knows_newer(list))
                .map(|list| list.service.as_str())
                .collect();
            if !outdated.is_empty() {
                view.retain(|service| !outdated.contains(service));
            }
        }
        let restored = match Guard::LastView.stands() {
            true => self.fold.restore(now, view, ttl),
            false => Vec::new(),
        };
        for list in &lists {
            let outdated = lost == Some(Lost::Newest) || self.publisher.knows_newer(list);
            self.inherit(now, list, outdated);
        }
        for place in restored {
            (0..self.lanes.len()).for_each(|source| self.schedule(source, place));
        }
        self.restored = Some(now.elapsed);
        self.lost = lost;
        match lost {
            Some(Lost::All) => tracing::warn!(
                "the directory is empty although lists were published before: all of them are written anew"
            ),
            Some(Lost::Newest) => tracing::warn!(
                "the directory has only older lists than were published before: they are written anew"
            ),
            None => {}
        }
        tracing::info!(epoch = term.epoch, lists = lists.len(), "leading");
        self.publisher
            .begin(term, lists, refused, lost, &self.fold, now.elapsed);
        anew
    }

    /// Goes on with what an earlier leader let go of one service, and with the hold that it published.
    fn inherit(&mut self, now: Moment, list: &StoredList, outdated: bool) {
        let since = |unix_ms: u64| Duration::from_millis(now.unix_ms.saturating_sub(unix_ms));
        let ages: Vec<Duration> = list.expired.iter().map(|at| since(*at)).collect();
        self.rule
            .inherit(now.elapsed, &list.service, list.instances, &ages);
        // A hold in a backup may have been over long before the one that is under way began.
        let outdated = outdated && self.rule.is_held(&list.service);
        if let Some(hold) = list.hold.as_ref().filter(|_| !outdated) {
            let before = usize::try_from(hold.before).unwrap_or(usize::MAX);
            let age = since(hold.since_unix_ms);
            self.rule.inherit_hold(now.elapsed, &list.service, before, age);
        }
    }

    /// Lets lists be written that could not be read back, once instances had time to show up.
    pub(super) fn release_unread(&mut self) {
        let now = self.now().elapsed;
        if !self.is_gathering(now) {
            self.publisher.release_unread(now);
        }
    }

    fn stand_by(&mut self) {
        self.publisher.end();
        self.role = Role::Standby;
        self.epoch = None;
    }

    /// Closes a round of writes; answers whether the term is over.
    pub(super) fn on_round(&mut self, round: Round) -> bool {
        if !round.lags.is_empty() {
            self.last_write = Some(self.now().unix_ms);
        }
        for lag in &round.lags {
            self.metrics.lag_seconds.observe(lag.as_secs_f64());
        }
        self.metrics.lists_written.inc_by(round.lags.len() as u64);
        self.metrics.write_errors.inc_by(round.failed as u64);
        self.metrics.lists_removed.inc_by(round.removed.len() as u64);
        for service in &round.removed {
            tracing::info!(service, "nobody has provided it for long: its list is deleted");
        }
        if let Some(error) = &round.error {
            tracing::warn!(error, lists = round.failed, "lists could not be written");
        }
        self.last_error = round.error;
        if round.fenced {
            tracing::warn!(
                epoch = self.epoch,
                "a write was refused because another term began; back to standby"
            );
            self.metrics.fenced.inc();
            self.stand_by();
        }
        self.report();
        round.fenced
    }

    /// Whether lists have been published that this pump would know again: had the directory none later, it was wiped.
    pub(super) fn knows_a_view(&self) -> bool {
        let ttl = self.config.lease_ttl;
        let now = self.now().elapsed;
        let settled = |lane: &Lane| lane.loaded.is_some_and(|loaded| loaded + ttl <= now);
        self.role == Role::Standby && self.lanes.iter().any(settled) && self.fold.service_count() > 0
    }
}
