//! The way from a call to its pool: the rules' questions, answered from node to node.

use std::collections::HashMap;

use super::filter::Filter;
use super::rules::{Does, Reading};
use super::tree::{Chosen, Node, Question, Routes, Step, Stopped, Tier};
use crate::policy::routing::{MAX_POOLS, NoKey};

impl Routes {
    /// The pool that a call may go to.
    pub(super) fn choose(&self, question: &Question<'_>) -> Result<Chosen, Stopped> {
        let mut chosen = Chosen::default();
        if question.colour.is_none()
            && let Some(pool) = self.usual(question.key, question.lot, question.now)
        {
            chosen.pool = pool;
            return Ok(chosen);
        }
        chosen.pool = self.walk(self.root, question, &mut chosen, &mut None)?;
        Ok(chosen)
    }

    /// The pool that a call may go to, with what each rule said.
    pub(super) fn steps(&self, question: &Question<'_>) -> (Vec<Step>, Result<usize, Stopped>) {
        let mut steps = Some(Vec::new());
        let result = self.walk(self.root, question, &mut Chosen::default(), &mut steps);
        (steps.unwrap_or_default(), result)
    }

    fn walk(
        &self,
        mut node: usize,
        question: &Question<'_>,
        chosen: &mut Chosen,
        steps: &mut Option<Vec<Step>>,
    ) -> Result<usize, Stopped> {
        loop {
            let (rule, next) = match &self.nodes[node] {
                Node::Pool(pool) => return Ok(*pool),
                Node::Empty(rule) => return Err(stopped(*rule, None)),
                Node::Full(rule) => {
                    let problem = format!("the rules part the instances into more than {MAX_POOLS} sets");
                    return Err(stopped(*rule, Some(problem)));
                }
                Node::Prefer {
                    tiers,
                    rule,
                    spill_below_percent,
                } => {
                    return self.prefer(*rule, tiers, *spill_below_percent, question, chosen, steps);
                }
                Node::Shard { rule, owners, any } => {
                    (*rule, self.owner(*rule, owners, *any, question, chosen, steps)?)
                }
                Node::Percent { rule, with, without } => {
                    (*rule, self.side(*rule, [*with, *without], question, steps))
                }
                Node::Named { rule, values, other } => {
                    (*rule, self.named(*rule, values, *other, question, steps)?)
                }
            };
            node = next.ok_or_else(|| stopped(rule, None))?;
        }
    }

    /// The first tier that is well takes all calls. One that is not takes a share by its health, as in Envoy, and the next
    /// ones the rest; where all are ill together each gets its part.
    fn prefer(
        &self,
        rule: usize,
        tiers: &[Tier],
        spill_below_percent: u32,
        question: &Question<'_>,
        chosen: &mut Chosen,
        steps: &mut Option<Vec<Step>>,
    ) -> Result<usize, Stopped> {
        let share = |tier: &Tier| match u64::from(spill_below_percent) {
            0 => 100,
            below => (tier.health.percent(question.now) * 100 / below).min(100),
        };
        let first = tiers.first().map_or(100, share);
        let mut preferred = 0;
        if first < 100 {
            let mut left = 100;
            let shares: Vec<_> = tiers
                .iter()
                .map(|tier| {
                    let taken = share(tier).min(left);
                    left -= taken;
                    taken
                })
                .collect();
            let mut drawn = fastrand::u64(..(100 - left).max(1));
            for (place, share) in shares.iter().enumerate() {
                if drawn < *share {
                    preferred = place;
                    break;
                }
                drawn -= share;
            }
        }
        let mark = steps.as_ref().map_or(0, Vec::len);
        let mut failure: Option<(Stopped, Option<Vec<Step>>)> = None;
        // A later rule may leave none of a tier, for this call or for all: then the others are better than nothing.
        for place in std::iter::once(preferred).chain((0..tiers.len()).filter(|place| *place != preferred)) {
            let tier = &tiers[place];
            if let Some(steps) = steps {
                steps.truncate(mark);
                steps.push(Step {
                    rule,
                    filter: tier.filter.clone(),
                    because: format!("{} % of it are well", tier.health.percent(question.now)),
                });
            }
            match self.walk(tier.node, question, chosen, steps) {
                Ok(pool) => return Ok(pool),
                Err(stopped) => failure = failure.or_else(|| Some((stopped, steps.clone()))),
            }
            if spill_below_percent == 0 {
                break;
            }
        }
        // The one that was preferred is the one to explain.
        Err(failure.map_or_else(
            || stopped(rule, None),
            |(stopped, said)| {
                *steps = said;
                stopped
            },
        ))
    }

