//! Rule by rule, which instance was removed and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::filter::Filter;
use super::rules::Does;
use super::tree::{Question, Routes, Stopped};
use crate::client::Channel;
use crate::client::channel::ChannelState;
use crate::client::snapshot::ServiceSnapshot;
use crate::context::Context;
use crate::metadata::Metadata;
use crate::moment::Moment;
use crate::routing::key::Facts;

/// Why a call may go where it may go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouteExplanation {
    /// Instances that are listed but take no calls at all.
    pub left_out: Vec<RemovedInstance>,
    /// What each rule did, in order, up to the one that left none.
    pub rules: Vec<RuleExplanation>,
    /// The ids of the instances that are left.
    pub left: Vec<Arc<str>>,
}

/// What one rule did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleExplanation {
    /// Its place in `call.routing.rules`, from 1.
    pub rule: usize,
    /// `shard`, `same_zone` and so on.
    pub kind: &'static str,
    /// What it kept: `zone west`. Empty where it could not choose.
    pub kept: String,
    /// Why, where there is something to say: `of key 42`.
    pub because: String,
    /// Instances that it found.
    pub of: usize,
    /// Those that it removed.
    pub removed: Vec<RemovedInstance>,
}

/// An instance that a call may not go to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RemovedInstance {
    /// Its id.
    pub instance: Arc<str>,
    /// What it is instead: `in zone east`.
    pub reason: String,
}

impl RouteExplanation {
    /// Why no instance is left, in one sentence.
    pub(in crate::client) fn problem(&self, service: &str) -> String {
        let Some(last) = self.rules.last() else {
            return format!("no instance of `{service}` may take the call");
        };
        let chose = match (&*last.kept, &*last.because) {
            ("", _) => last.kind.to_owned(),
            (kept, "") => format!("{} → {kept}", last.kind),
            (kept, because) => format!("{} → {kept}, {because}", last.kind),
        };
        let mut problem = format!(
            "no instance of `{service}` may take the call: routing rule {} ({chose}) left none of {} instances: ",
            last.rule, last.of
        );
        problem.push_str(&match &*last.kept {
            "" => last.because.clone(),
            _ => counted(&last.removed),
        });
        for earlier in &self.rules[..self.rules.len() - 1] {
            if !earlier.removed.is_empty() {
                problem.push_str(&format!(
                    "; rule {} ({} → {}) had removed {}",
                    earlier.rule,
                    earlier.kind,
                    earlier.kept,
                    earlier.removed.len()
                ));
            }
        }
        problem
    }
}

