//! Who leaves the lists without a word, as far as rule R admits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rsf_registry::record::RemovalCause;

use super::known::Standing;
use super::members::Members;
use super::{Fold, Moment};
use crate::evidence::{Evidence, Finding, Suspect};
use crate::listed::is_draining;
use crate::shrink::ShrinkRule;

/// How many suspects are handed out to be probed at once.
const TO_PROBE: usize = 1_000;

/// How long findings count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FindingAges {
    /// After this a finding is asked for again.
    pub again: Duration,
    /// After this it counts no more.
    pub life: Duration,
}

/// What the suspects turn out to be.
#[derive(Default)]
struct Verdicts {
    /// Another source has them.
    here: Vec<String>,
    /// They leave without a question: listed nowhere, announced, or proven to be gone.
    exempt: Vec<String>,
    /// By service: those that rule R judges.
    leaving: BTreeMap<String, Leaving>,
    /// Held services that miss instances which cannot be judged yet.
    open: BTreeSet<String>,
    /// Who is kept listed only because the source that had it does not answer.
    unheard: Vec<String>,
}

/// Who is missing in one service.
#[derive(Default)]
struct Leaving {
    /// The deadlines and ids of those of whom nothing is known.
    unknown: Vec<(Duration, String)>,
    /// Those that answer.
    answering: Vec<String>,
}

impl Fold {
    /// Lets go what no source has any more, past its deadline and as far as `rule` admits. Call it after a sweep that
    /// went well: one lost node looks the same as an emptied source, and only a sweep tells the two apart.
    ///
    /// Answers who is still listed without a lease and wants to be probed.
    pub fn reap(&mut self, at: Moment, rule: &mut ShrinkRule, ages: FindingAges) -> Vec<Suspect> {
        let mut verdicts = self.judge(at.elapsed, rule, ages);
        for instance in verdicts.here {
            self.welcome(at, &instance);
        }
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for instance in verdicts.exempt {
            self.unlist_everywhere(at, &instance, RemovalCause::Expired);
            gone.insert(instance);
        }
        for (service, Leaving { unknown, answering }) in &mut verdicts.leaving {
            unknown.sort();
            let listed = self.services.get(service).map_or(0, Members::len);
            let admitted = rule.admit(at.elapsed, service, listed, unknown.len(), answering.len());
            let kept = unknown.split_off(admitted.min(unknown.len()));
            let released = answering.drain(..admitted - unknown.len());
            for instance in unknown.drain(..).map(|(_, instance)| instance).chain(released) {
                self.unlist(at, service, &instance, RemovalCause::Expired);
                gone.insert(instance);
            }
            *unknown = kept;
        }
        verdicts
            .leaving
            .retain(|_, rest| !(rest.unknown.is_empty() && rest.answering.is_empty()));
        rule.settle(at.elapsed, |service| {
            verdicts.leaving.contains_key(service) || verdicts.open.contains(service)
        });
        for instance in gone {
            self.depart(at, rule, &instance);
        }
        let held = verdicts.leaving.into_values().flat_map(|rest| {
            let unknown = rest.unknown.into_iter().map(|(_, instance)| instance);
            unknown.chain(rest.answering)
        });
        self.to_probe(at.elapsed, held.chain(verdicts.unheard), ages)
    }

    /// Takes in what a probe found; whoever is proven to be gone leaves at once.
    pub fn take_evidence(&mut self, at: Moment, rule: &ShrinkRule, evidence: &Evidence) {
        let Evidence { suspect, finding } = evidence;
        let Some(known) = self.instances.get_mut(&suspect.instance) else {
            return;
        };
        if !known.suspect
            || known.lease.incarnation != suspect.incarnation
            || known.lease.address != suspect.address
        {
            return;
        }
        known.found = Some((*finding, at.elapsed));
        if *finding != Finding::Gone || !known.may_leave(at.elapsed, rule) {
            return;
        }
        self.unlist_everywhere(at, &suspect.instance, RemovalCause::Expired);
        self.depart(at, rule, &suspect.instance);
    }

