//! What calls of one service read: immutable, replaced as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::balance::{Member, Pool, unregistered};
use super::breaker::BreakerGroup;
use super::budget::RetryBudget;
use super::channel::ChannelState;
use super::endpoint::{Endpoint, EndpointGroup, Place};
use super::guards::Guards;
use super::kept::{Kept, keep};
use super::route::build::build;
use super::route::rules::CompiledRules;
use super::route::tree::Routes;
use super::subset::{floor, subset};
use crate::control::{Discovery, Instance, InstanceList};
use crate::moment::Moment;
use crate::policy::{Balance, InstanceRule, MethodPolicy, Resolution, method_policy};

/// The immutable view of one service.
pub(crate) struct ServiceSnapshot {
    /// Counts the snapshots of its channel.
    number: u64,
    /// Epoch and sequence of the list.
    pub(crate) version: (u64, u64),
    /// Why no list is known, where none is.
    pub(crate) not_ready: Option<Arc<str>>,
    /// The documents that it was built from, as `service/x.v1.X@7`.
    pub(super) documents: Vec<Arc<str>>,
    /// What calls may choose among. The first has all instances that policy lets take calls.
    pub(crate) pools: Vec<Pool>,
    /// In the order of the service's descriptor.
    pub(crate) methods: Vec<MethodPolicy>,
    /// In the same order: what stands before each method's calls.
    pub(super) guards: Vec<Guards>,
    /// What holds for the service as a whole: balance, node breaker, budget.
    pub(crate) service: MethodPolicy,
    pub(crate) budget: Arc<RetryBudget>,
    pub(super) group: EndpointGroup,
    /// The endpoints of all instances that may take calls, those that no pool has included.
    pub(super) endpoints: HashMap<Arc<str>, Arc<Endpoint>>,
    /// The rules that say which pool a call may go to, compiled.
    pub(crate) routing: Arc<CompiledRules>,
    /// The way from a call to its pool; `None` where no rule parts the instances.
    pub(crate) routes: Option<Routes>,
    /// Instances that are listed but take no calls, with the reason.
    pub(super) left_out: Vec<(Arc<str>, &'static str)>,
    /// Instances that are not listed any more and take calls all the same.
    pub(super) kept: Kept,
}

impl ServiceSnapshot {
    /// Builds the snapshot that follows `previous`, keeping the endpoints of instances that stay.
    pub(super) fn build(
        channel: &ChannelState,
        discovery: &Discovery,
        resolution: &Resolution,
        previous: Option<&ServiceSnapshot>,
        unix_ms: u64,
    ) -> Option<ServiceSnapshot> {
        let nothing = InstanceList::default();
        let (list, not_ready) = match discovery {
            Discovery::Pending => return None,
            Discovery::NotReady { reason } => (&nothing, Some(reason.clone())),
            Discovery::Ready(list) => (&**list, None),
        };
        let (list, kept) = keep(list, previous, Instant::now());
        let caller = &channel.shared.application;
        let service = method_policy(None, caller, resolution);
        let rules: Vec<_> = resolution
            .layers()
            .flat_map(|layer| &layer.document.instances)
            .collect();
        let group = match previous {
            Some(previous) => previous.group.clone(),
            None => EndpointGroup {
                breakers: BreakerGroup::new(
                    service.call.node_breaker,
                    channel.shared.metrics.ejections(&channel.key),
                ),
                connections: Arc::new(watch::Sender::new(service.call.connections)),
            },
        };
        let (members, left_out) = members(channel, &list, &rules, previous, &group, unix_ms);
        let endpoints = members.iter().map(|member| &member.endpoint);
        let endpoints = endpoints.map(|endpoint| (endpoint.instance.id.clone(), endpoint.clone()));
        let endpoints = endpoints.collect();
        let connections = service.call.connections;
        group.connections.send_if_modified(|now| {
            let changed = *now != connections;
            *now = connections;
            changed
        });
        let routing = routing(channel, &service, previous);
        // Each set by itself, or a zone could be left with those few of its instances that the whole set's subset has.
        let balancers = &channel.shared.balancers;
        let pool_of = |members| {
            let members = subset(members, &channel.shared, &connections);
            Pool::new(members, &service.call, balancers)
        };
        let (pools, routes) = build(&routing, members, &list.instances, &pool_of);
        let chosen_from = chosen_from(&pools, routes.as_ref()).len();
        group.breakers.update(service.call.node_breaker, chosen_from);
        let known = previous.is_some_and(|previous| previous.service.call.balance == service.call.balance);
        if let Some(name) = unregistered(&service.call, balancers).filter(|_| !known) {
            channel.shared.metrics.unknown_balancers.inc();
            tracing::warn!(
                service = channel.key,
                balancer = name,
                "policy names a balancer that this application has not registered; least_pending chooses instead"
            );
        }
        let retry = &service.call.retry;
        let (percent, per_second) = (retry.budget_percent, retry.budget_per_second);
        let budget = match previous {
            Some(previous) => previous.budget.clone(),
            None => Arc::new(RetryBudget::new(percent, per_second)),
        };
        budget.set(percent, per_second);
        let methods = channel
            .methods
            .iter()
            .map(|m| method_policy(Some(&m.descriptor), caller, resolution))
            .collect::<Vec<_>>();
        Some(ServiceSnapshot {
            number: previous.map_or(0, |previous| previous.number + 1),
            version: list.version,
            not_ready,
            documents: resolution.layers().map(|layer| layer.origin.clone()).collect(),
            pools,
            routing,
            routes,
            guards: Guards::build(channel, &methods, previous),
            methods,
            service,
            budget,
            group,
            endpoints,
            left_out,
            kept,
        })
    }

