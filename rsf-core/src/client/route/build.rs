//! The sets of instances that the rules can leave, each one a pool: found when the snapshot is built, by applying every rule
//! to every set that the rules before it can leave.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::filter::Filter;
use super::health::Health;
use super::rules::{CompiledRules, Does};
use super::tree::{Node, Routes, Tier};
use crate::client::balance::{Member, Pool};
use crate::client::endpoint::Endpoint;
use crate::control::Instance;
use crate::policy::routing::{MAX_POOLS, NoKey};

/// Nodes at most. Sets are bounded by [`MAX_POOLS`]; several nodes may lead to one.
const MAX_NODES: usize = 16 * MAX_POOLS;

/// The pools that calls may go to, the first one with all `members`, and the way to them; `None` without rules.
///
/// `listed` tells the members' zones and tags of now: an endpoint keeps those that its instance had when it was made.
pub(crate) fn build(
    rules: &Arc<CompiledRules>,
    members: Vec<Member>,
    listed: &[Instance],
    pool_of: &dyn Fn(Vec<Member>) -> Pool,
) -> (Vec<Pool>, Option<Routes>) {
    if rules.is_empty() {
        return (vec![pool_of(members)], None);
    }
    let listed: HashMap<_, _> = listed.iter().map(|instance| (&instance.id, instance)).collect();
    let instance = |member: &Member| {
        let instance = &member.endpoint.instance;
        (*listed.get(&instance.id).unwrap_or(&instance)).clone()
    };
    let instances: Vec<_> = members.iter().map(instance).collect();
    let all: Vec<u32> = (0..instances.len() as u32).collect();
    let mut builder = Builder {
        rules,
        instances: &instances,
        known: HashMap::from([(all.clone(), 0)]),
        members: &members,
        pool_of,
        pools: vec![pool_of(members.clone())],
        nodes: Vec::new(),
        way: 0,
        ways: vec![0],
    };
    let root = builder.node(0, all);
    let (nodes, pools, ways) = (builder.nodes, builder.pools, builder.ways);
    if nodes.iter().any(|node| matches!(node, Node::Full(_))) {
        tracing::error!(
            "the routing rules part the instances into more than {MAX_POOLS} sets; calls that need a further one fail"
        );
    }
    let routes = Routes::new(rules.clone(), instances, nodes, root, ways);
    (pools, Some(routes))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

struct Builder<'a> {
    rules: &'a CompiledRules,
    instances: &'a [Instance],
    /// Set → the place of its pool.
    known: HashMap<Vec<u32>, usize>,
    /// Those of the instances, in their order.
    members: &'a [Member],
    pool_of: &'a dyn Fn(Vec<Member>) -> Pool,
    pools: Vec<Pool>,
    nodes: Vec<Node>,
    /// What the rules have kept on the way to the node that is being built, as one number.
    way: u64,
    /// All the ways to each pool.
    ways: Vec<u64>,
}

