//! Policy's rules, compiled once for the methods of one service: fields are numbers, keys have owners, texts are parsed.

use http::HeaderValue;
use http::header::HeaderName;

use super::filter::Filter;
use crate::method::ServiceDescriptor;
use crate::policy::routing::{NoKey, RoutingRule, RoutingRules};
use crate::routing::expression::{Environment, Expression, Value};
use crate::routing::field;
use crate::routing::key::{Facts, FieldOfMethods, KeySource, field_of_methods, metadata_name, schema};
use crate::routing::shard::ShardMap;

/// The rules of one service. They outlive snapshots until policy changes them.
pub(crate) struct CompiledRules {
    source: RoutingRules,
    keyed: bool,
    /// Where calls have their key, where anything goes by it.
    key: Option<KeySource>,
    /// The metadata that colours a call.
    pub(super) dye: Option<HeaderName>,
    pub(super) rules: Vec<Rule>,
}

/// One rule.
pub(super) struct Rule {
    /// Its name in documents.
    pub(super) kind: &'static str,
    pub(super) does: Does,
}

/// How a rule narrows a set.
pub(super) enum Does {
    /// The same way for every call.
    Keep(Filter),
    /// The first of these that is well enough.
    Prefer {
        tiers: Vec<Filter>,
        spill_below_percent: u32,
    },
    /// The owner of the call's key.
    Shard {
        key: KeySource,
        no_key: NoKey,
        map: ShardMap,
        /// What the provider is told, by owner.
        headers: Vec<Option<HeaderValue>>,
    },
    /// The instances of the call's colour.
    Dye { tag: String, fallback: bool },
    /// A share of the calls, of 2⁶⁴, to some, the rest to the others.
    Percent {
        share: u64,
        with: Filter,
        without: Filter,
    },
    /// The zone, or the value of this tag, that the expression yields.
    Expression {
        expression: Expression,
        /// By the field's place in the expression.
        fields: Vec<FieldOfMethods>,
        tag: Option<String>,
    },
}

impl CompiledRules {
    /// Compiles what policy says. `keyed`: whether the balance goes by the call's key.
    pub(crate) fn new(
        service: &ServiceDescriptor,
        zone: &str,
        source: &RoutingRules,
        keyed: bool,
    ) -> CompiledRules {
        let listed = source.rules.as_deref().unwrap_or_default();
        let by_key = keyed || listed.iter().any(|rule| matches!(rule, RoutingRule::Percent(_)));
        // A schema is large; it is read only where a field is asked for.
        let schema = match by_key || listed.iter().any(reads_fields) {
            true => schema(service),
            false => Err("not read".to_owned()),
        };
        let key = source.key.as_deref();
        let rules = listed.iter().filter_map(|rule| {
            Some(Rule {
                kind: rule.kind(),
                does: match rule {
                    RoutingRule::Expression(rule) => {
                        let expression = Expression::parse(&rule.text).ok()?;
                        let field = |path: &String| field_of_methods(service, &schema, |_| path.clone());
                        Does::Expression {
                            fields: expression.fields().iter().map(field).collect(),
                            expression,
                            tag: rule.tag.clone(),
                        }
                    }
                    RoutingRule::Shard(rule) => {
                        let map = ShardMap::new(rule).ok()?;
                        Does::Shard {
                            key: KeySource::new(rule.key.as_deref().or(key), service, &schema),
                            no_key: rule.no_key,
                            headers: map.owners().iter().map(|owner| owner.header()).collect(),
                            map,
                        }
                    }
                    other => simple(other, zone),
                },
            })
        });
        let dye = listed.iter().find_map(|rule| match rule {
            RoutingRule::Dye(dye) => metadata_name(dye.metadata.as_deref()?).ok(),
            _ => None,
        });
        CompiledRules {
            rules: rules.collect(),
            key: by_key.then(|| KeySource::new(key, service, &schema)),
            dye,
            source: source.clone(),
            keyed,
        }
    }

    /// Whether policy still says the same.
    pub(crate) fn is_of(&self, source: &RoutingRules, keyed: bool) -> bool {
        self.source == *source && self.keyed == keyed
    }

    /// Whether there is no rule.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the requests of the method at this place can have a key in a field.
    pub(crate) fn key_is_in_field(&self, method: usize) -> bool {
        self.key.as_ref().is_some_and(|source| source.is_in_field(method))
    }

    /// The hash of the call's key. `None` where it has none, or nothing goes by it.
    pub(crate) fn key(&self, facts: &Facts<'_>) -> Option<u64> {
        match &self.key {
            Some(source) => Some(source.read(facts)?.hash()),
            None => Some(super::super::key::hash(facts.named_key?.as_bytes())),
        }
    }
}

fn reads_fields(rule: &RoutingRule) -> bool {
    matches!(rule, RoutingRule::Shard(_) | RoutingRule::Expression(_))
}

/// The rules that need nothing compiled.
fn simple(rule: &RoutingRule, zone: &str) -> Does {
    match rule {
        // A consumer that is nowhere prefers nothing.
        RoutingRule::SameZone(_) if zone.is_empty() => Does::Keep(Filter::All),
        RoutingRule::SameZone(rule) => Does::Prefer {
            tiers: vec![
                Filter::Zone(zone.to_owned()),
                Filter::OtherZones(vec![zone.to_owned()]),
            ],
            spill_below_percent: rule.spill_below_percent,
        },
        RoutingRule::PrimaryZone(rule) => {
            let named = [&rule.zone].into_iter().chain(&rule.standby);
            let mut tiers: Vec<_> = named.map(|zone| Filter::Zone(zone.clone())).collect();
            if rule.standby.is_empty() {
                tiers.push(Filter::OtherZones(vec![rule.zone.clone()]));
            }
            Does::Prefer {
                tiers,
                spill_below_percent: rule.spill_below_percent,
            }
        }
        RoutingRule::Tags(rule) => Does::Keep(Filter::Tags(rule.require.clone())),
        RoutingRule::Dye(rule) => Does::Dye {
            tag: rule.tag.clone(),
            fallback: rule.fallback,
        },
        RoutingRule::Percent(rule) => Does::Percent {
            // The conversion saturates: 100 % is all but one of 2⁶⁴.
            share: (rule.percent / 100.0 * 2f64.powi(64)) as u64,
            with: Filter::Tags(rule.tags.clone()),
            without: Filter::WithoutTags(rule.tags.clone()),
        },
        RoutingRule::Shard(_) | RoutingRule::Expression(_) => Does::Keep(Filter::All),
    }
}

/// A call as an expression sees it.
pub(super) struct Reading<'a> {
    pub(super) expression: &'a Expression,
    pub(super) fields: &'a [FieldOfMethods],
    pub(super) facts: Facts<'a>,
}

impl<'a> Environment<'a> for Reading<'a> {
    fn field(&self, place: usize) -> Value<'a> {
        let field = || {
            let of_method = self.fields.get(place)?.get(self.facts.method?)?;
            of_method.as_ref().ok()?.read(self.facts.message)
        };
        match field() {
            Some(field::Value::Number(number)) => Value::Number(number),
            Some(field::Value::Flag(flag)) => Value::Flag(flag),
            Some(field::Value::Text(text)) => Value::Text(text.into()),
            Some(field::Value::Bytes(_)) | None => Value::Null,
        }
    }

    fn metadata(&self, place: usize) -> Option<&'a str> {
        self.facts.metadata(self.expression.metadata().get(place)?)
    }

    fn method(&self) -> &'a str {
        self.facts.method_name
    }
}