    /// The channel's snapshot, where it is a newer one. While it is replaced, a call that goes on in another thread may read the
    /// one before: calls do not go back to that.
    pub(super) fn successor(&self, channel: &ChannelState) -> Option<Arc<ServiceSnapshot>> {
        let newest = channel.snapshot.get();
        newest.filter(|newest| newest.number > self.number)
    }

    /// Tells each endpoint, and those that only `previous` had, what it is worth from now on; connects ahead.
    pub(super) fn place_endpoints(&self, shared: &Shared, previous: Option<&ServiceSnapshot>) {
        let floor = self.floor(shared);
        let pooled: HashSet<_> = self
            .pools
            .iter()
            .flat_map(Pool::members)
            .map(|member| Arc::as_ptr(&member.endpoint))
            .collect();
        let before = previous.iter().flat_map(|previous| previous.endpoints.values());
        for endpoint in before.chain(self.endpoints.values()) {
            let known = Arc::as_ptr(endpoint);
            endpoint.set_place(match (floor.contains(&known), pooled.contains(&known)) {
                (true, _) => Place::Floor,
                (false, true) => Place::Member,
                (false, false) => Place::Outside,
            });
        }
    }

    /// The endpoints that are connected to ahead of calls: those that calls can come to, then others while there is room.
    fn floor(&self, shared: &Shared) -> HashSet<*const Endpoint> {
        let connections = &self.service.call.connections;
        let mut chosen = HashSet::new();
        let mut add = |members: &[Member], most: usize| {
            let places = floor(members, shared, connections).into_iter().take(most);
            chosen.extend(places.map(|place| Arc::as_ptr(&members[place].endpoint)));
            (connections.floor as usize).saturating_sub(chosen.len())
        };
        let room = add(&chosen_from(&self.pools, self.routes.as_ref()), usize::MAX);
        if room > 0 {
            add(self.pools[0].members(), room);
        }
        chosen
    }

    /// Whether a pool's place means the same as it did in `earlier`, so that a further attempt of a call that was routed
    /// there may look for its instance here, where those are that came since.
    pub(super) fn keeps_pool(&self, pool: usize, earlier: &ServiceSnapshot) -> bool {
        Arc::ptr_eq(&self.routing, &earlier.routing)
            && match (&self.routes, &earlier.routes) {
                (Some(routes), Some(earlier)) => routes.keep_pool(pool, earlier),
                (None, None) => true,
                _ => false,
            }
    }

