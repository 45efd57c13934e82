//! Which pool of instances a call may go to.
//!
//! 1. [`rules`]: policy's rules, compiled for the methods of one service.
//! 2. [`filter`]: what a rule keeps of a set of instances.
//! 3. [`build`]: the sets that the rules can leave, each one a pool.
//! 4. [`tree`]: the way from a call to its pool; where zones spill, by their [`health`].
//! 5. [`explain`]: rule by rule, which instance was removed and why.

pub(super) mod rules;

mod filter;
mod health;

pub(super) mod build;
pub(super) mod tree;

mod explain;

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use tokio::time::Instant;

use super::snapshot::ServiceSnapshot;
use super::stack::{OutboundCall, Stage};
use super::streaming::RoutingKey;
use crate::context::Context;
use crate::error::RpcError;
use crate::moment::Moment;
use crate::outcome::Reason;
use crate::routing::key::Facts;
use crate::wire::headers::{DYE, ROUTING_KEY, SHARD};
use crate::wire::{OwnHeaders, UnaryReply};

pub(super) use explain::{ExplainedCall, explain_call};
pub use explain::{RemovedInstance, RouteExplanation, RuleExplanation};
use tree::Question;

/// Between two looks at whether consumer and provider agree on a shard's owner again; between them it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

/// Picks a pool that the snapshot compiled. The first one has all instances that policy lets take calls; routing rules
/// compile more of them.
///
/// While a shard moves, its consumer and its provider may for a moment hold different policies. A provider that is not
/// the owner refuses (`wrong_shard`) before its handler runs; the call then waits here for whichever side is behind, for
/// as long as the budget of further attempts has credit.
pub(crate) struct Route<S> {
    inner: S,
}

impl<S> Route<S> {
    pub(crate) fn new(inner: S) -> Self {
        Route { inner }
    }
}

impl<S: Stage> Stage for Route<S> {
    async fn call(&self, call: &mut OutboundCall) -> Result<UnaryReply, RpcError> {
        // Once a call, however often it is routed.
        call.snapshot.budget.deposit(call.now);
        let mut pause = FIRST_PAUSE;
        let mut spent = false;
        loop {
            route(call)?;
            match self.inner.call(call).await {
                Err(error) if error.reason() == Reason::WrongShard && !error.may_have_run() => {
                    // A further request like any other: providers that never agree are not to be asked for ever.
                    let Some(credit) = call.credit(call.now) else {
                        return Err(without_credit(call, error));
                    };
                    // Boxed: it is rare, and every call would hold a place for it.
                    if !Box::pin(agreement(call, pause)).await {
                        return Err(if spent { without_credit(call, error) } else { error });
                    }
                    credit.spend();
                    spent = true;
                    pause = LONGEST_PAUSE.min(pause * 2);
                    call.own
                        .retain(|(name, _)| ![SHARD, ROUTING_KEY, DYE].contains(name));
                }
                result => return result,
            }
        }
    }
}

/// The failure of a call that has spent credit or found none: nobody above is to attempt it further.
fn without_credit(call: &OutboundCall, error: RpcError) -> RpcError {
    if let Some(parent) = &call.parent {
        parent.spend_retries();
    }
    error.with_retries_spent(true)
}

/// Sets the call's pool and key, and what its provider and the calls further down are told.
fn route(call: &mut OutboundCall) -> Result<(), RpcError> {
    let snapshot = &*call.snapshot;
    let lot = fastrand::u64(..);
    if let Some(pool) = plain_route(call, lot) {
        (call.key, call.pool) = (None, pool);
        return Ok(());
    }
    let parent = call.parent.as_deref();
    let mut told = std::mem::take(&mut call.own);
    (call.key, call.pool) = routed(
        snapshot,
        &call.channel.key,
        &facts(call),
        parent,
        (lot, call.now),
        &mut told,
    )?;
    call.own = told;
    Ok(())
}

/// The pool of a call that brings nothing with it that a rule could ask for; `None` where it brings something, or where that
/// leads nowhere.
fn plain_route(call: &OutboundCall, lot: u64) -> Option<usize> {
    let snapshot = &*call.snapshot;
    let plain = call.parent.is_none() && call.metadata.is_empty() && call.routing_key.is_none();
    if !plain || snapshot.routing.key_is_in_field(call.method) || snapshot.pools[0].is_empty() {
        return None;
    }
    match &snapshot.routes {
        Some(routes) => routes.usual(None, lot, call.now),
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
        headers: call.metadata.raw(),
        named_key: call.routing_key.as_deref(),
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

/// Waits for a new snapshot, or for `pause`, which may have been enough for the provider. Afterwards the call has the
/// newest snapshot. `false` where its deadline is nearer.
async fn agreement(call: &mut OutboundCall, pause: Duration) -> bool {
    let mut version = call.channel.version.subscribe();
    let newest = call.channel.snapshot.load_full();
    if newest
        .as_ref()
        .is_some_and(|newest| Arc::ptr_eq(newest, &call.snapshot))
    {
        let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        if Instant::now() + jittered >= call.deadline {
            return false;
        }
        let waiting = {
            let _timers = call.channel.shared.runtime.handle().enter();
            tokio::time::timeout(jittered, version.changed())
        };
        let _ = waiting.await;
    }
    call.now = Moment::now();
    if let Some(newest) = call.channel.snapshot.load_full() {
        call.snapshot = newest;
    }
    true
}
