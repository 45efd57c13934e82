//! What one call would meet on its way: governing values, rules, candidates, and what would stop it. A dry run.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::balance::FirstPick;
use super::channel::{Channel, InstanceView};
use super::limit::LimitView;
use super::route::{ExplainedCall, RouteExplanation, explain_call};
use super::snapshot::ServiceSnapshot;
use crate::context::Context;
use crate::metadata::Metadata;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::policy::MethodPolicy;

/// The fields that govern every call, whether a document sets them or not.
const ALWAYS: &[&str] = &[
    "timeout_ms",
    "attempt_timeout_ms",
    "retry.attempts",
    "balance",
    "node_breaker.enabled",
    "method_breaker.enabled",
    "limit.concurrency",
    "limit.rate_per_second",
    "routing.rules",
    "degrade.when",
];

/// What one call would meet on its way if this process made it now, in the order of the way.
///
/// It is this process's view: breakers, latencies, calls under way and retry credit are those of its own calls.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The service key.
    pub service: String,
    /// The method's name.
    pub method: String,
    /// The application that calls; policies under `consumers` go by it.
    pub consumer: String,
    /// The zone that it calls from; may be empty.
    pub zone: String,
    /// Epoch and sequence of the list of instances.
    pub version: (u64, u64),
    /// The policy documents that are in force: `service/x.v1.X@7`.
    pub documents: Vec<Arc<str>>,
    /// What governs every call, then whatever else a document sets.
    pub policy: Vec<GoverningValue>,
    /// Why a degraded answer that policy wants is not given: it does not fit the method.
    pub degrade_unfit: Option<String>,
    /// Milliseconds that the call would have, a shorter remaining time of the surrounding call counted in.
    pub time_ms: u64,
    /// The consumer's limits, where policy sets some.
    pub limit: Option<LimitView>,
    /// closed, open or half-open, where policy has switched the method's breaker on.
    pub method_breaker: Option<&'static str>,
    /// Which rule removed which instance.
    pub route: RouteExplanation,
    /// Instances that the rules leave and that this process does not use, because policy gives each consumer a subset.
    pub outside_subset: Vec<Arc<str>>,
    /// What the balancer chooses among, with scores and states.
    pub candidates: Vec<InstanceView>,
    /// Where the first attempt would go.
    pub first: FirstPick,
    /// Whether the method may be attempted again after its handler may have run.
    pub repeatable: bool,
    /// Further attempts that the service's retry budget has credit for.
    pub retries_left: u64,
    /// Why the call would not be sent at all; `None` where it would.
    pub stopped: Option<Stop>,
}

/// One field of the policy that governs the call.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GoverningValue {
    /// Its path below `call`: `retry.attempts`.
    pub field: String,
    /// Its value; null: none.
    pub value: Value,
    /// The document that set it, or `built-in`.
    pub origin: Arc<str>,
}

/// Why a call would not be sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stop {
    /// `degrade`, `limit`, `method_breaker` or `route`.
    pub stage: &'static str,
    /// The reason of the error (docs/outcomes.md).
    pub reason: &'static str,
    /// What the error would say.
    pub because: String,
    /// Whether policy's degraded answer would stand in its place.
    pub degraded: bool,
}

