//! From a lease to the entries of lists, and back from published lists to leases.

use std::collections::BTreeMap;

use rsf_registry::record::{Lease, LeaseState, ListedInstance, ProvidedService, ServiceList};

/// The greatest weight that is published.
const GREATEST_WEIGHT: u32 = 10_000;

/// The lists in which a lease stands, by service key. Services whose names are no names are left out.
pub(crate) fn entries(lease: &Lease) -> BTreeMap<String, ListedInstance> {
    let mut entries = BTreeMap::new();
    if lease.address.is_empty() || is_tombstone(lease) {
        return entries;
    }
    for service in &lease.services {
        match service_key(service) {
            Some(key) => drop(entries.insert(key, entry(lease, &service.schema_hash))),
            None => tracing::warn!(
                instance = lease.instance,
                service = service.name,
                implementation = service.implementation,
                "a lease names a service that is no valid key; it is not listed"
            ),
        }
    }
    entries
}

/// Whether the instance has left on purpose.
pub(crate) fn is_tombstone(lease: &Lease) -> bool {
    lease.state() == LeaseState::Deregistered
}

/// Whether the instance has said that it will leave.
pub(crate) fn is_draining(lease: &Lease) -> bool {
    lease.state() == LeaseState::Draining
}

/// The leases that published lists stand for, each with the services of all lists that name its newest incarnation.
pub(crate) fn leases(lists: &[ServiceList]) -> BTreeMap<String, Lease> {
    let mut leases: BTreeMap<String, Lease> = BTreeMap::new();
    for list in lists {
        let (name, implementation) = list.service.split_once(':').unwrap_or((&list.service, ""));
        for listed in &list.instances {
            let service = ProvidedService {
                name: name.to_owned(),
                implementation: implementation.to_owned(),
                schema_hash: listed.schema_hash.clone(),
            };
            match leases.get_mut(&listed.instance) {
                Some(lease) if lease.incarnation > listed.incarnation => {}
                Some(lease) if lease.incarnation == listed.incarnation => lease.services.push(service),
                _ => drop(leases.insert(listed.instance.clone(), lease(listed, service))),
            }
        }
    }
    leases
}

fn entry(lease: &Lease, schema_hash: &str) -> ListedInstance {
    let state = if is_draining(lease) {
        LeaseState::Draining
    } else {
        LeaseState::Up
    };
    ListedInstance {
        instance: lease.instance.clone(),
        incarnation: lease.incarnation,
        application: lease.application.clone(),
        address: lease.address.clone(),
        admin_address: lease.admin_address.clone(),
        zone: lease.zone.clone(),
        tags: lease.tags.clone(),
        weight: lease.weight.min(GREATEST_WEIGHT),
        state: state.into(),
        schema_hash: schema_hash.to_owned(),
    }
}

fn lease(listed: &ListedInstance, service: ProvidedService) -> Lease {
    Lease {
        namespace: String::new(),
        application: listed.application.clone(),
        instance: listed.instance.clone(),
        incarnation: listed.incarnation,
        sequence: 0,
        address: listed.address.clone(),
        admin_address: listed.admin_address.clone(),
        zone: listed.zone.clone(),
        tags: listed.tags.clone(),
        weight: listed.weight,
        services: vec![service],
        state: listed.state,
        version: String::new(),
    }
}

fn service_key(service: &ProvidedService) -> Option<String> {
    let is_name = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    let key = match service.implementation.as_str() {
        "" => service.name.clone(),
        implementation => format!("{}:{implementation}", service.name),
    };
    let valid = !service.name.is_empty()
        && !service.name.starts_with('.')
        && key.len() <= 200
        && is_name(&service.name)
        && is_name(&service.implementation);
    valid.then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provided(name: &str, implementation: &str) -> ProvidedService {
        ProvidedService {
            name: name.into(),
            implementation: implementation.into(),
            schema_hash: "h".into(),
        }
    }

    #[test]
    fn names_that_are_no_keys_are_left_out() {
        let services = vec![
            provided("a.B", ""),
            provided("a.B", "gold"),
            provided("../x", ""),
            provided("", ""),
            provided("a/b", ""),
        ];
        let lease = Lease {
            instance: "i".into(),
            address: "h:1".into(),
            services,
            ..Lease::default()
        };
        assert_eq!(
            entries(&lease).into_keys().collect::<Vec<_>>(),
            ["a.B", "a.B:gold"]
        );
    }

    #[test]
    fn lists_and_leases_convert_both_ways() {
        let lease = Lease {
            instance: "i".into(),
            incarnation: 7,
            address: "h:1".into(),
            weight: 90_000,
            services: vec![provided("a.B", ""), provided("a.B", "gold")],
            state: LeaseState::Draining.into(),
            ..Lease::default()
        };
        let list = |(service, entry): (String, ListedInstance)| ServiceList {
            service,
            instances: vec![entry],
            ..ServiceList::default()
        };
        let published: Vec<_> = entries(&lease).into_iter().map(list).collect();
        let restored = leases(&published);
        assert_eq!(entries(&restored["i"]), entries(&lease));
        assert_eq!(restored["i"].weight, 10_000);
    }
}
