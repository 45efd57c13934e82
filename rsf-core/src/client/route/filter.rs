//! What a rule keeps of a set of instances.

use std::collections::BTreeMap;
use std::fmt;

use crate::control::Instance;
use crate::routing::shard::Owner;

type Tags = BTreeMap<String, String>;

/// Keeps some instances of a set.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(super) enum Filter {
    /// All of them.
    All,
    Zone(String),
    /// Those that are in none of these zones.
    OtherZones(Vec<String>),
    Tags(Tags),
    /// Those that lack one of these tags.
    WithoutTags(Tags),
    /// Those without this tag, whatever its value.
    Untagged(String),
    Tag(String, String),
}

impl Filter {
    pub(super) fn keeps(&self, instance: &Instance) -> bool {
        let tagged = |tags: &Tags| {
            tags.iter()
                .all(|(key, value)| instance.tags.get(key) == Some(value))
        };
        match self {
            Filter::All => true,
            Filter::Zone(zone) => *zone == *instance.zone,
            Filter::OtherZones(zones) => zones.iter().all(|zone| **zone != *instance.zone),
            Filter::Tags(tags) => tagged(tags),
            Filter::WithoutTags(tags) => !tagged(tags),
            Filter::Untagged(key) => !instance.tags.contains_key(key),
            Filter::Tag(key, value) => instance.tags.get(key) == Some(value),
        }
    }

    /// What an instance that is not kept is instead, as `in zone east`.
    pub(super) fn objection(&self, instance: &Instance) -> String {
        let tag = |key: &str| match instance.tags.get(key) {
            Some(value) => format!("tagged {key}={value}"),
            None => format!("not tagged {key}"),
        };
        match self {
            Filter::All => "kept".to_owned(),
            Filter::Zone(_) | Filter::OtherZones(_) if instance.zone.is_empty() => "in no zone".to_owned(),
            Filter::Zone(_) | Filter::OtherZones(_) => format!("in zone {}", instance.zone),
            Filter::Tags(tags) => {
                let mut missing = tags
                    .iter()
                    .filter(|(key, value)| instance.tags.get(*key) != Some(value));
                missing.next().map_or_else(String::new, |(key, _)| tag(key))
            }
            Filter::WithoutTags(tags) => format!("tagged {}", listed(tags)),
            Filter::Untagged(key) | Filter::Tag(key, _) => tag(key),
        }
    }
}

impl From<&Owner> for Filter {
    fn from(owner: &Owner) -> Filter {
        match owner {
            Owner::Zone(zone) => Filter::Zone(zone.clone()),
            Owner::Tag(key, value) => Filter::Tag(key.clone(), value.clone()),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Filter::All => f.write_str("all"),
            Filter::Zone(zone) => write!(f, "zone {zone}"),
            Filter::OtherZones(zones) => write!(f, "zones other than {}", zones.join(", ")),
            Filter::Tags(tags) => write!(f, "tags {}", listed(tags)),
            Filter::WithoutTags(tags) => write!(f, "instances without {}", listed(tags)),
            Filter::Untagged(key) => write!(f, "instances without tag {key}"),
            Filter::Tag(key, value) => write!(f, "tag {key}={value}"),
        }
    }
}

fn listed(tags: &Tags) -> String {
    let tags: Vec<_> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    tags.join(", ")
}
