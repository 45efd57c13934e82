//! What holds for the calls of a service, field by field, with the document that each value comes from.

use std::collections::BTreeSet;
use std::sync::Arc;

use rsf_console::ConsoleClient;
use rsf_core::control::Scope;
use rsf_core::method::MethodDescriptor;
use rsf_core::policy::{Layer, Origins, PolicyDocument, Resolution, method_policy, provider_rules};
use serde_json::Value;

use crate::Failure;

/// Prints the resolved view. The .proto options of a method are in its consumers alone, so they are not in it.
pub(super) async fn print(
    client: &ConsoleClient,
    service: &str,
    method: Option<&str>,
    consumer: &str,
    only_set: bool,
) -> Result<(), Failure> {
    let resolution = fetch(client, service).await?;
    let descriptor = method.map(|method| {
        let (name, _implementation) = service.split_once(':').unwrap_or((service, ""));
        MethodDescriptor::plain(name, method)
    });
    let policy = method_policy(descriptor.as_ref(), consumer, &resolution);
    rows(
        "call",
        &serde_json::to_value(&policy.call)?,
        &policy.origins,
        only_set,
    );
    let provider = provider_rules(resolution.layers());
    rows(
        "provider",
        &serde_json::to_value(&provider.rules)?,
        &provider.origins,
        only_set,
    );
    Ok(())
}

/// The documents that speak of a service: the fleet's, those of the applications that provide it, its own.
async fn fetch(client: &ConsoleClient, service: &str) -> Result<Resolution, Failure> {
    let scope: Scope = format!("service/{service}").parse()?;
    let mut applications = BTreeSet::new();
    for instance in client.instances().await? {
        if instance.services.iter().any(|provided| provided == service) {
            applications.insert(instance.application);
        }
    }
    let mut layers = Vec::new();
    for application in applications {
        layers.extend(layer(client, &Scope::Application(application)).await?);
    }
    Ok(Resolution {
        fleet: layer(client, &Scope::Fleet).await?,
        applications: layers,
        service: layer(client, &scope).await?,
    })
}

async fn layer(client: &ConsoleClient, scope: &Scope) -> Result<Option<Layer>, Failure> {
    let Some(revision) = client.policy(scope).await? else {
        return Ok(None);
    };
    if revision.document.is_null() {
        return Ok(None);
    }
    let document = PolicyDocument::parse(scope, &revision.document.to_string()).map_err(|errors| {
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        format!(
            "{scope} at revision {} is not valid for this version of rsf: {}",
            revision.revision,
            errors.join("; ")
        )
    })?;
    Ok(Some(Layer {
        origin: Arc::from(format!("{scope}@{}", revision.revision)),
        document: Arc::new(document),
    }))
}

fn rows(part: &str, values: &Value, origins: &Origins, only_set: bool) {
    let mut fields = Vec::new();
    flatten("", values, &mut fields);
    for (path, value) in fields {
        let origin = origins.get(&path).map_or("built-in", |origin| origin);
        if !only_set || origin != "built-in" {
            println!("{:<44} {value:<24} {origin}", format!("{part}.{path}"));
        }
    }
}

fn flatten(path: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                flatten(&path, value, fields);
            }
        }
        Value::Null => fields.push((path.to_owned(), "–".to_owned())),
        other => fields.push((path.to_owned(), other.to_string())),
    }
}
