//! The one shape of every refusal, and how requests that cannot be read come to it.

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use rsf_core::policy::PolicyError;
use rsf_registry::StoreError;
use serde::de::DeserializeOwned;

use crate::EditError;
use crate::auth::CSRF_HEADER;
use crate::history::HistoryError;
use crate::model::{ErrorBody, ErrorDetail, Problem};
use crate::publish::PublishError;

/// A refusal: its status and what the body says.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Vec<Problem>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            status,
            code,
            message: message.into(),
            details: Vec::new(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the console's token is missing or wrong; send `Authorization: Bearer <token>`, or open /login?token=<token> in a browser",
        )
    }

    pub(crate) fn forged() -> Self {
        let message = format!("a write with a session cookie must carry the header `{CSRF_HEADER}: 1`");
        Self::new(StatusCode::FORBIDDEN, "forged", message)
    }

    pub(crate) fn foreign_host(host: &str) -> Self {
        let host: String = host.chars().take(100).collect();
        let message = format!(
            "this console does not answer to the name `{host}`; use its address, or add the name to `allowed_hosts`"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", message)
    }

    pub(crate) fn invalid_policy(errors: Vec<PolicyError>) -> Self {
        let details: Vec<_> = errors
            .into_iter()
            .map(|error| Problem {
                path: error.path,
                problem: error.problem,
            })
            .collect();
        let message = match details.as_slice() {
            [only] => format!("the policy is invalid: {}: {}", only.path, only.problem),
            many => format!("the policy is invalid in {} places", many.len()),
        };
        ApiError {
            details,
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_policy", message)
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: ErrorDetail {
                code: self.code.to_owned(),
                message: self.message,
                details: self.details,
            },
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"rsf console\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<HistoryError> for ApiError {
    fn from(error: HistoryError) -> Self {
        if let HistoryError::Conflict { expected, latest, .. } = &error {
            let detail = |path: &str, revision: &u64| Problem {
                path: path.to_owned(),
                problem: revision.to_string(),
            };
            let details = vec![
                detail("expected_revision", expected),
                detail("latest_revision", latest),
            ];
            let message = format!("{error}; read it again and repeat the change");
            return ApiError {
                details,
                ..Self::new(StatusCode::CONFLICT, "conflict", message)
            };
        }
        // What the database says may name files; that is for the log, not for the caller.
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the console's database failed"
        );
        let message = "the console's database failed; its log says why, and nothing was changed";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "database", message)
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::History(error) => error.into(),
            PublishError::Unknown { .. } => Self::new(StatusCode::CONFLICT, "conflict", error.to_string()),
            PublishError::Refused { ref source, .. } => {
                let message = format!("{error}: {source}; it is in the audit log, and nothing changed");
                Self::new(StatusCode::BAD_GATEWAY, "store_refused", message)
            }
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<EditError> for ApiError {
    fn from(error: EditError) -> Self {
        let message = format!("the edit makes no sense: {error}");
        ApiError {
            details: error.0,
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_edit", message)
        }
    }
}

/// A JSON body whose errors come in the API's own shape.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(unreadable)?;
        serde_json::from_slice(&bytes)
            .map(Body)
            .map_err(|error| ApiError::bad_request(format!("the body is not what is asked for: {error}")))
    }
}

fn unreadable(rejection: BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = format!(
            "the body is larger than {} bytes; a policy document may have {}",
            super::MAX_BODY_BYTES,
            super::MAX_DOCUMENT_BYTES
        );
        return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message);
    }
    ApiError::bad_request(rejection.body_text())
}

/// A query string whose errors come in the API's own shape.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> axum::extract::FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(query)| Query(query))
            .map_err(|rejection| ApiError::bad_request(rejection.body_text()))
    }
}

pub(crate) async fn no_such_path() -> ApiError {
    ApiError::not_found("there is nothing at this path; the API is under /api/v1")
}

pub(crate) async fn no_such_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not take this method",
    )
}
