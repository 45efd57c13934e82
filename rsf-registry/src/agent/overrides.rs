//! The operator's static instances: a file that takes precedence over the directory.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use rsf_core::control::{Instance, InstanceList, ListOrigin};

use crate::limits;

/// The file of static instances cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "static instances {file}: {reason}; write JSON like {{\"shop.v1.MemberService\": [\"127.0.0.1:7001\"]}}"
)]
pub struct InvalidOverrides {
    file: String,
    reason: String,
}

/// Service key → its fixed list.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    lists: HashMap<String, Arc<InstanceList>>,
}

impl Overrides {
    pub(super) fn read(file: Option<&Path>) -> Result<Self, InvalidOverrides> {
        let Some(path) = file else {
            return Ok(Overrides::default());
        };
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        text.and_then(|text| parse(&text))
            .map_err(|reason| InvalidOverrides {
                file: path.display().to_string(),
                reason,
            })
    }

    pub(super) fn of(&self, service: &str) -> Option<Arc<InstanceList>> {
        self.lists.get(service).cloned()
    }
}

fn parse(text: &str) -> Result<Overrides, String> {
    let services: BTreeMap<String, Vec<String>> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut lists = HashMap::new();
    for (service, addresses) in services {
        limits::check_name("service", &service).map_err(|error| error.to_string())?;
        if addresses.len() > limits::MAX_INSTANCES {
            return Err(format!(
                "service `{service}` has more than {} instances",
                limits::MAX_INSTANCES
            ));
        }
        let mut instances = Vec::with_capacity(addresses.len());
        for address in &addresses {
            limits::check_address(address).map_err(|reason| format!("service `{service}`: {reason}"))?;
            instances.push(Instance::at("static", address));
        }
        let list = InstanceList {
            origin: ListOrigin::Static,
            instances,
            ..InstanceList::default()
        };
        lists.insert(service, Arc::new(list));
    }
    Ok(Overrides { lists })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad() {
        let overrides = parse(r#"{"a.A": ["127.0.0.1:1", "[::1]:2"], "b.B:gold": []}"#).expect("good");
        let list = overrides.of("a.A").expect("there");
        assert_eq!(list.origin, ListOrigin::Static);
        assert_eq!(list.instances[1], Instance::at("static", "[::1]:2"));
        assert!(overrides.of("b.B:gold").expect("there").instances.is_empty());
        assert!(overrides.of("b.B").is_none());
        for bad in [
            "",
            "[]",
            r#"{"a.A": "127.0.0.1:1"}"#,
            r#"{"a.A": ["nowhere"]}"#,
            r#"{"": []}"#,
        ] {
            let Err(reason) = parse(bad) else {
                panic!("{bad} was taken")
            };
            assert!(!reason.is_empty());
        }
    }
}