    /// Why no instance can take a call, and what to do about it.
    pub(crate) fn explain_empty(&self, key: &str) -> String {
        if let Some(reason) = &self.not_ready {
            return format!("no instances of `{key}` are known: {reason}");
        }
        if self.left_out.is_empty() {
            return format!(
                "no instance of `{key}` is registered; is its provider running, with the same RSF_NAMESPACE and RSF_REGISTRY?"
            );
        }
        let reasons: Vec<_> = self
            .left_out
            .iter()
            .take(5)
            .map(|(id, reason)| format!("{id} {reason}"))
            .collect();
        format!("no instance of `{key}` may take calls: {}", reasons.join(", "))
    }
}

/// The members of all pools that calls can come to, each endpoint once. Where policy lets a process use a part of each
/// pool, no pool has them all.
fn chosen_from(pools: &[Pool], routes: Option<&Routes>) -> Vec<Member> {
    let mut seen = HashSet::new();
    pools
        .iter()
        .enumerate()
        .filter(|(place, _)| routes.is_none_or(|routes| routes.lead_to(*place)))
        .flat_map(|(_, pool)| pool.members())
        .filter(|member| seen.insert(Arc::as_ptr(&member.endpoint)))
        .map(Member::clone)
        .collect()
}

/// The compiled rules, those of `previous` where policy says the same.
fn routing(
    channel: &ChannelState,
    service: &MethodPolicy,
    previous: Option<&ServiceSnapshot>,
) -> Arc<CompiledRules> {
    let source = &service.call.routing;
    let keyed = !matches!(service.call.balance, Balance::LeastPending | Balance::Random);
    let kept = previous
        .map(|previous| &previous.routing)
        .filter(|routing| routing.is_of(source, keyed));
    kept.map_or_else(
        || {
            Arc::new(CompiledRules::new(
                &channel.service,
                &channel.shared.zone,
                source,
                keyed,
            ))
        },
        Arc::clone,
    )
}

type LeftOut = Vec<(Arc<str>, &'static str)>;

fn members(
    channel: &ChannelState,
    list: &InstanceList,
    rules: &[&InstanceRule],
    previous: Option<&ServiceSnapshot>,
    group: &EndpointGroup,
    unix_ms: u64,
) -> (Vec<Member>, LeftOut) {
    let mut members = Vec::with_capacity(list.instances.len());
    let mut left_out = Vec::new();
    for instance in &list.instances {
        let Governed {
            weight,
            disabled,
            drained,
        } = governed(instance, rules, unix_ms);
        let reasons = [
            (instance.draining, "drains"),
            (disabled, "is disabled by policy"),
            (drained, "is drained by policy"),
            (weight == 0, "has weight 0"),
        ];
        if let Some((_, reason)) = reasons.into_iter().find(|(out, _)| *out) {
            left_out.push((instance.id.clone(), reason));
            continue;
        }
        let known = previous.and_then(|previous| previous.endpoints.get(&instance.id));
        let endpoint = match known {
            Some(endpoint) if endpoint.is_for(instance) => Arc::clone(endpoint),
            _ => {
                let endpoint = Endpoint::new(&channel.shared, instance.clone(), group);
                if let Some(age) = new_for(instance, previous, unix_ms) {
                    endpoint.vitals.begin_warm_up(Moment::now(), age);
                }
                endpoint
            }
        };
        members.push(Member::new(endpoint, weight));
    }
    (members, left_out)
}

/// How long an instance that joins a list that was there has been running, by its incarnation where it has one. Who comes
/// with the first list is as new as all the others, and needs no other share than they.
fn new_for(instance: &Instance, previous: Option<&ServiceSnapshot>, unix_ms: u64) -> Option<Duration> {
    let joins = previous.is_some_and(|previous| !previous.pools[0].is_empty());
    let age = match instance.incarnation {
        0 => 0,
        started => unix_ms.saturating_sub(started),
    };
    joins.then(|| Duration::from_millis(age))
}

/// What holds for an instance after all rules that select it.
struct Governed {
    weight: u32,
    disabled: bool,
    drained: bool,
}

fn governed(instance: &Instance, rules: &[&InstanceRule], unix_ms: u64) -> Governed {
    let mut governed = Governed {
        weight: instance.weight.min(10_000),
        disabled: false,
        drained: false,
    };
    for rule in rules.iter().filter(|rule| rule.selects(instance, unix_ms)) {
        governed.weight = rule.weight.unwrap_or(governed.weight);
        governed.disabled = rule.disabled.unwrap_or(governed.disabled);
        governed.drained = rule.drained.unwrap_or(governed.drained);
    }
    governed
}
