//! What an operator says of one service's instances: a whole list, or what is added to the directory's and removed from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rsf_core::control::{Discovery, Instance, InstanceList, ListOrigin};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::limits;

/// The most characters of an instance that is to be removed.
const MAX_REMOVED: usize = 2 * limits::MAX_NAME + 1;
/// The most tags of one instance.
const MAX_TAGS: usize = 100;

/// An operator's word on one service, which takes precedence over the directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceOverride {
    /// The whole list, whatever the directory says; an empty one leaves nobody to call. Stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<Vec<StaticInstance>>,
    /// Instances besides those of the directory. One whose address the directory has is that one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<StaticInstance>,
    /// Whom of the directory's not to call: ids (`application/name`) or addresses (`host:port`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// An instance that no registry knows. As JSON it is `"host:port"`, or an object where it has more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct StaticInstance {
    /// `host:port` for calls.
    pub address: String,
    /// The data centre or machine room; empty by default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Free labels, at most 100.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Relative share of the calls, 0 to 10 000; 100 by default.
    pub weight: u32,
}

/// How an operator writes an instance.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "an instance is \"host:port\" or {\"address\": \"host:port\", \"zone\": …, \"tags\": {…}, \"weight\": …}"
)]
enum Written {
    Address(String),
    Whole(Whole),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    address: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default = "full_weight")]
    weight: u32,
}

fn full_weight() -> u32 {
    100
}

impl From<Written> for StaticInstance {
    fn from(written: Written) -> Self {
        match written {
            Written::Address(address) => StaticInstance::at(&address),
            Written::Whole(whole) => StaticInstance {
                address: whole.address,
                zone: whole.zone,
                tags: whole.tags,
                weight: whole.weight,
            },
        }
    }
}

impl StaticInstance {
    /// Without a zone and tags, with the full weight.
    pub fn at(address: &str) -> Self {
        StaticInstance {
            address: address.to_owned(),
            zone: String::new(),
            tags: BTreeMap::new(),
            weight: full_weight(),
        }
    }

    fn check(&self) -> Result<(), String> {
        limits::check_address(&self.address)?;
        let address = &self.address;
        if self.zone.chars().count() > limits::MAX_NAME {
            return Err(format!(
                "the zone of {address} is longer than {} characters",
                limits::MAX_NAME
            ));
        }
        if self.weight > limits::MAX_WEIGHT {
            let (weight, most) = (self.weight, limits::MAX_WEIGHT);
            return Err(format!(
                "the weight of {address} is {weight}; at most {most} is allowed"
            ));
        }
        if self.tags.len() > MAX_TAGS {
            return Err(format!("{address} has more than {MAX_TAGS} tags"));
        }
        Ok(())
    }

    fn instance(&self) -> Instance {
        Instance {
            zone: self.zone.as_str().into(),
            tags: self.tags.clone(),
            weight: self.weight,
            ..Instance::at("static", &self.address)
        }
    }
}

impl ServiceOverride {
    /// Exactly these.
    pub fn pin(instances: Vec<StaticInstance>) -> Self {
        ServiceOverride {
            pin: Some(instances),
            ..ServiceOverride::default()
        }
    }

    /// What is wrong with it as the word on `service`.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self, service: &str) -> Result<(), String> {
        limits::check_name("service", service).map_err(|error| error.to_string())?;
        let wrong = |reason: String| format!("service `{service}`: {reason}");
        match (&self.pin, self.add.is_empty() && self.remove.is_empty()) {
            (Some(_), false) => {
                return Err(wrong("`pin` is the whole list: give no `add` or `remove`".into()));
            }
            (None, true) => return Err(wrong("it says nothing: give `pin`, `add` or `remove`".into())),
            _ => {}
        }
        let instances = self.pin.as_ref().unwrap_or(&self.add);
        if instances.len().max(self.remove.len()) > limits::MAX_INSTANCES {
            return Err(wrong(format!("more than {} instances", limits::MAX_INSTANCES)));
        }
        let mut seen = BTreeSet::new();
        for instance in instances {
            instance.check().map_err(wrong)?;
            if !seen.insert(&instance.address) {
                return Err(wrong(format!("address {} is there twice", instance.address)));
            }
        }
        self.remove
            .iter()
            .try_for_each(|removed| check_removed(removed).map_err(wrong))
    }

    /// What callers see where the directory says `base`.
    pub(in crate::agent) fn over(&self, base: &Discovery) -> Discovery {
        let added = |instances: &[StaticInstance]| instances.iter().map(StaticInstance::instance).collect();
        let only = |instances| {
            Discovery::Ready(Arc::new(InstanceList {
                origin: ListOrigin::Static,
                instances,
                ..InstanceList::default()
            }))
        };
        match (&self.pin, base) {
            (Some(pinned), _) => only(added(pinned)),
            (None, Discovery::Ready(list)) => Discovery::Ready(Arc::new(self.merged(list))),
            (None, Discovery::NotReady { .. }) if !self.add.is_empty() => only(added(&self.add)),
            (None, base) => base.clone(),
        }
    }

    fn merged(&self, list: &InstanceList) -> InstanceList {
        let removed: BTreeSet<&str> = self.remove.iter().map(String::as_str).collect();
        let stays =
            |instance: &&Instance| !removed.contains(&*instance.id) && !removed.contains(&*instance.address);
        let mut instances: Vec<Instance> = list.instances.iter().filter(stays).cloned().collect();
        let listed: BTreeSet<Arc<str>> = instances
            .iter()
            .map(|instance| instance.address.clone())
            .collect();
        let new = self
            .add
            .iter()
            .filter(|instance| !listed.contains(&*instance.address));
        instances.extend(new.map(StaticInstance::instance));
        InstanceList {
            origin: ListOrigin::Static,
            instances,
            ..list.clone()
        }
    }
}

