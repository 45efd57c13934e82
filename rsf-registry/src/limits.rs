//! What a record may hold; the same limits on both sides of every backend.

use std::time::Duration;

use crate::StoreError;
use crate::record::{
    Acknowledgement, Lease, ListedInstance, PolicyRecord, Report, ReportFinding, ServiceList,
};

/// The longest name: instance, application, service key, scope, zone (characters).
pub const MAX_NAME: usize = 200;
/// The most instances of one service.
pub const MAX_INSTANCES: usize = 20_000;
/// The greatest weight of an instance.
pub const MAX_WEIGHT: u32 = 10_000;
/// The largest message that an instance may send (bytes).
pub const MAX_REQUEST: usize = 4 << 20;
/// The largest encoded list or policy (bytes).
pub const MAX_RECORD: usize = 8 << 20;
/// The most reports of one message.
pub const MAX_REPORTS: usize = 64;
/// The most reporters of one instance that a server keeps.
pub const MAX_REPORTERS: usize = 8;
/// The shortest and the longest TTL of a lease, an acknowledgement or a report.
pub const TTL: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

const MAX_SERVICES: usize = 1_000;
const MAX_TAGS: usize = 100;

/// Checks a name that becomes part of a key: 1 to [`MAX_NAME`] characters, no control characters.
pub fn check_name(what: &str, name: &str) -> Result<(), StoreError> {
    if name.is_empty() {
        return Err(invalid(name, format!("the {what} is empty; give it a name")));
    }
    if name.chars().nth(MAX_NAME).is_some() {
        let start: String = name.chars().take(40).collect();
        return Err(invalid(
            &start,
            format!("the {what} is longer than {MAX_NAME} characters; shorten it"),
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid(
            &name.escape_debug().to_string(),
            format!("the {what} holds control characters"),
        ));
    }
    Ok(())
}

/// Checks a namespace: 1 to 64 letters, digits, `-`, `_` or `.`, so that it fits keys, paths and metadata.
pub fn check_namespace(namespace: &str) -> Result<(), StoreError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if namespace.is_empty()
        || namespace.len() > 64
        || namespace.starts_with('.')
        || !namespace.chars().all(fits)
    {
        let shown: String = namespace.chars().take(64).flat_map(char::escape_debug).collect();
        let reason =
            "a namespace has 1 to 64 letters, digits, `-`, `_` or `.`; set RSF_NAMESPACE to such a name";
        return Err(invalid(&shown, reason.to_owned()));
    }
    Ok(())
}

/// Checks `host:port`, with an IPv6 host in brackets and a port from 1 to 65 535.
pub fn check_address(address: &str) -> Result<(), String> {
    let wrong = |why: &str| {
        Err(format!(
            "address `{}` {why}; write host:port",
            address.escape_debug()
        ))
    };
    let Some((host, port)) = address.rsplit_once(':') else {
        return wrong("has no port");
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) || !port.chars().all(|c| c.is_ascii_digit()) {
        return wrong("has no port from 1 to 65535");
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(host) if host.parse::<std::net::Ipv6Addr>().is_ok() => Ok(()),
        Some(_) => wrong("has no IPv6 address between its brackets"),
        None if host.is_empty() || host.len() > 253 => wrong("has no host of 1 to 253 characters"),
        None if host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) =>
        {
            Ok(())
        }
        None => wrong("has characters that no host has"),
    }
}

/// Checks a TTL against [`TTL`].
pub fn check_ttl(key: &str, ttl: Duration) -> Result<(), StoreError> {
    if TTL.contains(&ttl) {
        return Ok(());
    }
    Err(invalid(
        key,
        format!("its TTL is {ttl:?}; use {:?} to {:?}", TTL.start(), TTL.end()),
    ))
}

/// Checks a lease as an instance writes it.
pub fn check_lease(lease: &Lease) -> Result<(), StoreError> {
    check_name("instance", &lease.instance)?;
    check_name("application", &lease.application)?;
    let wrong = |reason: String| Err(invalid(&lease.instance, reason));
    for address in [&lease.address, &lease.admin_address] {
        if !address.is_empty()
            && let Err(reason) = check_address(address)
        {
            return wrong(reason);
        }
    }
    if lease.address.is_empty() && !lease.services.is_empty() {
        return wrong("it provides services but has no address; set RSF_ADVERTISE".to_owned());
    }
    if lease.weight > MAX_WEIGHT {
        return wrong(format!("its weight is {}; use 0 to {MAX_WEIGHT}", lease.weight));
    }
    if lease.services.len() > MAX_SERVICES || lease.tags.len() > MAX_TAGS {
        return wrong(format!(
            "it has more than {MAX_SERVICES} services or {MAX_TAGS} tags"
        ));
    }
    let labels = lease
        .tags
        .iter()
        .flat_map(|(key, value)| [key, value])
        .chain([&lease.zone, &lease.version]);
    for label in labels {
        if label.chars().nth(MAX_NAME).is_some() {
            return wrong(format!(
                "a tag, its zone or its version is longer than {MAX_NAME} characters"
            ));
        }
    }
    for service in &lease.services {
        check_name("service", &service.name)?;
        if service.implementation.len() > MAX_NAME || service.schema_hash.len() > MAX_NAME {
            return wrong(format!(
                "the implementation or the schema hash of `{}` is longer than {MAX_NAME} bytes",
                service.name
            ));
        }
    }
    Ok(())
}

