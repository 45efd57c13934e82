//! Why a request is not answered with its method's reply, and how that is written.

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use rsf_core::error::RpcError;
use rsf_core::outcome::Reason;
use rsf_core::status::Code;
use serde::Serialize;

use crate::code::{connect_name, http_status};
use crate::metadata::{BASE64, write_metadata};

/// RSF's reason for an error, beside Connect's code.
pub(crate) const REASON: HeaderName = HeaderName::from_static("rsf-reason");

/// A request that is answered with an error.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Connect's error JSON.
    Connect(Box<ConnectError>),
    /// A refusal that the Connect protocol leaves to HTTP: wrong verb, wrong content type.
    Http {
        status: StatusCode,
        message: String,
        /// What would be right: `allow`, `accept-post`.
        hint: (HeaderName, HeaderValue),
    },
}

/// Connect's error, with the HTTP status it is sent under.
#[derive(Debug)]
pub(crate) struct ConnectError {
    status: StatusCode,
    body: ErrorBody,
    headers: HeaderMap,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

#[derive(Debug, Serialize)]
struct Detail {
    r#type: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<serde_json::Value>,
}

/// `google.rpc.Status`, the form in which gRPC carries error details.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

impl Failure {
    /// An error of the adapter's own, under the code's usual status.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::with_status(http_status(code), code, message)
    }

    /// An error of the adapter's own under another HTTP status.
    pub(crate) fn with_status(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        let body = ErrorBody {
            code: connect_name(code),
            message: message.into(),
            details: Vec::new(),
        };
        Failure::Connect(Box::new(ConnectError {
            status,
            body,
            headers: HeaderMap::new(),
        }))
    }

    /// Adds RSF's reason.
    pub(crate) fn reason(mut self, reason: Reason) -> Self {
        if let Failure::Connect(error) = &mut self {
            error
                .headers
                .insert(REASON, HeaderValue::from_static(reason.name()));
        }
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Failure::Connect(error) = &mut self {
            error.headers.insert(name, value);
        }
        self
    }

    /// What it says to people.
    pub(crate) fn message(&self) -> &str {
        match self {
            Failure::Connect(error) => &error.body.message,
            Failure::Http { message, .. } => message,
        }
    }

    /// What the caller did wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Failure::new(Code::InvalidArgument, message)
    }

    /// A path that names nothing. Clients read the code; the status tells proxies and people.
    pub(crate) fn unknown_path(message: impl Into<String>) -> Self {
        Failure::with_status(StatusCode::NOT_FOUND, Code::Unimplemented, message)
    }

    /// A verb that the path does not take.
    pub(crate) fn wrong_verb(allow: &'static str, message: impl Into<String>) -> Self {
        let hint = (ALLOW, HeaderValue::from_static(allow));
        Failure::Http {
            status: StatusCode::METHOD_NOT_ALLOWED,
            message: message.into(),
            hint,
        }
    }

    /// What a governed call ended with; `pool` knows the types of its details.
    pub(crate) fn of_call(error: &RpcError, pool: &DescriptorPool, forward_cookies: bool) -> Self {
        let status = match error.reason() {
            Reason::DuplicateInProgress => StatusCode::CONFLICT,
            Reason::PayloadMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            _ => http_status(error.code()),
        };
        let mut headers = HeaderMap::new();
        write_metadata(error.status().metadata(), forward_cookies, &mut headers);
        let body = ErrorBody {
            code: connect_name(error.code()),
            message: error.message().to_owned(),
            details: details(error.status().details(), pool),
        };
        Failure::Connect(Box::new(ConnectError {
            status,
            body,
            headers,
        }))
        .reason(error.reason())
    }

    /// The response.
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        match self {
            Failure::Connect(error) => {
                let body =
                    serde_json::to_vec(&error.body).unwrap_or_else(|_| br#"{"code":"internal"}"#.to_vec());
                let mut response = Response::new(Full::new(body.into()));
                *response.status_mut() = error.status;
                *response.headers_mut() = error.headers;
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Failure::Http {
                status,
                message,
                hint: (name, value),
            } => {
                let mut response = Response::new(Full::new(format!("{message}\n").into()));
                *response.status_mut() = status;
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, text);
                response.headers_mut().insert(name, value);
                response
            }
        }
    }
}

/// Connect's form of an encoded `google.rpc.Status`'s details; bytes that are none yield none.
fn details(encoded: &[u8], pool: &DescriptorPool) -> Vec<Detail> {
    let status = RpcStatus::decode(encoded).unwrap_or_default();
    let detail = |any: prost_types::Any| {
        let name = any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
        let debug = pool
            .get_message_by_name(&name)
            .and_then(|known| DynamicMessage::decode(known, any.value.as_slice()).ok())
            .and_then(|message| serde_json::to_value(message).ok());
        Detail {
            r#type: name,
            value: BASE64.encode(&any.value),
            debug,
        }
    };
    status.details.into_iter().map(detail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dedups_refusals_have_the_status_of_the_idempotency_key_draft() {
        let pool = DescriptorPool::new();
        for (reason, status) in [
            (Reason::DuplicateInProgress, 409),
            (Reason::PayloadMismatch, 422),
            (Reason::OutcomeUnknown, 409),
            (Reason::QueueFull, 429),
            (Reason::Deadline, 504),
        ] {
            let failure = Failure::of_call(&RpcError::new(reason, false, "told"), &pool, false);
            let response = failure.into_response();
            assert_eq!(response.status().as_u16(), status, "{reason}");
            assert_eq!(response.headers()["rsf-reason"], reason.name());
        }
    }

    #[test]
    fn details_that_are_no_status_are_left_out() {
        assert!(details(b"\xff\xff\xff", &DescriptorPool::new()).is_empty());
    }
}