    /// Makes suspects of all instances that silent sources had last, so that they are probed.
    pub fn suspect_silent(&mut self, now: Duration, rule: &ShrinkRule) {
        for (instance, known) in &mut self.instances {
            let unheard = !known.suspect && matches!(known.standing(now, rule), Standing::Unheard { .. });
            if unheard && !known.listed.is_empty() {
                known.suspect = true;
                self.suspects.insert(instance.clone());
            }
        }
    }

    fn judge(&self, now: Duration, rule: &ShrinkRule, ages: FindingAges) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for instance in &self.suspects {
            let Some(known) = self.instances.get(instance) else {
                continue;
            };
            let standing = known.standing(now, rule);
            let finding = known.finding(now, ages.life);
            let (deadline, trusted) = match standing {
                Standing::Here => {
                    verdicts.here.push(instance.clone());
                    continue;
                }
                Standing::Unheard { .. } if finding == Some(Finding::Gone) && known.may_leave(now, rule) => {
                    verdicts.exempt.push(instance.clone());
                    continue;
                }
                Standing::Unheard { .. } => {
                    verdicts.unheard.push(instance.clone());
                    continue;
                }
                Standing::Gone { deadline, trusted } => (deadline, trusted),
            };
            if deadline > now {
                continue;
            }
            let proven = trusted && finding == Some(Finding::Gone);
            if known.listed.is_empty() || is_draining(&known.lease) || proven {
                verdicts.exempt.push(instance.clone());
                continue;
            }
            for service in &known.listed {
                if !trusted {
                    if rule.is_held(service) {
                        verdicts.open.insert(service.clone());
                    }
                    continue;
                }
                let leaving = verdicts.leaving.entry(service.clone()).or_default();
                match finding {
                    Some(Finding::Answers) => leaving.answering.push(instance.clone()),
                    _ => leaving.unknown.push((deadline, instance.clone())),
                }
            }
        }
        verdicts
    }

    /// Of those that are held, the ones whose last finding is old enough to ask again.
    fn to_probe(&self, now: Duration, held: impl Iterator<Item = String>, ages: FindingAges) -> Vec<Suspect> {
        let mut seen = BTreeSet::new();
        let wanted = held.filter_map(|instance| {
            let known = self.instances.get(&instance)?;
            let due = known.found.is_none_or(|(_, at)| now >= at + ages.again);
            (due && !known.listed.is_empty() && seen.insert(instance)).then(|| Suspect {
                instance: known.lease.instance.clone(),
                incarnation: known.lease.incarnation,
                address: known.lease.address.clone(),
            })
        });
        wanted.take(TO_PROBE).collect()
    }

    /// Another source has a suspect: it stands wherever its lease says, whatever it lost meanwhile.
    fn welcome(&mut self, at: Moment, instance: &str) {
        if let Some(known) = self.instances.get_mut(instance) {
            known.prune(at.elapsed);
            let lease = known.lease.clone();
            self.replace(at, lease);
        }
    }

    /// Forgets an instance that is in no list any more, unless a source may have an older lease of it, which must not
    /// bring it back: then it is remembered for as long as such a lease can live.
    fn depart(&mut self, at: Moment, rule: &ShrinkRule, instance: &str) {
        let Some(known) = self.instances.get_mut(instance) else {
            return;
        };
        if !known.listed.is_empty() {
            return;
        }
        let ttl = known.copies.iter().map(|copy| copy.ttl).max().unwrap_or_default();
        let until = *known.left.get_or_insert(at.elapsed + ttl);
        let silent = || known.copies.iter().any(|copy| rule.is_silent(copy.source));
        if known.lingers() && (at.elapsed < until || silent()) {
            self.give_up_address(at, instance);
        } else {
            self.forget(at, instance);
        }
    }
}