/// Checks a list as the pump writes it and as a consumer reads it.
pub fn check_list(list: &ServiceList) -> Result<(), StoreError> {
    check_name("service", &list.service)?;
    let wrong = |reason: String| Err(invalid(&list.service, reason));
    if list.version.is_none() {
        return wrong("it has no version".to_owned());
    }
    if list.instances.len() > MAX_INSTANCES {
        return wrong(format!(
            "it has {} instances; at most {MAX_INSTANCES} are served",
            list.instances.len()
        ));
    }
    check_instances(&list.service, &list.instances)?;
    check_size(&list.service, prost::Message::encoded_len(list))
}

/// Checks some instances of one list, of a shard for instance: names, addresses, weights up to [`MAX_WEIGHT`], and that
/// none stands there twice. Not how many they are.
///
/// # Errors
/// [`StoreError::Invalid`] of the service, which names the first instance that is wrong, and why.
pub fn check_instances(service: &str, instances: &[ListedInstance]) -> Result<(), StoreError> {
    let wrong = |reason: String| Err(invalid(service, reason));
    let mut seen = std::collections::HashSet::with_capacity(instances.len());
    for listed in instances {
        check_name("instance", &listed.instance)?;
        if let Err(reason) = check_address(&listed.address) {
            return wrong(format!("instance `{}`: {reason}", listed.instance));
        }
        if listed.weight > MAX_WEIGHT {
            return wrong(format!(
                "instance `{}` has weight {}, over {MAX_WEIGHT}",
                listed.instance, listed.weight
            ));
        }
        if !seen.insert(listed.instance.as_str()) {
            return wrong(format!("instance `{}` is listed twice", listed.instance));
        }
    }
    Ok(())
}

/// Checks a policy record as the console publishes it.
pub fn check_policy(record: &PolicyRecord) -> Result<(), StoreError> {
    check_name("scope", &record.scope)?;
    if record.revision == 0 {
        return Err(invalid(
            &record.scope,
            "its revision is 0; revisions begin with 1".to_owned(),
        ));
    }
    check_size(&record.scope, prost::Message::encoded_len(record))
}

/// Checks an acknowledgement as an instance writes it.
pub fn check_acknowledgement(acknowledgement: &Acknowledgement) -> Result<(), StoreError> {
    check_name("instance", &acknowledgement.instance)?;
    check_name("scope", &acknowledgement.scope)?;
    if acknowledgement.refusal.chars().nth(4096).is_some() {
        return Err(invalid(
            &acknowledgement.scope,
            "its refusal is longer than 4096 characters".to_owned(),
        ));
    }
    Ok(())
}

/// Checks a consumer's reports as it writes them: at most [`MAX_REPORTS`], all its own, each of a start of an instance, and
/// with a finding.
///
/// # Errors
/// [`StoreError::Invalid`] of the first report that is wrong.
pub fn check_reports(reports: &[Report]) -> Result<(), StoreError> {
    let Some(first) = reports.first() else {
        return Ok(());
    };
    check_name("reporter", &first.reporter)?;
    let wrong = |key: &str, reason: &str| Err(invalid(key, reason.to_owned()));
    if reports.len() > MAX_REPORTS {
        let count = reports.len();
        return wrong(
            &first.reporter,
            &format!("it reports on {count} instances at once; at most {MAX_REPORTS}"),
        );
    }
    for report in reports {
        check_name("instance", &report.instance)?;
        if report.reporter != first.reporter {
            return wrong(&report.instance, "a message has the reports of one reporter");
        }
        if report.incarnation == 0 {
            return wrong(&report.instance, "a report is of one start; its incarnation is 0");
        }
        if report.finding() == ReportFinding::Unspecified {
            return wrong(
                &report.instance,
                "a report says that it answers or that it is gone",
            );
        }
    }
    Ok(())
}

fn check_size(key: &str, bytes: usize) -> Result<(), StoreError> {
    if bytes > MAX_RECORD {
        return Err(invalid(
            key,
            format!("it has {bytes} bytes; at most {MAX_RECORD} are stored"),
        ));
    }
    Ok(())
}

fn invalid(key: &str, reason: String) -> StoreError {
    StoreError::Invalid {
        key: key.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["a:1", "127.0.0.1:65535", "[::1]:80", "order-1.shop_x.svc:9000"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in [
            "", "a", "a:", ":1", "a:0", "a:65536", "a:+1", "::1:80", "[::1]", "[x]:1", "a b:1", "u@h:1",
            "h/:1",
        ] {
            let reason = check_address(bad).expect_err(bad);
            assert!(reason.contains("host:port"), "{reason}");
        }
    }

    #[test]
    fn namespaces() {
        for good in ["default", "prod-1", "a.b_C"] {
            check_namespace(good).expect(good);
        }
        for bad in ["", ".", "../x", "a/b", "ü", "a b", &"x".repeat(65)] {
            let error = check_namespace(bad).expect_err(bad).to_string();
            assert!(error.contains("RSF_NAMESPACE"), "{error}");
        }
    }

    #[test]
    fn names() {
        check_name("service", &"ü".repeat(MAX_NAME)).expect("200 characters");
        for bad in [
            "".to_owned(),
            "x".repeat(MAX_NAME + 1),
            "a\0b".to_owned(),
            "a\nb".to_owned(),
        ] {
            check_name("service", &bad).expect_err("refused");
        }
    }
}
