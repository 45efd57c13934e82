//! What holds of every list that is stored: fenced versions, nobody removed who lives, rule R, and why somebody left.

use std::collections::VecDeque;
use std::time::Duration;

use rsf_registry::record::{LeaseState, RemovalCause, ServiceList};
use tokio::time::Instant;

use super::{Judge, Known, Life, Part, State, TTL, Writer};

/// The window of rule R, less what coalescing may move a write.
const WINDOW: Duration = Duration::from_secs(8);
/// The same, and what coalescing may move a write.
const LONG_WINDOW: Duration = Duration::from_secs(12);
/// The share of rule R, percent.
const SHARE: usize = 20;

/// How long the site may take, once nothing is wrong, until every living instance is listed: session, election,
/// subscription, sweep, write.
const SETTLED: Duration = Duration::from_secs(25);
/// Until somebody who left is gone, where nothing was wrong: hint, read, coalescing, write.
const LEFT: Duration = Duration::from_secs(5);
/// Until somebody who died is gone, where nothing was wrong: DESIGN.md's TTL + 2 s, and the last renewal's way.
const DIED: Duration = Duration::from_millis(17_500);

/// What left one list lately without a word.
#[derive(Debug, Default)]
pub(super) struct Shrinking {
    lost: VecDeque<(Instant, usize, usize)>,
    /// When the share of a window was last used up, so that the next one has to wait.
    spent: Option<Instant>,
    floor: Option<Floor>,
}

/// How small a list may become after a mass death (rule R's hold).
#[derive(Debug)]
struct Floor {
    until: Instant,
    least: usize,
    /// Whether a list written since says that it is held: who leads then knows what was there.
    published: bool,
}

impl Judge {
    /// A pump's write took effect.
    pub(crate) fn written(&self, writer: Writer, former: Option<&ServiceList>, list: &ServiceList) {
        self.trace.note("directory", format_args!("{}", shown(list)));
        let mut known = self.known.lock();
        known.memory.note(&writer, list);
        known.emptied.remove(&list.service);
        known.restored.remove(&list.service);
        let checked = known.check_write(former, list, self.hold);
        known.stored.insert(list.service.clone(), list.clone());
        known.departed.retain(|(service, ..)| *service != list.service);
        if entries(list) == known.truth(&list.service) {
            known.lost_at.remove(&list.service);
        }
        if let Err(broken) = checked {
            self.break_with(&mut known, broken);
        }
    }

    /// A pump's epoch begins: nobody writes in an earlier one any more (invariant 3).
    pub(crate) fn epoch_begins(&self, epoch: u64) {
        let mut known = self.known.lock();
        known.epoch = known.epoch.max(epoch);
        known.greatest_epoch = known.greatest_epoch.max(epoch);
    }

    /// The directory's data was replaced by this: its versions begin anew.
    pub(crate) fn replaced(&self, lists: Vec<ServiceList>) {
        let mut known = self.known.lock();
        known.restored = lists.iter().map(|list| list.service.clone()).collect();
        let (now, had) = (Instant::now(), std::mem::take(&mut known.stored));
        for list in &lists {
            let Some(newer) = had.get(&list.service).map(entries) else {
                continue;
            };
            let left = entries(list).into_iter().filter(|entry| !newer.contains(entry));
            let left = left.map(|(instance, incarnation)| (list.service.clone(), instance, incarnation));
            known.departed.extend(left);
        }
        known
            .lost_at
            .extend(had.into_keys().map(|service| (service, now)));
        known.stored = lists
            .into_iter()
            .map(|list| (list.service.clone(), list))
            .collect();
        known.shrinking.clear();
        known.epoch = 0;
        known.lost_epoch = Some(known.greatest_epoch);
    }

    /// More than half of a list's instances die at once: for a whole hold it keeps half of what it had.
    pub(crate) fn mass_death(&self, service: &str, before: usize) {
        let mut known = self.known.lock();
        let shrinking = known.shrinking.entry(service.to_owned()).or_default();
        shrinking.floor = Some(Floor {
            until: Instant::now() + self.hold,
            least: before.div_ceil(2),
            published: false,
        });
    }

