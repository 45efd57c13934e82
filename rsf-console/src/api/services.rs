//! What runs: services, instances, live figures, the pump, and the console itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use rsf_core::control::{self, Scope};
use rsf_core::policy::PolicyDocument;
use serde::Deserialize;
use serde_json::Value;

use super::Shared;
use super::error::{ApiError, Query};
use crate::history::{Entry, unix_ms};
use crate::model::{ConsoleStatus, Instance, Service, ServiceInstance, ServiceSummary, Stats};
use crate::stats::MAX_POINTS;

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Result<Json<ConsoleStatus>, ApiError> {
    Ok(Json(ConsoleStatus {
        namespace: shared.config.namespace.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pending: shared.publisher.history().pending().await?.len(),
        policy_store: shared.publisher.last_failure(),
        directory: shared.fleet.failure(),
    }))
}

pub(super) async fn services(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<Vec<ServiceSummary>>, ApiError> {
    known(&shared)?;
    Ok(Json(shared.fleet.services()))
}

pub(super) async fn service(
    State(shared): State<Arc<Shared>>,
    Path(key): Path<String>,
) -> Result<Json<Service>, ApiError> {
    known(&shared)?;
    let Some(mut service) = shared.fleet.service(&key) else {
        let message =
            format!("no list of service `{key}` is published; GET /api/v1/services names those that are");
        return Err(ApiError::not_found(message));
    };
    apply_rules(&mut service, &shared.publisher.history().latest_all().await?);
    Ok(Json(service))
}

pub(super) async fn instances(State(shared): State<Arc<Shared>>) -> Result<Json<Vec<Instance>>, ApiError> {
    known(&shared)?;
    Ok(Json(shared.fleet.instances()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    service: Option<String>,
    #[serde(default)]
    points: usize,
}

pub(super) async fn stats(State(shared): State<Arc<Shared>>, Query(wanted): Query<Wanted>) -> Json<Stats> {
    // Figures are counted by the protobuf name; an implementation has none of its own.
    let name = wanted
        .service
        .as_deref()
        .map(|key| key.split(':').next().unwrap_or(key));
    Json(shared.stats.stats(name, wanted.points.min(MAX_POINTS)))
}

pub(super) async fn pump(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    let Some(pump) = &shared.parts.pump else {
        return Err(ApiError::not_found("this console was not told where its pump is"));
    };
    pump.status().await.map(Json).map_err(ApiError::unavailable)
}

/// Refuses to say "no services" before the directory was ever read; afterwards the last good state stands.
fn known(shared: &Shared) -> Result<(), ApiError> {
    match (shared.fleet.is_known(), shared.fleet.failure()) {
        (true, _) => Ok(()),
        (false, failure) if failure.is_empty() => Err(ApiError::unavailable(
            "the directory has not been read yet; try again in a second",
        )),
        (false, failure) => Err(ApiError::unavailable(failure)),
    }
}

/// What the latest instance rules make of the listed weights: the fleet's, the application's, then the service's.
fn apply_rules(service: &mut Service, latest: &[Entry]) {
    let parsed = |scope: Scope| {
        let text = scope.to_string();
        let entry = latest
            .iter()
            .find(|entry| entry.scope == text && !entry.document.is_empty())?;
        PolicyDocument::parse(&scope, &entry.document).ok()
    };
    let fleet = parsed(Scope::Fleet);
    let own = parsed(Scope::Service(service.service.clone()));
    let now = unix_ms();
    for listed in &mut service.instances {
        let application = parsed(Scope::Application(listed.instance.application.clone()));
        let instance = instance(listed);
        let documents = fleet.iter().chain(&application).chain(&own);
        for rule in documents.flat_map(|document| &document.instances) {
            if rule.selects(&instance, now) {
                listed.effective_weight = rule.weight.unwrap_or(listed.effective_weight);
                listed.disabled = rule.disabled.unwrap_or(listed.disabled);
            }
        }
    }
}

fn instance(listed: &ServiceInstance) -> control::Instance {
    let listed = &listed.instance;
    control::Instance {
        id: listed.instance.as_str().into(),
        incarnation: listed.incarnation,
        zone: listed.zone.as_str().into(),
        tags: listed.tags.clone(),
        weight: listed.weight,
        draining: listed.state == "draining",
        ..control::Instance::at(&listed.application, &listed.address)
    }
}
