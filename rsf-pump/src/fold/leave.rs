//! Who leaves the lists without a word, as far as rule R admits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rsf_registry::record::RemovalCause;

use super::held::ServiceId;
use super::known::{Known, Standing};
use super::members::Members;
use super::places::Place;
use super::{Fold, Moment};
use crate::evidence::{Finding, Found, Suspect};
use crate::shrink::ShrinkRule;

/// How many suspects are handed out at once.
const SUSPECTS: usize = 1_000;
/// How many of the living are handed out beside them.
const LIVING: usize = 8;

/// How long findings count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FindingAges {
    /// How old a finding is when it is asked for again; the pump takes `probe_interval_ms`, 10 s by default.
    pub again: Duration,
    /// How old a finding is when it counts no more, at least `again`; the pump takes three times that.
    pub life: Duration,
}

/// What the suspects turn out to be.
#[derive(Default)]
struct Verdicts {
    /// Another source has them.
    here: Vec<Place>,
    /// They leave without a question: listed nowhere, announced, or proven to be gone.
    exempt: Vec<Place>,
    /// By service: those that rule R judges.
    leaving: BTreeMap<ServiceId, Leaving>,
    /// Held services that miss instances which cannot be judged yet.
    open: BTreeSet<ServiceId>,
    /// Who is kept listed only because the source that had it does not answer.
    unheard: Vec<Place>,
}

/// Who is missing in one service.
#[derive(Default)]
struct Leaving {
    /// The deadlines of those of whom nothing is known.
    unknown: Vec<(Duration, Place)>,
    /// Those that answer.
    answering: Vec<Place>,
}

impl Fold {
    /// Lets go what no source has any more, past its deadline and as far as `rule` admits. Call it after a sweep that
    /// went well: one lost node looks the same as an emptied source, and only a sweep tells the two apart.
    ///
    /// Answers who is still listed without a lease, and of whom evidence is wanted.
    pub fn reap(&mut self, at: Moment, rule: &mut ShrinkRule, ages: FindingAges) -> Vec<Suspect> {
        let mut verdicts = self.judge(at.elapsed, rule, ages);
        for place in verdicts.here {
            self.welcome(at, place);
        }
        let mut gone: BTreeSet<Place> = BTreeSet::new();
        for place in verdicts.exempt {
            self.unlist_everywhere(at, place, RemovalCause::Expired);
            gone.insert(place);
        }
        for (service, Leaving { unknown, answering }) in &mut verdicts.leaving {
            // The order must not hang on who came first, for another pump saw another order.
            unknown.sort_by_cached_key(|(deadline, place)| (*deadline, self.id(*place)));
            let listed = self.services.get(service.index()).map_or(0, Members::len);
            let key = self.shared.key(*service);
            let admitted = rule.admit(at.elapsed, key, listed, unknown.len(), answering.len());
            let kept = unknown.split_off(admitted.min(unknown.len()));
            let released = answering.drain(..admitted - unknown.len());
            for place in unknown.drain(..).map(|(_, place)| place).chain(released) {
                self.unlist(at, *service, place, RemovalCause::Expired);
                gone.insert(place);
            }
            *unknown = kept;
        }
        verdicts
            .leaving
            .retain(|_, rest| !(rest.unknown.is_empty() && rest.answering.is_empty()));
        rule.settle(at.elapsed, |service| {
            let service = self.shared.find(service);
            service.is_some_and(|service| {
                verdicts.leaving.contains_key(&service) || verdicts.open.contains(&service)
            })
        });
        for place in gone {
            self.depart(at, rule, place);
        }
        let held = verdicts.leaving.into_values().flat_map(|rest| {
            let unknown = rest.unknown.into_iter().map(|(_, place)| place);
            unknown.chain(rest.answering)
        });
        self.to_ask(at.elapsed, held.chain(verdicts.unheard), ages)
    }

    /// A few listed instances that certainly live: those that renewed last, or answered; first those beside which others are
    /// held, for consumers speak of no service else.
    pub fn living(&self, now: Duration, rule: &ShrinkRule, ages: FindingAges) -> Vec<Suspect> {
        let held = rule.holds(now);
        let held: BTreeSet<ServiceId> = held
            .iter()
            .filter_map(|hold| self.shared.find(&hold.service))
            .collect();
        let mut latest = BTreeSet::new();
        for (place, known) in self.places.iter().filter(|(_, known)| known.is_listed()) {
            let seen = match known.standing(now, rule) {
                // An instance that died lately still has a lease, but has not renewed it.
                Standing::Here => known.renewed(),
                _ if known.finding(now, ages.life) == Some(Finding::Answers) => known.found.map(|(_, at)| at),
                _ => None,
            };
            let beside = || known.listed.iter().any(|service| held.contains(service));
            latest.extend(seen.map(|seen| (beside(), seen, place)));
            if latest.len() > LIVING {
                latest.pop_first();
            }
        }
        let known = latest.iter().filter_map(|(_, _, place)| self.places.get(*place));
        known.map(Known::suspect).collect()
    }