fn check_removed(removed: &str) -> Result<(), String> {
    if removed.chars().count() > MAX_REMOVED {
        return Err(format!(
            "an instance to remove is longer than {MAX_REMOVED} characters"
        ));
    }
    let is_id = removed
        .split_once('/')
        .is_some_and(|(application, name)| !application.is_empty() && !name.is_empty());
    if is_id || limits::check_address(removed).is_ok() {
        return Ok(());
    }
    Err(format!(
        "`{}` in `remove` is neither an id, application/name, nor an address, host:port",
        removed.escape_debug()
    ))
}

/// What a file says of each service, or what is wrong with it.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Arc<ServiceOverride>>, String> {
    let services: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut overrides = BTreeMap::new();
    for (service, value) in services {
        let read = match value {
            Value::Array(_) => serde_json::from_value(value).map(ServiceOverride::pin),
            value => serde_json::from_value(value),
        };
        let read = read.map_err(|error| format!("service `{service}`: {error}"))?;
        read.check(&service)?;
        overrides.insert(service, Arc::new(read));
    }
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(addresses: &[&str]) -> Discovery {
        let instances = addresses.iter().map(|address| Instance {
            incarnation: 7,
            ..Instance::at("member", address)
        });
        Discovery::Ready(Arc::new(InstanceList {
            version: (5, 6),
            instances: instances.collect(),
            ..InstanceList::default()
        }))
    }

    fn ids(discovery: &Discovery) -> Vec<&str> {
        match discovery {
            Discovery::Ready(list) => list.instances.iter().map(|instance| &*instance.id).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_pin_and_objects_add_and_remove() {
        let overrides = parse(
            r#"{"a.A": ["127.0.0.1:1", {"address": "[::1]:2", "zone": "east", "weight": 7, "tags": {"k": "v"}}],
                "b.B:gold": [], "c.C": {"add": ["h:1", "h:2"], "remove": ["member/h:3", "h:4"]}}"#,
        )
        .expect("good");
        let not_ready = Discovery::NotReady { reason: "".into() };
        let pinned = overrides["a.A"].over(&base(&["h:1"]));
        assert_eq!(ids(&pinned), ["static/127.0.0.1:1", "static/[::1]:2"]);
        let Discovery::Ready(list) = &pinned else {
            unreachable!()
        };
        let (zone, weight) = (&*list.instances[1].zone, list.instances[1].weight);
        assert_eq!((list.origin, zone, weight), (ListOrigin::Static, "east", 7));
        assert!(ids(&overrides["b.B:gold"].over(&not_ready)).is_empty());
        let merged = overrides["c.C"].over(&base(&["h:1", "h:3", "h:4", "h:5"]));
        assert_eq!(ids(&merged), ["member/h:1", "member/h:5", "static/h:2"]);
        let Discovery::Ready(list) = &merged else {
            unreachable!()
        };
        assert_eq!(list.version, (5, 6));
        assert_eq!(
            list.instances[0].incarnation, 7,
            "whom the directory has is that one"
        );
        assert_eq!(
            ids(&overrides["c.C"].over(&not_ready)),
            ["static/h:1", "static/h:2"]
        );
        assert!(matches!(
            overrides["c.C"].over(&Discovery::Pending),
            Discovery::Pending
        ));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("", "EOF"),
            ("[]", "map"),
            (r#"{"a.A": "127.0.0.1:1"}"#, "`a.A`"),
            (r#"{"a.A": ["nowhere"]}"#, "host:port"),
            (r#"{"a.A": [7]}"#, "an instance is"),
            (r#"{"a.A": ["h:1", "h:1"]}"#, "twice"),
            (
                r#"{"a.A": [{"address": "h:1", "weight": 10001}]}"#,
                "at most 10000",
            ),
            (r#"{"a.A": {}}"#, "says nothing"),
            (r#"{"a.A": {"pin": [], "add": ["h:1"]}}"#, "whole list"),
            (r#"{"a.A": {"drop": ["h:1"]}}"#, "drop"),
            (r#"{"a.A": {"remove": ["h"]}}"#, "neither an id"),
            (r#"{"": []}"#, "empty"),
        ];
        for (text, why) in cases {
            let reason = parse(text).expect_err(text);
            assert!(reason.contains(why), "{text}: {reason}");
        }
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let text = r#"{"add":[{"address":"h:1","weight":100}],"remove":["member/1"]}"#;
        let read: ServiceOverride = serde_json::from_str(text).expect("good");
        assert_eq!(serde_json::to_string(&read).expect("plain"), text);
    }
}