    /// How many a list has whose instances all live; `None` where some do not, or there is no list.
    pub(crate) fn whole(&self, service: &str) -> Option<usize> {
        let known = self.known.lock();
        let list = known.stored.get(service)?;
        let well = |id: &str| known.lives.get(id).is_some_and(Life::is_well);
        let whole = list.instances.iter().all(|listed| well(&listed.instance));
        (whole && known.calm.since().is_some()).then_some(list.instances.len())
    }
}

impl Known {
    fn check_write(
        &mut self,
        former: Option<&ServiceList>,
        list: &ServiceList,
        hold: Duration,
    ) -> Result<(), String> {
        let service = &list.service;
        let version = list.version.as_ref().map_or((0, 0), |version| version.order());
        let before = former.map_or((0, 0), |former| {
            former.version.as_ref().map_or((0, 0), |v| v.order())
        });
        if former.is_some() && version <= before {
            return Err(format!(
                "the version of {service} goes from {before:?} to {version:?}"
            ));
        }
        if version.0 < self.epoch {
            return Err(format!(
                "{service} is written in epoch {} after {} began",
                version.0, self.epoch
            ));
        }
        for listed in &list.instances {
            let Some(life) = self.lives.get(&listed.instance) else {
                return Err(format!("{service} lists {}, which never was", listed.instance));
            };
            if listed.incarnation == life.incarnation && listed.address != life.address {
                return Err(format!("{service} lists {} at a wrong address", listed.instance));
            }
        }
        let draining = list.instances.iter();
        let draining = draining.filter(|listed| listed.state() == LeaseState::Draining);
        let announced = draining.map(|listed| (service.clone(), listed.instance.clone(), listed.incarnation));
        self.announced.extend(announced);
        let Some(former) = former else { return Ok(()) };
        self.check_removals(former, list, hold)
    }

    /// Redis is interrupted: no lease of it ends for one TTL, which is longer than rule R's window. Of a mass death whose
    /// first victims left before, the rest leaves as one of its own.
    pub(super) fn interrupt(&mut self, part: Part) {
        if part != Part::Redis {
            return;
        }
        for (service, shrinking) in &mut self.shrinking {
            let listed = self.stored.get(service).map_or(0, |list| list.instances.len());
            shrinking.is_interrupted(listed);
        }
    }

    fn check_removals(
        &mut self,
        former: &ServiceList,
        list: &ServiceList,
        hold: Duration,
    ) -> Result<(), String> {
        let now = Instant::now();
        let service = &list.service;
        let mut silent = 0;
        let mut spoken = 0;
        for gone in &former.instances {
            if list
                .instances
                .iter()
                .any(|listed| listed.instance == gone.instance)
            {
                continue;
            }
            let Some(life) = self.lives.get(&gone.instance) else {
                continue;
            };
            let same = life.incarnation == gone.incarnation;
            // That it provides it again nobody may have read yet.
            let unread = self.calm.without_leases(now) + LEFT;
            let heard = |since: &Instant| *since <= life.since || since.elapsed() > unread;
            let provides = life.services.get(service).is_some_and(heard);
            if same && life.is_well() && life.state == State::Up && provides {
                return Err(format!("{} lives and was removed from {service}", gone.instance));
            }
            let removal =
                list.removed.iter().rev().find(|removal| {
                    removal.instance == gone.instance && removal.incarnation == gone.incarnation
                });
            let cause = removal.map_or(RemovalCause::Unspecified, |removal| removal.cause());
            let said = matches!(life.state, State::Left { .. }) || life.dropped.contains_key(service);
            if cause == RemovalCause::Deregistered && same && !said {
                return Err(format!(
                    "{} left {service} as deregistered and did not say so",
                    gone.instance
                ));
            }
            // The directory may have lost the list that said so.
            let announced = (service.clone(), gone.instance.clone(), gone.incarnation);
            let exempt = gone.state() == LeaseState::Draining
                || self.announced.contains(&announced)
                || cause != RemovalCause::Expired;
            if self.departed.contains(&announced) {
                continue;
            }
            if exempt { spoken += 1 } else { silent += 1 }
        }
        let backlog = self.calm.backlog(now);
        let shrinking = self.shrinking.entry(service.clone()).or_default();
        if let Some(floor) = &mut shrinking.floor {
            floor.published |= list.hold.is_some();
        }
        shrinking.check(
            now,
            service,
            (former.instances.len(), list.instances.len()),
            (silent, spoken),
            backlog,
            hold,
        )
    }

