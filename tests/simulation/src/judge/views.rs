//! What holds of everything that a consumer sees.

use std::time::Duration;

use rsf_core::control::Discovery;
use tokio::time::Instant;

use super::{Judge, Known, State};
use crate::site::Disk;

/// How long a list takes to its snapshot on disk.
const SAVED: Duration = Duration::from_secs(2);
/// How long a consumer takes to begin with its snapshot, whatever is wrong with the rest.
const BEGUN: Duration = Duration::from_secs(3);

/// How far behind a consumer may be: a watch that was lost, a server that lags, a reconnect.
const STALE: Duration = Duration::from_secs(75);

/// What one consumer sees of one service.
#[derive(Debug, Default)]
pub(super) struct View {
    version: (u64, u64),
    /// Who is shown, with which incarnation; nothing before the first list.
    shown: Option<Vec<(String, u64)>>,
    at: Option<Instant>,
    /// Until when something has to be shown.
    due: Option<Instant>,
    ended: bool,
}

impl Judge {
    /// A consumer shows something new of a service.
    pub(crate) fn shown(&self, consumer: &str, service: &str, discovery: &Discovery) {
        let line = match discovery {
            Discovery::Pending => "nothing yet".to_owned(),
            Discovery::NotReady { .. } => "not ready".to_owned(),
            Discovery::Ready(list) => {
                let names: Vec<&str> = list.instances.iter().map(|instance| &*instance.id).collect();
                format!(
                    "{:?} {}.{}: {}",
                    list.origin,
                    list.version.0,
                    list.version.1,
                    names.join(" ")
                )
            }
        };
        self.trace.note(consumer, format_args!("{service} {line}"));
        let mut known = self.known.lock();
        if let Err(broken) = known.check_view(consumer, service, discovery, self.hold) {
            self.break_with(&mut known, broken);
        }
    }

    /// A consumer begins: what its disk holds is shown soon.
    pub(crate) fn consumer_starts(&self, consumer: &str) {
        self.trace.note(consumer, format_args!("starts"));
        let mut known = self.known.lock();
        for ((name, _), view) in &mut known.views {
            if name == consumer {
                view.due = Some(Instant::now() + BEGUN);
                view.ended = false;
            }
        }
    }

    /// A consumer ended; with its disk it knows again what it knew.
    pub(crate) fn consumer_ends(&self, consumer: &str, disk: Disk) {
        self.trace
            .note(consumer, format_args!("is killed; disk: {disk:?}"));
        let mut known = self.known.lock();
        known.views.retain(|(name, _), view| {
            let saved = view.at.is_some_and(|at| at.elapsed() > SAVED);
            name != consumer || disk == Disk::Stays && saved
        });
        for ((name, _), view) in &mut known.views {
            if name == consumer {
                (view.shown, view.at, view.ended) = (None, None, true);
            }
        }
    }
}