impl Builder<'_> {
    /// The node for a set that the rules before `rule` leave. `set` is sorted and not empty.
    fn node(&mut self, rule: usize, set: Vec<u32>) -> usize {
        let rules = self.rules;
        let node = match rules.rules.get(rule).map(|rule| &rule.does) {
            None => self.pool(rule, set),
            Some(Does::Keep(filter)) => return self.branch(rule, &set, filter),
            Some(Does::Prefer {
                tiers,
                spill_below_percent,
            }) => self.tiers(rule, &set, tiers, *spill_below_percent),
            Some(Does::Shard { map, no_key, .. }) => {
                let owners = map.owners().iter();
                let owners = owners
                    .map(|owner| self.branch(rule, &set, &Filter::from(owner)))
                    .collect();
                let any = match no_key {
                    NoKey::Any => self.branch(rule, &set, &Filter::All),
                    NoKey::Refuse => self.push(Node::Empty(rule)),
                };
                Node::Shard { rule, owners, any }
            }
            Some(Does::Percent { with, without, .. }) => Node::Percent {
                rule,
                with: self.branch(rule, &set, with),
                without: self.branch(rule, &set, without),
            },
            Some(Does::Dye { tag, .. }) => {
                let other = self.branch(rule, &set, &Filter::Untagged(tag.clone()));
                self.values(rule, &set, Some(tag), other)
            }
            Some(Does::Expression { tag, .. }) => {
                let other = self.branch(rule, &set, &Filter::All);
                self.values(rule, &set, tag.as_ref(), other)
            }
        };
        self.push(node)
    }

    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The node behind `rule` for what the filter keeps.
    fn branch(&mut self, rule: usize, set: &[u32], filter: &Filter) -> usize {
        let kept: Vec<_> = set
            .iter()
            .copied()
            .filter(|place| filter.keeps(&self.instances[*place as usize]))
            .collect();
        match kept.is_empty() {
            true => self.push(Node::Empty(rule)),
            // Each branch ends in one pool at least; what grows beyond that bound is cut here.
            false if self.nodes.len() >= MAX_NODES => self.push(Node::Full(rule)),
            false => {
                let before = self.way;
                self.way = hash(&(before, rule, filter));
                let node = self.node(rule + 1, kept);
                self.way = before;
                node
            }
        }
    }

    fn tiers(&mut self, rule: usize, set: &[u32], filters: &[Filter], spill_below_percent: u32) -> Node {
        let mut tiers = Vec::new();
        for filter in filters {
            // Zones that have no instance are no choice, but for a rule that never spills.
            let any = set
                .iter()
                .any(|place| filter.keeps(&self.instances[*place as usize]));
            if !any && spill_below_percent > 0 {
                continue;
            }
            let node = self.branch(rule, set, filter);
            let mut endpoints = HashMap::new();
            self.reachable(node, &mut endpoints);
            tiers.push(Tier {
                filter: filter.clone(),
                health: Health::new(endpoints.into_values().collect()),
                node,
            });
        }
        match tiers.is_empty() {
            true => Node::Empty(rule),
            false => Node::Prefer {
                rule,
                tiers,
                spill_below_percent,
            },
        }
    }

    /// The endpoints that calls can come to from `node` on: of a large zone a consumer may use only some.
    fn reachable(&self, node: usize, out: &mut HashMap<*const Endpoint, Arc<Endpoint>>) {
        match &self.nodes[node] {
            Node::Pool(pool) => {
                let endpoints = self.pools[*pool].members().iter().map(|member| &member.endpoint);
                out.extend(endpoints.map(|endpoint| (Arc::as_ptr(endpoint), endpoint.clone())));
            }
            Node::Empty(_) | Node::Full(_) => {}
            Node::Prefer { tiers, .. } => tiers.iter().for_each(|tier| self.reachable(tier.node, out)),
            Node::Shard { owners, any, .. } => {
                owners
                    .iter()
                    .chain([any])
                    .for_each(|node| self.reachable(*node, out));
            }
            Node::Percent { with, without, .. } => {
                [with, without]
                    .into_iter()
                    .for_each(|node| self.reachable(*node, out));
            }
            Node::Named { values, other, .. } => {
                values
                    .values()
                    .chain([other])
                    .for_each(|node| self.reachable(*node, out));
            }
        }
    }

    /// A branch for each value that the tag, or each name that the zone, has in the set.
    fn values(&mut self, rule: usize, set: &[u32], tag: Option<&String>, other: usize) -> Node {
        let instances = set.iter().map(|place| &self.instances[*place as usize]);
        let names: BTreeSet<String> = instances
            .filter_map(|instance| match tag {
                Some(tag) => instance.tags.get(tag).cloned(),
                None => Some(instance.zone.to_string()),
            })
            .collect();
        let values = names.into_iter().enumerate().map(|(place, name)| {
            if place >= MAX_POOLS {
                return (name.into_boxed_str(), self.push(Node::Full(rule)));
            }
            let filter = match tag {
                Some(tag) => Filter::Tag(tag.clone(), name.clone()),
                None => Filter::Zone(name.clone()),
            };
            (name.into_boxed_str(), self.branch(rule, set, &filter))
        });
        let values = values.collect();
        Node::Named { rule, values, other }
    }

    fn pool(&mut self, rule: usize, set: Vec<u32>) -> Node {
        if let Some(pool) = self.known.get(&set) {
            let ways = &mut self.ways[*pool];
            *ways = hash(&(*ways, self.way));
            return Node::Pool(*pool);
        }
        if self.pools.len() >= MAX_POOLS {
            return Node::Full(rule.saturating_sub(1));
        }
        let members = set.iter().map(|place| self.members[*place as usize].clone());
        let pool = (self.pool_of)(members.collect());
        let place = self.pools.len();
        self.pools.push(pool);
        self.ways.push(hash(&(0u64, self.way)));
        self.known.insert(set, place);
        Node::Pool(place)
    }
}