/// `9 are in zone east, 1 is in zone north`.
fn counted(removed: &[RemovedInstance]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for instance in removed {
        *counts.entry(&instance.reason).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let named = counts.iter().take(5).map(|(reason, count)| match count {
        1 => format!("1 is {reason}"),
        _ => format!("{count} are {reason}"),
    });
    let named: Vec<_> = named.collect();
    let rest = counts.len().saturating_sub(5);
    match rest {
        0 => named.join(", "),
        _ => format!("{}, and {rest} more sorts", named.join(", ")),
    }
}

/// What the rules say of a call, and the place of its pool where they leave it one.
pub(super) fn explained(
    snapshot: &ServiceSnapshot,
    routes: &Routes,
    question: &Question<'_>,
) -> (RouteExplanation, Option<usize>) {
    let (steps, result) = routes.steps(question);
    let (pool, stop) = match result {
        Ok(pool) => (Some(pool), None),
        Err(stop) => (None, Some(stop)),
    };
    let mut left: Vec<_> = routes.instances.iter().collect();
    let mut rules = Vec::new();
    for (place, rule) in routes.rules.rules.iter().enumerate() {
        let step = steps.iter().find(|step| step.rule == place);
        let (filter, because) = match (&rule.does, step) {
            (Does::Keep(filter), _) => (Some(filter), String::new()),
            (_, Some(step)) => (Some(&step.filter), step.because.clone()),
            (Does::Prefer { tiers, .. }, None) => (tiers.first(), String::new()),
            (_, None) => (None, String::new()),
        };
        let mut explanation = RuleExplanation {
            rule: place + 1,
            kind: rule.kind,
            kept: filter.map(Filter::to_string).unwrap_or_default(),
            because,
            of: left.len(),
            removed: Vec::new(),
        };
        let stops = stop.as_ref().filter(|stop| stop.rule == place);
        if let Some(Stopped {
            because: Some(because),
            ..
        }) = stops
        {
            (explanation.kept, explanation.because) = (String::new(), because.clone());
        } else if let Some(filter) = filter {
            let removed = left.iter().filter(|instance| !filter.keeps(instance));
            explanation.removed = removed
                .map(|instance| RemovedInstance {
                    instance: instance.id.clone(),
                    reason: filter.objection(instance),
                })
                .collect();
            left.retain(|instance| filter.keeps(instance));
        }
        rules.push(explanation);
        if stops.is_some() {
            left.clear();
            break;
        }
    }
    let explanation = RouteExplanation {
        left_out: left_out(snapshot),
        rules,
        left: left.iter().map(|instance| instance.id.clone()).collect(),
    };
    (explanation, pool)
}

fn left_out(snapshot: &ServiceSnapshot) -> Vec<RemovedInstance> {
    let left_out = snapshot.left_out.iter();
    left_out
        .map(|(instance, reason)| RemovedInstance {
            instance: instance.clone(),
            reason: (*reason).to_owned(),
        })
        .collect()
}

impl Channel {
    /// Explains where a call of the method at place `method` with this encoded message would go now, without sending it.
    /// `None` while nothing is known of the service, or where it has no such method.
    pub fn explain_route(
        &self,
        method: usize,
        message: &Bytes,
        metadata: &Metadata,
        routing_key: Option<&str>,
    ) -> Option<RouteExplanation> {
        let snapshot = self.state().snapshot.get()?;
        let explained = explain_call(self.state(), &snapshot, method, message, metadata, routing_key)?;
        Some(explained.route)
    }
}

/// Where a call would go, and why.
pub(in crate::client) struct ExplainedCall {
    pub(in crate::client) route: RouteExplanation,
    /// The place of its pool in the snapshot; `None` where no instance is left.
    pub(in crate::client) pool: Option<usize>,
    /// The hash of its routing key, where it has one.
    pub(in crate::client) key: Option<u64>,
}

/// Explains a call with `snapshot`; `None` where the service has no such method.
pub(in crate::client) fn explain_call(
    channel: &ChannelState,
    snapshot: &ServiceSnapshot,
    method: usize,
    message: &[u8],
    metadata: &Metadata,
    routing_key: Option<&str>,
) -> Option<ExplainedCall> {
    let facts = Facts {
        method: Some(method),
        method_name: &channel.methods.get(method)?.descriptor.name,
        message,
        headers: metadata.raw(),
        named_key: routing_key,
    };
    let key = snapshot.routing.key(&facts);
    let Some(routes) = &snapshot.routes else {
        let mut left: Vec<_> = snapshot.endpoints.keys().cloned().collect();
        left.sort_unstable();
        let route = RouteExplanation {
            left_out: left_out(snapshot),
            rules: Vec::new(),
            left,
        };
        let pool = Some(0).filter(|_| !snapshot.pools[0].is_empty());
        return Some(ExplainedCall { route, pool, key });
    };
    let parent = Context::current();
    let colour = super::colour(snapshot, &facts, parent.as_deref());
    let question = Question {
        facts: &facts,
        colour: colour.and_then(|colour| colour.to_str().ok()),
        key,
        lot: fastrand::u64(..),
        now: Moment::now(),
    };
    let (route, pool) = explained(snapshot, routes, &question);
    Some(ExplainedCall { route, pool, key })
}
