//! Which pool of instances a call may go to.
//!
//! 1. [`rules`]: policy's rules, compiled for the methods of one service.
//! 2. [`filter`]: what a rule keeps of a set of instances.
//! 3. [`build`]: the sets that the rules can leave, each one a pool.
//! 4. [`tree`]: the rules as questions, and [`walk`]: the way from a call through them to its pool; where zones spill, by their
//!    [`health`]. Most calls go the [`usual`] one.
//! 5. [`agreement`]: waiting where a provider knows another owner of the call's shard.
//! 6. [`explain`]: rule by rule, which instance was removed and why.

pub(super) mod rules;

mod filter;
mod health;

pub(super) mod build;
pub(super) mod tree;
mod usual;
mod walk;

mod agreement;
mod explain;

use http::header::HeaderValue;

use super::snapshot::ServiceSnapshot;
use super::stack::OutboundCall;
use super::streaming::RoutingKey;
use crate::context::Context;
use crate::error::RpcError;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::routing::key::Facts;
use crate::wire::OwnHeaders;
use crate::wire::headers::{DYE, ROUTING_KEY, SHARD};

pub(super) use agreement::{Agreement, is_disagreement};
pub(super) use explain::{ExplainedCall, explain_call};
pub use explain::{RemovedInstance, RouteExplanation, RuleExplanation};
use tree::Question;

/// Picks a pool that the snapshot compiled: the first one has all instances that policy lets take calls, routing rules compile
/// more of them. Sets the call's pool and key, and what its provider and the calls further down are told.
#[inline(always)]
pub(super) fn route(call: &mut OutboundCall) -> Result<(), RpcError> {
    let snapshot = &*call.snapshot;
    if let Some(pool) = plain_route(call) {
        (call.key, call.pool) = (None, pool);
        return Ok(());
    }
    let parent = call.options.parent.as_deref();
    let mut told = call.own.take().unwrap_or_default();
    (call.key, call.pool) = routed(
        snapshot,
        &call.channel.key,
        &facts(call),
        parent,
        (call.number, call.now),
        &mut told,
    )?;
    call.own = (!told.is_empty()).then_some(told);
    Ok(())
}

/// The pool of a call that brings nothing with it that a rule could ask for; `None` where it brings something, or where that
/// leads nowhere.
#[inline(always)]
fn plain_route(call: &OutboundCall) -> Option<usize> {
    let snapshot = &*call.snapshot;
    let plain = call.options.parent.is_none()
        && call.options.metadata.is_empty()
        && call.options.routing_key().is_none();
    if !plain || snapshot.routing.key_is_in_field(call.method) || snapshot.pools[0].is_empty() {
        return None;
    }
    match &snapshot.routes {
        Some(routes) => routes.usual(None, call.number, call.now),
        None => Some(0),
    }
}

/// Routes a request of any shape, of which only the headers and the key that its caller named are known: returns its
/// pool and the key's hash, and adds what its provider is told. Rules that read the message find nothing there.
pub(super) fn route_headers(
    snapshot: &ServiceSnapshot,
    service: &str,
    request: &mut http::Request<impl Sized>,
    parent: Option<&Context>,
) -> Result<(usize, Option<u64>), RpcError> {
    let facts = Facts {
        method: None,
        method_name: request.uri().path().rsplit('/').next().unwrap_or_default(),
        message: &[],
        headers: Some(request.headers()),
        named_key: request.extensions().get::<RoutingKey>().map(|key| &*key.0),
    };
    let mut told = OwnHeaders::new();
    let drawn = (fastrand::u64(..), Moment::now());
    let (key, pool) = routed(snapshot, service, &facts, parent, drawn, &mut told)?;
    for (name, value) in told {
        request.headers_mut().insert(name, value);
    }
    Ok((pool, key))
}

/// The hash of the call's key, where it has one, and the pool that it goes to. `told` gets what its provider is told.
fn routed(
    snapshot: &ServiceSnapshot,
    service: &str,
    facts: &Facts<'_>,
    parent: Option<&Context>,
    (lot, now): (u64, Moment),
    told: &mut OwnHeaders,
) -> Result<(Option<u64>, usize), RpcError> {
    if snapshot.pools[0].is_empty() {
        let problem = snapshot.explain_empty(service);
        return Err(RpcError::new(Reason::NoInstance, false, problem));
    }
    let colour = colour(snapshot, facts, parent);
    let key = snapshot.routing.key(facts);
    let mut pool = 0;
    if let Some(routes) = &snapshot.routes {
        let question = Question {
            facts,
            colour: colour.and_then(|colour| colour.to_str().ok()),
            key,
            lot,
            now,
        };
        let chosen = routes.choose(&question).map_err(|_| {
            let (explanation, _) = explain::explained(snapshot, routes, &question);
            RpcError::new(Reason::NoInstance, false, explanation.problem(service))
        })?;
        pool = chosen.pool;
        if let Some(owner) = chosen.owner {
            told.push((SHARD, owner));
        }
        // What the caller named is not in the request; the provider needs it to check the shard.
        if let Some(named) = facts.named_key.filter(|_| chosen.by_name) {
            told.push((ROUTING_KEY, key_header(named)?));
        }
    }
    if let Some(colour) = colour {
        told.push((DYE, colour.clone()));
    }
    Ok((key, pool))
}

fn key_header(key: &str) -> Result<HeaderValue, RpcError> {
    let mut value = HeaderValue::from_bytes(key.as_bytes()).map_err(|_| {
        let problem = "a routing key that shards go by has no control characters";
        RpcError::new(Reason::Malformed, false, problem)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn facts(call: &OutboundCall) -> Facts<'_> {
    Facts {
        method: Some(call.method),
        method_name: &call.method().descriptor.name,
        // Behind gRPC's prefix.
        message: call.frame.bytes().get(5..).unwrap_or_default(),
        headers: call.options.metadata.raw(),
        named_key: call.options.routing_key(),
    }
}

/// The call's own colour where policy says which metadata holds it, else the one of the call that is being handled.
fn colour<'a>(
    snapshot: &ServiceSnapshot,
    facts: &Facts<'a>,
    parent: Option<&'a Context>,
) -> Option<&'a HeaderValue> {
    let own = || facts.headers?.get(snapshot.routing.dye.as_ref()?);
    let inherited = || parent?.metadata().raw()?.get(&DYE);
    own().or_else(inherited)
}