    /// Checks what must have happened by now.
    pub(super) fn check_liveness(&self, now: Instant) -> Result<(), String> {
        let Some(calm) = self.calm.since() else {
            return Ok(());
        };
        for life in self.lives.values() {
            for service in life.services.keys() {
                let listed = self.stored.get(service).is_some_and(|list| {
                    list.instances
                        .iter()
                        .any(|listed| listed.instance == life.id && listed.incarnation == life.incarnation)
                });
                let Some(since) = life.provides_since(service) else {
                    continue;
                };
                let due = match life.state {
                    State::Up if life.is_well() => Some((false, since.max(calm) + SETTLED)),
                    State::Left { told: true } if calm + SETTLED < since => Some((true, since + LEFT)),
                    State::Dead if calm + 2 * TTL + SETTLED < since && self.is_alone(life, service) => {
                        Some((true, since + DIED))
                    }
                    _ => None,
                };
                match due {
                    Some((gone, due)) if due < now && listed == gone => {
                        let word = if gone { "still" } else { "not" };
                        return Err(format!(
                            "{} is {:?} and {word} listed in {service}",
                            life.id, life.state
                        ));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether nobody else of this service died at about the same time, or earlier and used up the share of a window since or
    /// has still to leave it under rule R, so that it lets this one go at once.
    fn is_alone(&self, dead: &Life, service: &str) -> bool {
        let near = |life: &&Life| {
            let apart = life.since.max(dead.since) - life.since.min(dead.since);
            let expires = !matches!(life.state, State::Up | State::Left { told: true }) || !life.is_well();
            let other = (&life.id, life.incarnation) != (&dead.id, dead.incarnation);
            expires && other && life.services.contains_key(service) && apart < 3 * TTL
        };
        let waits = |life: &&Life| {
            let list = self.stored.get(service);
            let listed = list.is_some_and(|list| {
                let mut listed = list.instances.iter();
                listed.any(|listed| listed.instance == life.id && listed.incarnation == life.incarnation)
            });
            life.state == State::Dead && life.since < dead.since && listed
        };
        let shrinking = self.shrinking.get(service);
        let left = |shrinking: &Shrinking| shrinking.spent.is_some_and(|spent| spent >= dead.since);
        let held = shrinking.is_some_and(|shrinking| shrinking.floor.is_some() || left(shrinking));
        let mut all = self.lives.values().chain(&self.died);
        !held && !all.any(|life| near(&life) || waits(&life))
    }

    /// Whether the directory shows the truth.
    pub(super) fn check_directory(&self) -> Result<(), String> {
        for service in self.services() {
            let truth = self.truth(&service);
            let stored = self.stored.get(&service).map(entries).unwrap_or_default();
            if stored != truth {
                return Err(format!(
                    "the directory has {stored:?} of {service}; {truth:?} live"
                ));
            }
        }
        Ok(())
    }

    /// All services that anybody ever provided.
    pub(super) fn services(&self) -> Vec<String> {
        let mut services: Vec<String> = self
            .lives
            .values()
            .flat_map(|life| life.services.keys().chain(life.dropped.keys()))
            .cloned()
            .collect();
        services.sort();
        services.dedup();
        services
    }

    /// Who provides a service, with which incarnation.
    pub(super) fn truth(&self, service: &str) -> Vec<(String, u64)> {
        let provides = |life: &&Life| life.is_alive() && life.services.contains_key(service);
        let lives = self.lives.values().filter(provides);
        lives.map(|life| (life.id.clone(), life.incarnation)).collect()
    }
}

impl Shrinking {
    /// A new leader keeps half of what was there before the hold that its predecessor published. Where that died before
    /// the hold began, nobody can know what was there: it keeps half of the list that it found, from which one may leave.
    /// A hold that was published does not end before its time, so that a list without one lowers nothing any more.
    /// Of one that a stranger `emptied` there was nobody to be found.
    pub(super) fn goes_on(&mut self, found: Option<&ServiceList>, emptied: bool) {
        let Some(floor) = &mut self.floor else { return };
        let hold = found.and_then(|list| list.hold.as_ref());
        let found = found.filter(|_| !emptied);
        let listed = found.map_or(0, |list| list.instances.len());
        let least = match hold {
            Some(hold) => hold.before.div_ceil(2) as usize,
            None if floor.published => return,
            None => half(listed),
        };
        floor.least = floor.least.min(least);
    }

    /// No lease ends for a while: a hold that has not begun begins later, with what is listed then.
    fn is_interrupted(&mut self, listed: usize) {
        if let Some(floor) = self.floor.as_mut().filter(|floor| !floor.published) {
            floor.least = floor.least.min(half(listed));
        }
    }

    /// Rule R, as the directory sees it.
    fn check(
        &mut self,
        now: Instant,
        service: &str,
        (before, after): (usize, usize),
        (silent, spoken): (usize, usize),
        backlog: Duration,
        hold: Duration,
    ) -> Result<(), String> {
        if let Some(floor) = &mut self.floor {
            // Who leaves with a word is exempt.
            floor.least = floor.least.saturating_sub(spoken);
            if floor.until < now {
                self.floor = None;
            } else if silent > 0 && after < floor.least {
                return Err(format!(
                    "{service} keeps {after} instances within a hold; {} was half",
                    floor.least
                ));
            }
        }
        while self.lost.front().is_some_and(|(at, ..)| *at + LONG_WINDOW <= now) {
            self.lost.pop_front();
        }
        if silent == 0 {
            return Ok(());
        }
        let long: usize = self.lost.iter().map(|(_, lost, _)| lost).sum();
        if long + silent >= (after * SHARE / 100).max(1) {
            self.spent = Some(now);
        }
        // Who came in the same write was there when the rule was asked.
        let before = before.max(after + silent);
        let mut recent = self.lost.iter().filter(|(at, ..)| now < *at + WINDOW).peekable();
        let size = recent.peek().map_or(before, |(_, _, size)| *size).max(before);
        let lost: usize = recent.map(|(_, lost, _)| lost).sum::<usize>() + silent;
        // What the rule let go while nothing could be written is written at once.
        let windows = 1 + backlog.as_secs() as usize / 10;
        let most = (size * SHARE / 100).max(1) * windows;
        self.lost.push_back((now, silent, before));
        if lost > most && backlog < hold {
            return Err(format!(
                "{service} lost {lost} of {size} without a word; rule R admits {most}"
            ));
        }
        Ok(())
    }
}

/// What stays of a list under a hold that begins now; one may always leave.
fn half(listed: usize) -> usize {
    if listed > 1 { listed.div_ceil(2) } else { 0 }
}

/// Who is listed, with which incarnation.
pub(super) fn entries(list: &ServiceList) -> Vec<(String, u64)> {
    let mut entries: Vec<_> = list
        .instances
        .iter()
        .map(|listed| (listed.instance.clone(), listed.incarnation))
        .collect();
    entries.sort();
    entries
}

fn shown(list: &ServiceList) -> String {
    let (epoch, sequence) = list.version.as_ref().map_or((0, 0), |version| version.order());
    let names: Vec<String> = list
        .instances
        .iter()
        .map(|listed| match listed.state() {
            LeaseState::Draining => format!("({})", listed.instance),
            _ => listed.instance.clone(),
        })
        .collect();
    let held = list
        .hold
        .as_ref()
        .map(|hold| format!(" [held, of {}]", hold.before));
    let (names, held) = (names.join(" "), held.unwrap_or_default());
    format!("{} {epoch}.{sequence}: {names}{held}", list.service)
}