    /// Takes in what evidence says; whoever is proven to be gone leaves at once.
    pub fn take_evidence(&mut self, at: Moment, rule: &ShrinkRule, found: &Found) {
        let Found { suspect, finding, .. } = found;
        let Some(place) = self.places.find(&suspect.instance) else {
            return;
        };
        let Some(known) = self.places.get_mut(place) else {
            return;
        };
        if !known.suspect
            || known.held.incarnation != suspect.incarnation
            || *known.held.address != *suspect.address
        {
            return;
        }
        known.found = Some((*finding, at.elapsed));
        if *finding != Finding::Gone || !known.may_leave(at.elapsed, rule) {
            return;
        }
        self.unlist_everywhere(at, place, RemovalCause::Expired);
        self.depart(at, rule, place);
    }

    /// Makes suspects of all instances that silent sources had last, so that evidence is asked for.
    pub fn suspect_silent(&mut self, now: Duration, rule: &ShrinkRule) {
        for (place, known) in self.places.iter_mut() {
            let unheard = !known.suspect && matches!(known.standing(now, rule), Standing::Unheard { .. });
            if unheard && known.is_listed() {
                known.suspect = true;
                self.suspects.insert(place);
            }
        }
    }

    fn judge(&self, now: Duration, rule: &ShrinkRule, ages: FindingAges) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for place in self.suspects.iter().copied() {
            let Some(known) = self.places.get(place) else {
                continue;
            };
            let standing = known.standing(now, rule);
            let finding = known.finding(now, ages.life);
            let (deadline, trusted) = match standing {
                Standing::Here => {
                    verdicts.here.push(place);
                    continue;
                }
                Standing::Unheard { .. } if finding == Some(Finding::Gone) && known.may_leave(now, rule) => {
                    verdicts.exempt.push(place);
                    continue;
                }
                Standing::Unheard { .. } => {
                    verdicts.unheard.push(place);
                    continue;
                }
                Standing::Gone { deadline, trusted } => (deadline, trusted),
            };
            let is_held = |service: &ServiceId| rule.is_held(self.shared.key(*service));
            if deadline > now {
                // A hold waits for those whom its published list alone names, a TTL at most.
                if known.restored.is_some() {
                    verdicts.open.extend(known.listed.iter().copied().filter(is_held));
                }
                continue;
            }
            let proven = trusted && finding == Some(Finding::Gone);
            if !known.is_listed() || known.held.is_draining() || proven {
                verdicts.exempt.push(place);
                continue;
            }
            for service in known.listed.iter().copied() {
                if !trusted {
                    if is_held(&service) {
                        verdicts.open.insert(service);
                    }
                    continue;
                }
                let leaving = verdicts.leaving.entry(service).or_default();
                match finding {
                    Some(Finding::Answers) => leaving.answering.push(place),
                    _ => leaving.unknown.push((deadline, place)),
                }
            }
        }
        verdicts
    }

    /// Of those that are held, the ones whose last finding is old enough to ask again: first who was never asked about, then
    /// the oldest findings, so that everybody's turn comes.
    fn to_ask(&self, now: Duration, held: impl Iterator<Item = Place>, ages: FindingAges) -> Vec<Suspect> {
        let mut seen = BTreeSet::new();
        let wanted = held.filter_map(|place| {
            let known = self.places.get(place)?;
            let due = known.found.is_none_or(|(_, at)| now >= at + ages.again);
            (due && known.is_listed() && seen.insert(place)).then_some(known)
        });
        let mut wanted: Vec<&Known> = wanted.collect();
        wanted.sort_by_key(|known| known.found.map(|(_, at)| at));
        wanted.into_iter().take(SUSPECTS).map(Known::suspect).collect()
    }

    /// Another source has a suspect: it stands wherever its lease says, whatever it lost meanwhile.
    fn welcome(&mut self, at: Moment, place: Place) {
        if let Some(known) = self.places.get_mut(place) {
            known.prune(at.elapsed);
            let held = known.held.clone();
            self.replace(at, place, held);
        }
    }

    /// Forgets an instance that is in no list any more, unless a source may have an older lease of it, which must not
    /// bring it back: then it is remembered for as long as such a lease can live.
    fn depart(&mut self, at: Moment, rule: &ShrinkRule, place: Place) {
        let Some(known) = self.places.get_mut(place) else {
            return;
        };
        if known.is_listed() {
            return;
        }
        let ttl = known.copies.iter().map(|copy| copy.ttl).max().unwrap_or_default();
        let until = *known.left.get_or_insert(at.elapsed + ttl);
        let silent = || known.copies.iter().any(|copy| rule.is_silent(copy.source));
        if known.lingers() && (at.elapsed < until || silent()) {
            self.give_up_address(at, place);
        } else {
            self.forget(at, place);
        }
    }
}
