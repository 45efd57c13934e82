//! Policies: read, written, compared, rolled back, and who runs them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams, State};
use axum::{Extension, Json};
use http::StatusCode;
use rsf_core::control::Scope;
use rsf_core::policy::PolicyDocument;
use rsf_core::policy::fields::{DOCUMENT, Field, Kind, Level};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::error::{ApiError, Body, Query};
use crate::auth::Caller;
use crate::diff::lines;
use crate::history::{Draft, Entry};
use crate::model::{
    Accepted, Acknowledged, AcknowledgedState, AuditEntry, Diff, InstanceRevision, PatchPolicy, Preview,
    Previewed, PutPolicy, Revision, Rollback, Status,
};

/// Entries of a list unless the caller says otherwise, and at most.
const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;
/// Bytes of an author's name and of a comment.
const MAX_AUTHOR: usize = 200;
const MAX_COMMENT: usize = 2_000;

/// The scope in the path: `fleet`, or two parts.
pub(super) struct InPath(Scope);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut http::request::Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
        let words: Vec<&str> = params.iter().map(|(_, value)| value).collect();
        let text = if words.is_empty() {
            "fleet".to_owned()
        } else {
            words.join("/")
        };
        text.parse()
            .map(InPath)
            .map_err(|error: rsf_core::control::InvalidScope| ApiError::bad_request(error.to_string()))
    }
}

pub(super) async fn all(State(shared): State<Arc<Shared>>) -> Result<Json<Vec<Revision>>, ApiError> {
    let mut latest = shared.publisher.history().latest_all().await?;
    latest.retain(|entry| !entry.document.is_empty());
    latest.sort_by(|a, b| a.scope.cmp(&b.scope));
    Ok(Json(latest.into_iter().map(Revision::from).collect()))
}

pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    InPath(scope): InPath,
) -> Result<Json<Revision>, ApiError> {
    let latest = latest(&shared, &scope).await?;
    let policy = latest.filter(|entry| !entry.document.is_empty());
    policy
        .map(|entry| Json(entry.into()))
        .ok_or_else(|| no_policy(&scope))
}

pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    InPath(scope): InPath,
    Body(asked): Body<PutPolicy>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let document = validated(&scope, &asked.document)?;
    let signed = Signed::new(asked.author, asked.comment, caller)?;
    publish(&shared, scope, document, signed, asked.expected_revision).await
}

