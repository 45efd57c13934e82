//! Who leaves the lists without a word, as far as rule R admits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rsf_registry::record::RemovalCause;

use super::known::Standing;
use super::members::Members;
use super::{Fold, Moment};
use crate::listed::is_draining;
use crate::shrink::ShrinkRule;

/// What the suspects turn out to be.
#[derive(Default)]
struct Verdicts {
    /// Another source has them.
    here: Vec<String>,
    /// They leave without a question: listed nowhere, or announced.
    exempt: Vec<String>,
    /// By service: the deadlines and ids of those that rule R judges.
    leaving: BTreeMap<String, Vec<(Duration, String)>>,
    /// Held services that miss instances which cannot be judged yet.
    open: BTreeSet<String>,
}

impl Fold {
    /// Lets go what no source has any more, past its deadline and as far as `rule` admits. Call it after a sweep that
    /// went well: one lost node looks the same as an emptied source, and only a sweep tells the two apart.
    pub fn reap(&mut self, at: Moment, rule: &mut ShrinkRule) {
        let mut verdicts = self.judge(at.elapsed, rule);
        for instance in verdicts.here {
            self.welcome(at, &instance);
        }
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for instance in verdicts.exempt {
            self.unlist_everywhere(at, &instance, RemovalCause::Expired);
            gone.insert(instance);
        }
        for (service, candidates) in &mut verdicts.leaving {
            candidates.sort();
            let listed = self.services.get(service).map_or(0, Members::len);
            let admitted = rule.admit(at.elapsed, service, listed, candidates.len());
            for (_, instance) in candidates.drain(..admitted) {
                self.unlist(at, service, &instance, RemovalCause::Expired);
                gone.insert(instance);
            }
        }
        rule.settle(at.elapsed, |service| {
            let rest = verdicts.leaving.get(service);
            rest.is_some_and(|rest| !rest.is_empty()) || verdicts.open.contains(service)
        });
        for instance in gone {
            self.depart(at, rule, &instance);
        }
    }

    fn judge(&self, now: Duration, rule: &ShrinkRule) -> Verdicts {
        let mut verdicts = Verdicts::default();
        for instance in &self.suspects {
            let Some(known) = self.instances.get(instance) else {
                continue;
            };
            let (deadline, trusted) = match known.standing(now, rule) {
                Standing::Here => {
                    verdicts.here.push(instance.clone());
                    continue;
                }
                Standing::Gone { deadline, trusted } => (deadline, trusted),
            };
            if deadline > now {
                continue;
            }
            if known.listed.is_empty() || is_draining(&known.lease) {
                verdicts.exempt.push(instance.clone());
                continue;
            }
            for service in &known.listed {
                if trusted {
                    let leaving = verdicts.leaving.entry(service.clone()).or_default();
                    leaving.push((deadline, instance.clone()));
                } else if rule.is_held(service) {
                    verdicts.open.insert(service.clone());
                }
            }
        }
        verdicts
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