impl Channel {
    /// Explains what a call of the method at place `method` with this encoded message would meet now. Nothing is sent and
    /// nothing that calls go by changes. `None` while nothing is known of the service, or where it has no such method.
    ///
    /// Where chance decides (percentages, zones that spill, balancers that draw), the explanation is that of one call.
    /// Interceptors are not run, and whether `limit.rate_per_second` has room cannot be asked without using it up.
    pub fn explain(
        &self,
        method: usize,
        message: &Bytes,
        metadata: &Metadata,
        routing_key: Option<&str>,
    ) -> Option<Explanation> {
        let (state, now) = (self.state(), Moment::now());
        let snapshot = state.snapshot.get()?;
        let called = explain_call(state, &snapshot, method, message, metadata, routing_key)?;
        let (policy, guards) = (&snapshot.methods[method], &snapshot.guards[method]);
        let pool = called.pool.map(|pool| &snapshot.pools[pool]);
        let candidates: Vec<_> = pool
            .iter()
            .flat_map(|pool| pool.members().iter().zip(pool.explain(now)))
            .map(|(member, candidate)| member.view(candidate))
            .collect();
        let used: BTreeSet<_> = candidates.iter().map(|view| view.instance.as_str()).collect();
        let outside = called.route.left.iter().filter(|id| !used.contains(&***id));
        Some(Explanation {
            service: state.key.clone(),
            method: state.methods[method].descriptor.name.to_string(),
            consumer: state.shared.application.clone(),
            zone: state.shared.zone.clone(),
            version: snapshot.version,
            documents: snapshot.documents.clone(),
            policy: governing(policy),
            degrade_unfit: guards.unfit.clone(),
            time_ms: time_ms(policy),
            limit: guards.limit.as_ref().map(|limit| limit.view()),
            method_breaker: guards.breaker.as_ref().map(|breaker| breaker.state_name()),
            outside_subset: outside.cloned().collect(),
            first: match pool {
                Some(pool) => pool.first_pick(called.key, now),
                None => FirstPick {
                    among: Vec::new(),
                    because: "no instance is left",
                },
            },
            candidates,
            repeatable: policy.may_repeat(),
            retries_left: snapshot.budget.left(now),
            stopped: stopped(self, &snapshot, method, &called),
            route: called.route,
        })
    }
}

fn time_ms(policy: &MethodPolicy) -> u64 {
    let inherited = Context::current().and_then(|parent| parent.remaining());
    let inherited = inherited.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    inherited.map_or(policy.call.timeout_ms, |left| left.min(policy.call.timeout_ms))
}

fn governing(policy: &MethodPolicy) -> Vec<GoverningValue> {
    let values = serde_json::to_value(&policy.call).unwrap_or_default();
    let built_in: Arc<str> = "built-in".into();
    let set = policy.origins.keys().map(String::as_str);
    let fields = ALWAYS
        .iter()
        .copied()
        .chain(set.filter(|field| !ALWAYS.contains(field)));
    let value = |field: &str| GoverningValue {
        field: field.to_owned(),
        value: values
            .pointer(&format!("/{}", field.replace('.', "/")))
            .cloned()
            .unwrap_or_default(),
        origin: policy.origins.get(field).unwrap_or(&built_in).clone(),
    };
    fields.map(value).collect()
}

/// The first stage, in the stack's order, that would end the call before it is sent.
fn stopped(
    channel: &Channel,
    snapshot: &ServiceSnapshot,
    method: usize,
    called: &ExplainedCall,
) -> Option<Stop> {
    let (state, guards) = (channel.state(), &snapshot.guards[method]);
    let path = state.methods[method].path.as_str();
    if let Some(degraded) = guards.degrade.as_ref().filter(|degraded| degraded.is_always()) {
        return Some(Stop {
            stage: "degrade",
            reason: Reason::Degraded.name(),
            because: format!(
                "{path}: answered at once by `degrade` of {}; not sent",
                degraded.origin()
            ),
            degraded: true,
        });
    }
    let limit = || guards.limit.as_ref()?.refusal(path);
    let breaker = || guards.breaker.as_ref()?.refusal(path);
    let route = || match called.pool {
        Some(_) => None,
        None if snapshot.pools[0].is_empty() => Some(snapshot.explain_empty(&state.key)),
        None => Some(called.route.problem(&state.key)),
    };
    let refused = |stage, reason: Reason, because| Stop {
        stage,
        reason: reason.name(),
        because,
        degraded: guards
            .degrade
            .as_ref()
            .is_some_and(|degraded| degraded.is_for(reason)),
    };
    limit()
        .map(|because| refused("limit", Reason::ConsumerLimit, because))
        .or_else(|| breaker().map(|because| refused("method_breaker", Reason::BreakerOpen, because)))
        .or_else(|| route().map(|because| refused("route", Reason::NoInstance, because)))
}