    fn owner(
        &self,
        rule: usize,
        owners: &[usize],
        any: usize,
        question: &Question<'_>,
        chosen: &mut Chosen,
        steps: &mut Option<Vec<Step>>,
    ) -> Result<Option<usize>, Stopped> {
        let Does::Shard {
            key,
            no_key,
            map,
            headers,
        } = &self.rules.rules[rule].does
        else {
            return Ok(Some(any));
        };
        let Some(found) = key.read(question.facts) else {
            let missing = key.missing(question.facts);
            if *no_key == NoKey::Refuse {
                return Err(stopped(rule, Some(format!("the call has no key: {missing}"))));
            }
            note(steps, rule, || {
                (Filter::All, format!("the call has no key: {missing}"))
            });
            return Ok(Some(any));
        };
        let Some(owner) = map.owner_of(&found) else {
            return Err(stopped(rule, Some(format!("no range holds the key `{found}`"))));
        };
        note(steps, rule, || {
            (Filter::from(&map.owners()[owner]), format!("of key `{found}`"))
        });
        chosen.owner = headers[owner].clone();
        chosen.by_name = key.is_named() && question.facts.named_key.is_some();
        Ok(Some(owners[owner]))
    }

    fn side(
        &self,
        rule: usize,
        [with, without]: [usize; 2],
        question: &Question<'_>,
        steps: &mut Option<Vec<Step>>,
    ) -> Option<usize> {
        let Does::Percent {
            share,
            with: tagged,
            without: others,
        } = &self.rules.rules[rule].does
        else {
            return Some(without);
        };
        let (within, canary) = self.drawn(rule, *share, [with, without], question.key, question.lot);
        let (filter, next) = if canary { (tagged, with) } else { (others, without) };
        note(steps, rule, || {
            let by = if question.key.is_some() {
                "by its key"
            } else {
                "at random"
            };
            let side = if within { "within" } else { "outside" };
            (filter.clone(), format!("{side} the share, {by}"))
        });
        Some(next)
    }

    /// Whether a call is within a share, and whether it takes that side: one that is empty is nobody's.
    pub(super) fn drawn(
        &self,
        rule: usize,
        share: u64,
        [with, without]: [usize; 2],
        key: Option<u64>,
        lot: u64,
    ) -> (bool, bool) {
        // Mixed again, or the canary would have one part of a hash ring.
        let drawn = match key {
            Some(key) => super::super::key::hash(&key.to_le_bytes()),
            None => lot,
        };
        let within = drawn < share;
        let empty = |node: usize| matches!(self.nodes[node], Node::Empty(at) if at == rule);
        (within, within && !empty(with) || !within && empty(without))
    }

    /// The node of the colour that the call has, or of the name that the expression yields.
    fn named(
        &self,
        rule: usize,
        values: &HashMap<Box<str>, usize>,
        other: usize,
        question: &Question<'_>,
        steps: &mut Option<Vec<Step>>,
    ) -> Result<Option<usize>, Stopped> {
        match &self.rules.rules[rule].does {
            Does::Dye { tag, fallback } => {
                let own = question.colour.and_then(|colour| values.get(colour));
                note(steps, rule, || match (question.colour, own) {
                    (Some(colour), None) if *fallback => (
                        Filter::Untagged(tag.clone()),
                        format!("no instance has the call's colour {colour}"),
                    ),
                    (Some(colour), _) => (
                        Filter::Tag(tag.clone(), colour.to_owned()),
                        "the call's colour".to_owned(),
                    ),
                    (None, _) => (Filter::Untagged(tag.clone()), "the call has no colour".to_owned()),
                });
                Ok(match (question.colour, own) {
                    (_, Some(own)) => Some(*own),
                    (Some(_), None) if !fallback => None,
                    _ => Some(other),
                })
            }
            Does::Expression {
                expression,
                fields,
                tag,
            } => {
                let reading = Reading {
                    expression,
                    fields,
                    facts: *question.facts,
                };
                let name = expression
                    .evaluate(&reading)
                    .map_err(|problem| stopped(rule, Some(format!("the expression failed: {problem}"))))?;
                note(steps, rule, || match (&*name, tag) {
                    ("", _) => (Filter::All, "the expression chose nothing".to_owned()),
                    (name, None) => (Filter::Zone(name.to_owned()), "by the expression".to_owned()),
                    (name, Some(tag)) => (
                        Filter::Tag(tag.clone(), name.to_owned()),
                        "by the expression".to_owned(),
                    ),
                });
                Ok(match &*name {
                    "" => Some(other),
                    name => values.get(name).copied(),
                })
            }
            _ => Ok(Some(other)),
        }
    }
}

fn stopped(rule: usize, because: Option<String>) -> Stopped {
    Stopped { rule, because }
}

#[inline]
fn note(steps: &mut Option<Vec<Step>>, rule: usize, say: impl FnOnce() -> (Filter, String)) {
    if let Some(steps) = steps {
        let (filter, because) = say();
        steps.push(Step {
            rule,
            filter,
            because,
        });
    }
}