impl Known {
    fn check_view(
        &mut self,
        consumer: &str,
        service: &str,
        discovery: &Discovery,
        hold: Duration,
    ) -> Result<(), String> {
        let key = (consumer.to_owned(), service.to_owned());
        let view = self.views.entry(key).or_default();
        let Discovery::Ready(list) = discovery else {
            return match &view.shown {
                Some(_) => Err(format!(
                    "{consumer} had a list of {service} and shows {discovery:?}"
                )),
                None => Ok(()),
            };
        };
        if list.version < view.version {
            return Err(format!(
                "{consumer} goes back from {:?} to {:?} of {service}",
                view.version, list.version
            ));
        }
        let mut shown: Vec<(String, u64)> = Vec::with_capacity(list.instances.len());
        for instance in &list.instances {
            let Some(life) = self.lives.get(&*instance.id) else {
                return Err(format!("{consumer} shows {}, which never was", instance.id));
            };
            let other = instance.incarnation == life.incarnation && *instance.address != *life.address;
            if other || instance.incarnation > life.incarnation {
                return Err(format!("{consumer} shows {} as it never was", instance.id));
            }
            shown.push((instance.id.to_string(), instance.incarnation));
        }
        shown.sort();
        let former = view.shown.replace(shown.clone());
        (view.version, view.at, view.due) = (list.version, Some(Instant::now()), None);
        let Some(former) = former else { return Ok(()) };
        let life = |(id, incarnation): &&(String, u64)| {
            let life = self.lives.get(id).filter(|life| life.incarnation == *incarnation);
            life.filter(|life| {
                life.is_well() && life.state == State::Up && life.services.contains_key(service)
            })
        };
        if shown.is_empty()
            && let Some(life) = former.iter().find_map(|one| life(&one))
        {
            return Err(format!(
                "{consumer} lost all of {service} while {} lives",
                life.id
            ));
        }
        let left = former
            .iter()
            .filter(|(id, _)| !shown.iter().any(|(other, _)| other == id));
        let lost = left
            .filter_map(|one| life(&one))
            .find(|life| life.is_well_for(service, STALE));
        // With its list lost and Redis away for a whole hold since, what there is has to do.
        let away = self.calm.without_leases(Instant::now());
        let lost_at = self.lost_at.get(service);
        let long = lost_at.is_some_and(|lost| away.min(lost.elapsed()) >= hold);
        let unknowable = self.tampered.contains(service) || long;
        match lost {
            Some(life) if !unknowable => {
                Err(format!("{consumer} lost {} of {service}, which lives", life.id))
            }
            _ => Ok(()),
        }
    }

    /// Checks that consumers with a disk have begun.
    pub(super) fn check_starts(&self, now: Instant) -> Result<(), String> {
        for ((consumer, service), view) in &self.views {
            if !view.ended && view.due.is_some_and(|due| due < now) {
                return Err(format!(
                    "{consumer} does not begin with what its disk has of {service}"
                ));
            }
        }
        Ok(())
    }

    /// Whether every consumer shows the truth.
    pub(super) fn check_views(&self) -> Result<(), String> {
        for ((consumer, service), view) in self.views.iter().filter(|(_, view)| !view.ended) {
            let truth = self.truth(service);
            let shown = view.shown.clone().unwrap_or_default();
            let unknowable = self.is_unknowable(service, view, &shown, &truth);
            if shown != truth && !unknowable {
                return Err(format!(
                    "{consumer} shows {shown:?} of {service} {:?}; {truth:?} live",
                    view.version
                ));
            }
        }
        Ok(())
    }

    /// Whether nobody can know that a consumer shows what is no longer true.
    ///
    /// - Who left before the directory's data was lost stands in no list, and in no list's removals. Where nobody else is
    ///   there, the list is gone or empty without a reason, and such a list replaces no good one (invariant 4).
    /// - A directory that goes back to a backup under a pump that did not write or read what is lost, in this start or,
    ///   of any list, in an earlier one, looks as if it were the newest; consumers that have seen newer ones wait for the next change of the list.
    fn is_unknowable(
        &self,
        service: &str,
        view: &View,
        shown: &[(String, u64)],
        truth: &[(String, u64)],
    ) -> bool {
        let lost = self.lost_epoch.is_some_and(|epoch| view.version.0 <= epoch);
        let stored = self.stored.get(service);
        let explains = |(id, incarnation): &(String, u64)| {
            stored.is_some_and(|list| {
                let mut removed = list.removed.iter();
                removed.any(|gone| gone.instance == *id && gone.incarnation >= *incarnation)
            })
        };
        let nobody = truth.is_empty() && (stored.is_none() || lost && !shown.iter().all(explains));
        let version = stored
            .and_then(|list| list.version.as_ref())
            .map_or((0, 0), |v| v.order());
        let leader = self.leader.as_ref();
        let known = leader.is_some_and(|leader| self.memory.knows(leader, service, view.version));
        nobody || version < view.version && self.restored.contains(service) && !known
    }
}
