//! Whether a call's shard is this instance's: checked again here, so that no key is served by two owners while consumers
//! hold policies of different age.
//!
//! Two questions, and both must agree: is this instance the owner that the consumer meant (`rsf-shard`), and is it the
//! owner by the policy that this process holds, computed from the request itself?

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;

use super::stack::{Gate, InboundCall};
use crate::error::framework_status;
use crate::method::ServiceDescriptor;
use crate::outcome::Reason;
use crate::policy::routing::{NoKey, RoutingRule, RoutingRules};
use crate::policy::{Resolution, method_policy};
use crate::routing::key::{Facts, KeySource, schema};
use crate::routing::shard::{Owner, ShardMap};
use crate::status::Status;
use crate::wire::headers::{ROUTING_KEY, SHARD};

/// Refuses calls whose key is another instance's. Its messages say where this instance is and who owns the key, and go to
/// callers who may come in only; whose policy holds is a matter of who the caller has proven to be.
pub(super) struct OwnShard {
    place: Place,
}

impl OwnShard {
    pub(super) fn new(place: Place) -> Self {
        OwnShard { place }
    }
}

impl Gate for OwnShard {
    /// Refuses a call whose key is another's, by what its consumer meant or by this process's own policy.
    #[inline]
    fn enter(&self, call: &mut InboundCall) -> Result<(), Status> {
        check_meant(&self.place, call.context.metadata().header(&SHARD))?;
        match call.method.sharded.load(Ordering::Acquire) {
            true => self.check_key(call),
            false => Ok(()),
        }
    }
}

impl OwnShard {
    /// Whether the call's key is this instance's, by this process's own policy.
    fn check_key(&self, call: &InboundCall) -> Result<(), Status> {
        let (place, method, metadata) = (&self.place, &call.method, call.context.metadata());
        let rules = method.shards.load();
        let Some(rule) = rules.as_ref().and_then(|rules| rules.of(call.context.caller())) else {
            return Ok(());
        };
        let headers = metadata.raw();
        let named = headers.and_then(|headers| headers.get(&ROUTING_KEY));
        let facts = Facts {
            method: Some(method.place),
            method_name: "",
            message: call.message.as_deref().unwrap_or_default(),
            headers,
            named_key: named.and_then(|key| std::str::from_utf8(key.as_bytes()).ok()),
        };
        let Some(key) = rule.key.read(&facts) else {
            let missing = || {
                format!(
                    "{} has no key to find its shard by: {}",
                    method.path,
                    rule.key.missing(&facts)
                )
            };
            return match rule.no_key {
                NoKey::Any => Ok(()),
                NoKey::Refuse => Err(wrong(missing())),
            };
        };
        match rule.map.owner_of(&key).map(|owner| &rule.map.owners()[owner]) {
            Some(owner) if place.is_of(owner) => Ok(()),
            Some(owner) => Err(wrong(format!(
                "key `{key}` belongs to {owner}; this instance is at {place}"
            ))),
            None => Err(wrong(format!(
                "key `{key}` is in no range of the service's shard rule"
            ))),
        }
    }
}

/// Where this instance is.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) zone: String,
    pub(super) tags: BTreeMap<String, String>,
}

impl Place {
    fn is_of(&self, owner: &Owner) -> bool {
        owner.is_at(&self.zone, |key| self.tags.get(key).map(String::as_str))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "zone `{}`, tags {:?}", self.zone, self.tags)
    }
}

/// The shard rule of one service, and those of consumers for which policy has others.
pub(super) struct ShardRules {
    everybody: Option<ShardRule>,
    consumers: HashMap<String, Option<ShardRule>>,
}

struct ShardRule {
    key: KeySource,
    no_key: NoKey,
    map: ShardMap,
}

impl ShardRules {
    /// What policy says now; `None` where nobody's calls of the service go by shards.
    pub(super) fn compile(service: &ServiceDescriptor, resolution: &Resolution) -> Option<ShardRules> {
        let of = |caller: &str| rule(service, &method_policy(None, caller, resolution).call.routing);
        let special: BTreeSet<_> = resolution
            .layers()
            .flat_map(|layer| &layer.document.consumers)
            .filter(|(_, call)| call.routing.rules.is_some() || call.routing.key.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        let rules = ShardRules {
            // No application has an empty name.
            everybody: of(""),
            consumers: special
                .into_iter()
                .map(|name| (name.clone(), of(&name)))
                .collect(),
        };
        let any = rules.everybody.is_some() || rules.consumers.values().any(Option::is_some);
        any.then_some(rules)
    }

    fn of(&self, caller: Option<&str>) -> Option<&ShardRule> {
        let own = caller.and_then(|caller| self.consumers.get(caller));
        own.unwrap_or(&self.everybody).as_ref()
    }
}

fn rule(service: &ServiceDescriptor, routing: &RoutingRules) -> Option<ShardRule> {
    let shard = routing.rules.as_deref()?.iter().find_map(|rule| match rule {
        RoutingRule::Shard(shard) => Some(shard),
        _ => None,
    })?;
    let place = shard.key.as_deref().or(routing.key.as_deref());
    Some(ShardRule {
        key: KeySource::new(place, service, &schema(service)),
        no_key: shard.no_key,
        map: ShardMap::new(shard).ok()?,
    })
}

/// Refuses a call whose consumer meant another owner.
#[inline]
pub(super) fn check_meant(place: &Place, meant: Option<&[u8]>) -> Result<(), Status> {
    meant.map_or(Ok(()), |meant| check_owner(place, meant))
}

fn check_owner(place: &Place, meant: &[u8]) -> Result<(), Status> {
    match Owner::from_header(meant) {
        Some(owner) if place.is_of(&owner) => Ok(()),
        Some(owner) => Err(wrong(format!(
            "the consumer takes {owner} for the owner; this instance is at {place}"
        ))),
        None => Err(wrong("the header rsf-shard names no owner".to_owned())),
    }
}

fn wrong(problem: String) -> Status {
    framework_status(
        Reason::WrongShard,
        format!("{problem} (policy call.routing.rules)"),
    )
}