pub(super) async fn patch(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    InPath(scope): InPath,
    Body(asked): Body<PatchPolicy>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let signed = Signed::new(asked.author, asked.comment, caller)?;
    let latest = latest(&shared, &scope).await?;
    let (revision, text) = latest.map_or((0, String::new()), |entry| (entry.revision, entry.document));
    let edited = crate::edit(&text, &asked.assignments)?;
    let document = validated(&scope, &Value::String(edited))?;
    // The edit was made on this revision: another one that came meanwhile must not be lost.
    let expected = asked.expected_revision.unwrap_or(revision);
    publish(&shared, scope, document, signed, Some(expected)).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deletion {
    expected_revision: Option<u64>,
    author: Option<String>,
    #[serde(default)]
    comment: String,
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    InPath(scope): InPath,
    Query(asked): Query<Deletion>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let latest = latest(&shared, &scope).await?;
    if latest.is_none_or(|entry| entry.document.is_empty()) {
        return Err(no_policy(&scope));
    }
    let signed = Signed::new(asked.author, asked.comment, caller)?;
    publish(&shared, scope, String::new(), signed, asked.expected_revision).await
}

pub(super) async fn rollback(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    InPath(scope): InPath,
    Body(asked): Body<Rollback>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let wanted = revision(&shared, &scope, asked.revision).await?;
    if wanted.status == Status::Refused {
        let message = format!(
            "revision {} was refused and never in force; the audit log says why",
            asked.revision
        );
        return Err(ApiError::bad_request(message));
    }
    let document = if wanted.document.is_empty() {
        String::new()
    } else {
        // What was valid when it was written may not be any more.
        validated(&scope, &Value::String(wanted.document))?
    };
    let comment = if asked.comment.is_empty() {
        format!("back to revision {}", asked.revision)
    } else {
        asked.comment
    };
    let signed = Signed::new(asked.author, comment, caller)?;
    publish(&shared, scope, document, signed, asked.expected_revision).await
}

pub(super) async fn preview(
    State(shared): State<Arc<Shared>>,
    InPath(scope): InPath,
    Body(asked): Body<Preview>,
) -> Result<Json<Previewed>, ApiError> {
    let latest = latest(&shared, &scope).await?;
    let (revision, text) = latest.map_or((0, String::new()), |entry| (entry.revision, entry.document));
    let document = match (asked.document, asked.assignments) {
        (Some(document), None) => document,
        (None, Some(assignments)) => Value::String(crate::edit(&text, &assignments)?),
        _ => return Err(ApiError::bad_request("give either `document` or `assignments`")),
    };
    let document = value(&validated(&scope, &document)?);
    let lines = lines(&value(&text), &document);
    Ok(Json(Previewed {
        revision,
        document,
        lines,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    before: Option<u64>,
    limit: Option<u32>,
}

impl Page {
    fn bounds(&self) -> (u64, u32) {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
        (self.before.unwrap_or(u64::MAX), limit)
    }
}

pub(super) async fn history(
    State(shared): State<Arc<Shared>>,
    InPath(scope): InPath,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Revision>>, ApiError> {
    let (before, limit) = page.bounds();
    let history = shared.publisher.history();
    let entries = history.of_scope(&scope.to_string(), before, limit).await?;
    Ok(Json(entries.into_iter().map(Revision::from).collect()))
}

pub(super) async fn audit(
    State(shared): State<Arc<Shared>>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<AuditEntry>>, ApiError> {
    let (before, limit) = page.bounds();
    Ok(Json(shared.publisher.history().audit(before, limit).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sides {
    from: u64,
    to: u64,
}

pub(super) async fn diff(
    State(shared): State<Arc<Shared>>,
    InPath(scope): InPath,
    Query(sides): Query<Sides>,
) -> Result<Json<Diff>, ApiError> {
    let mut documents = Vec::with_capacity(2);
    for number in [sides.from, sides.to] {
        documents.push(match number {
            0 => Value::Null,
            number => value(&revision(&shared, &scope, number).await?.document),
        });
    }
    Ok(Json(Diff {
        from: sides.from,
        to: sides.to,
        lines: lines(&documents[0], &documents[1]),
    }))
}

pub(super) async fn acknowledgements(
    State(shared): State<Arc<Shared>>,
    InPath(scope): InPath,
) -> Result<Json<Acknowledged>, ApiError> {
    let latest = latest(&shared, &scope).await?.map_or(0, |entry| entry.revision);
    let heard = shared
        .parts
        .acknowledgements
        .acknowledged(&scope.to_string())
        .await?;
    let concerns = |instance: &crate::model::Instance| match &scope {
        Scope::Fleet => true,
        Scope::Application(name) => instance.application == *name,
        Scope::Service(key) => instance.services.contains(key),
    };
    // Those that the scope surely concerns wait until they are heard; consumers of it are known once they are heard.
    let mut instances: BTreeMap<String, InstanceRevision> = shared
        .fleet
        .instances()
        .into_iter()
        .filter(concerns)
        .map(|instance| {
            let waiting = InstanceRevision {
                instance: instance.instance.clone(),
                application: instance.application,
                revision: 0,
                state: AcknowledgedState::Waiting,
                refusal: String::new(),
                at_unix_ms: 0,
            };
            (instance.instance, waiting)
        })
        .collect();
    for heard in heard {
        let state = match heard.revision {
            revision if revision < latest => AcknowledgedState::Older,
            _ if heard.refusal.is_empty() => AcknowledgedState::Current,
            _ => AcknowledgedState::Refused,
        };
        let known = InstanceRevision {
            instance: heard.instance.clone(),
            application: heard.application,
            revision: heard.revision,
            state,
            refusal: heard.refusal,
            at_unix_ms: heard.at_unix_ms,
        };
        instances.insert(heard.instance, known);
    }
    Ok(Json(Acknowledged {
        revision: latest,
        instances: instances.into_values().collect(),
    }))
}

pub(super) async fn fields() -> Json<Value> {
    Json(table(DOCUMENT))
}

fn table(fields: &[Field]) -> Value {
    let row = |field: &Field| {
        let mut row = match field.kind {
            Kind::Integer(least, most) => json!({"kind": "integer", "least": least, "most": most}),
            Kind::Number(least, most) => json!({"kind": "number", "least": least, "most": most}),
            Kind::Word(words) => json!({"kind": "word", "words": words}),
            Kind::Choice(words, prefix) => json!({"kind": "choice", "words": words, "prefix": prefix}),
            Kind::Words(words) => json!({"kind": "words", "words": words}),
            Kind::Text(most) => json!({"kind": "text", "most": most}),
            Kind::TextList(most, count) => json!({"kind": "text_list", "most": most, "count": count}),
            Kind::Json(most) => json!({"kind": "json", "most": most}),
            Kind::Flag => json!({"kind": "flag"}),
            Kind::Object(inner) => json!({"kind": "object", "fields": table(inner)}),
            Kind::Named(inner) => json!({"kind": "named", "fields": table(inner)}),
            Kind::Methods(inner) => {
                let own: Vec<_> = inner
                    .iter()
                    .filter(|field| field.level == Level::Method)
                    .copied()
                    .collect();
                json!({"kind": "named", "fields": table(&own)})
            }
            Kind::Texts => json!({"kind": "texts"}),
            Kind::Numbers(least, most) => json!({"kind": "numbers", "least": least, "most": most}),
            Kind::List(inner, most) => json!({"kind": "list", "most": most, "fields": table(inner)}),
        };
        row["name"] = field.name.into();
        row["default"] = field.shown_default().into();
        row["doc"] = field.doc.into();
        row
    };
    fields.iter().map(row).collect()
}

/// Who signs a change, and why.
struct Signed {
    author: String,
    comment: String,
}

impl Signed {
    fn new(author: Option<String>, comment: String, caller: Caller) -> Result<Self, ApiError> {
        let author = author
            .filter(|author| !author.trim().is_empty())
            .unwrap_or_else(|| match caller {
                Caller::Bearer => "api".to_owned(),
                Caller::Session => "page".to_owned(),
            });
        if author.len() > MAX_AUTHOR || comment.len() > MAX_COMMENT {
            let message = format!("`author` may have {MAX_AUTHOR} bytes, `comment` {MAX_COMMENT}");
            return Err(ApiError::bad_request(message));
        }
        Ok(Signed { author, comment })
    }
}

async fn publish(
    shared: &Shared,
    scope: Scope,
    document: String,
    signed: Signed,
    expected: Option<u64>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let draft = Draft {
        scope,
        document,
        author: signed.author,
        comment: signed.comment,
        expected,
    };
    let published = shared.publisher.publish(&draft).await?;
    let (status, message) = match published.waits {
        None => (StatusCode::OK, String::new()),
        Some(why) => (
            StatusCode::ACCEPTED,
            format!("recorded, and in force as soon as the policy store answers: {why}"),
        ),
    };
    let revision = published.entry.into();
    Ok((status, Json(Accepted { revision, message })))
}

/// Checks a document (an object, or its text) and returns it in its one compact form.
fn validated(scope: &Scope, document: &Value) -> Result<String, ApiError> {
    let text = match document {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    PolicyDocument::parse(scope, &text).map_err(ApiError::invalid_policy)?;
    Ok(value(&text).to_string())
}

fn value(document: &str) -> Value {
    serde_json::from_str(document).unwrap_or(Value::Null)
}

async fn latest(shared: &Shared, scope: &Scope) -> Result<Option<Entry>, ApiError> {
    Ok(shared.publisher.history().latest(&scope.to_string()).await?)
}

async fn revision(shared: &Shared, scope: &Scope, revision: u64) -> Result<Entry, ApiError> {
    // Beyond what the database can count there is surely nothing.
    let found = match i64::try_from(revision) {
        Ok(_) => {
            shared
                .publisher
                .history()
                .revision(&scope.to_string(), revision)
                .await?
        }
        Err(_) => None,
    };
    found.ok_or_else(|| {
        ApiError::not_found(format!(
            "{scope} has no revision {revision}; its history names those it has"
        ))
    })
}

fn no_policy(scope: &Scope) -> ApiError {
    ApiError::not_found(format!(
        "{scope} has no policy; what holds for it is the built-in or a wider scope's"
    ))
}
