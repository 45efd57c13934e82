//! A typed client of the console's API, for the command line and for tools.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use rsf_core::control::Scope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::{
    Accepted, Acknowledged, AuditEntry, ConsoleStatus, Diff, ErrorBody, Instance, PatchPolicy, Preview,
    Previewed, Problem, PutPolicy, Revision, Rollback, Service, ServiceSummary, Stats,
};

/// For one request; the console itself gives up on its stores sooner.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Speaks to one console.
#[derive(Debug, Clone)]
pub struct ConsoleClient {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// Why the console did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("`{0}` is no console address; write `http://host:port`")]
    Address(String),
    /// Nobody answers there.
    #[error(
        "no console answers at {address}: {reason}; start one (`rsf dev`, `rsf console`) or correct the address"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// The console refused, in its own words.
    #[error("{message}{}", list(.details))]
    Refused {
        /// The HTTP status.
        status: u16,
        /// A word for programs: `invalid_policy`, `conflict`, `not_found`, `unauthorized`, …
        code: String,
        /// A sentence for people.
        message: String,
        /// Every single thing that is wrong, where there are several.
        details: Vec<Problem>,
    },
    /// Something answers there, and it is no console.
    #[error("what answers at {address} is no RSF console (status {status}): {reason}")]
    NoConsole {
        /// Where.
        address: String,
        /// The HTTP status.
        status: u16,
        /// What was not understood.
        reason: String,
    },
}

fn list(details: &[Problem]) -> String {
    details
        .iter()
        .map(|detail| format!("\n  {}: {}", detail.path, detail.problem))
        .collect()
}

impl ConsoleClient {
    /// A client of the console at `base` (`http://host:port`) that brings `token`.
    pub fn new(base: &str, token: &str) -> Result<Self, ClientError> {
        let parsed: Option<reqwest::Url> = base.parse().ok();
        let valid = parsed.is_some_and(|url| url.scheme() == "http" && url.has_host() && url.path() == "/");
        if !valid {
            return Err(ClientError::Address(base.to_owned()));
        }
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|_| ClientError::Address(base.to_owned()))?;
        Ok(ConsoleClient {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token: token.trim().to_owned(),
        })
    }

    /// The console's namespace, version and health.
    pub async fn status(&self) -> Result<ConsoleStatus, ClientError> {
        self.get("status").await
    }

    /// All services.
    pub async fn services(&self) -> Result<Vec<ServiceSummary>, ClientError> {
        self.get("services").await
    }

    /// One service with its instances.
    pub async fn service(&self, key: &str) -> Result<Service, ClientError> {
        self.get(&format!("services/{}", encoded(key))).await
    }

    /// All instances, pure consumers included where the console can see them.
    pub async fn instances(&self) -> Result<Vec<Instance>, ClientError> {
        self.get("instances").await
    }

    /// The live figures with the last `points` seconds of each service, at most 300.
    pub async fn stats(&self, service: Option<&str>, points: usize) -> Result<Stats, ClientError> {
        let filter = service.map_or_else(String::new, |key| format!("&service={}", encoded(key)));
        self.get(&format!("stats?points={points}{filter}")).await
    }

    /// The pump's status, as the pump gives it.
    pub async fn pump(&self) -> Result<Value, ClientError> {
        self.get("pump").await
    }

    /// The table of policy fields.
    pub async fn fields(&self) -> Result<Value, ClientError> {
        self.get("fields").await
    }

    /// The latest policy of every scope that has one.
    pub async fn policies(&self) -> Result<Vec<Revision>, ClientError> {
        self.get("policies").await
    }

    /// The latest policy of one scope; `None` where it has none.
    pub async fn policy(&self, scope: &Scope) -> Result<Option<Revision>, ClientError> {
        match self.get(&policy(scope, "")).await {
            Ok(policy) => Ok(Some(policy)),
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Publishes a whole document.
    pub async fn put(&self, scope: &Scope, asked: &PutPolicy) -> Result<Accepted, ClientError> {
        self.send(Method::PUT, &policy(scope, ""), asked).await
    }

    /// Edits the latest document and publishes it.
    pub async fn patch(&self, scope: &Scope, asked: &PatchPolicy) -> Result<Accepted, ClientError> {
        self.send(Method::PATCH, &policy(scope, ""), asked).await
    }

    /// Deletes the policy of a scope, if `expected_revision` still is its latest.
    pub async fn delete(
        &self,
        scope: &Scope,
        expected_revision: Option<u64>,
        author: &str,
        comment: &str,
    ) -> Result<Accepted, ClientError> {
        let expected =
            expected_revision.map_or_else(String::new, |revision| format!("&expected_revision={revision}"));
        let query = format!(
            "?author={}&comment={}{expected}",
            encoded(author),
            encoded(comment)
        );
        self.answer(self.request(Method::DELETE, &(policy(scope, "") + &query)))
            .await
    }

    /// What a change would do, without doing it.
    pub async fn preview(&self, scope: &Scope, asked: &Preview) -> Result<Previewed, ClientError> {
        self.send(Method::POST, &policy(scope, "/preview"), asked).await
    }

    /// The revisions of a scope before `before`, newest first, at most `limit` (500).
    pub async fn history(
        &self,
        scope: &Scope,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<Revision>, ClientError> {
        self.get(&(policy(scope, "/history") + &page(before, limit)))
            .await
    }

    /// How two revisions of a scope differ; 0 is the empty document.
    pub async fn diff(&self, scope: &Scope, from: u64, to: u64) -> Result<Diff, ClientError> {
        self.get(&(policy(scope, "/diff") + &format!("?from={from}&to={to}")))
            .await
    }

    /// Publishes the document of an earlier revision again.
    pub async fn rollback(&self, scope: &Scope, asked: &Rollback) -> Result<Accepted, ClientError> {
        self.send(Method::POST, &policy(scope, "/rollback"), asked).await
    }

    /// Who runs which revision of a scope.
    pub async fn acknowledgements(&self, scope: &Scope) -> Result<Acknowledged, ClientError> {
        self.get(&policy(scope, "/acknowledgements")).await
    }

    /// The audit log before entry `before`, newest first, at most `limit` (500).
    pub async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, ClientError> {
        self.get(&format!("audit{}", page(before, limit))).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(self.request(Method::GET, path)).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.answer(self.request(method, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/api/v1/{path}", self.base))
            .bearer_auth(&self.token)
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let unreachable = |error: reqwest::Error| ClientError::Unreachable {
            address: self.base.clone(),
            reason: innermost(&error),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.no_console(status, &error));
        }
        match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => Err(ClientError::Refused {
                status: status.as_u16(),
                code: error.code,
                message: error.message,
                details: error.details,
            }),
            Err(error) => Err(self.no_console(status, &error)),
        }
    }

    fn no_console(&self, status: StatusCode, error: &serde_json::Error) -> ClientError {
        ClientError::NoConsole {
            address: self.base.clone(),
            status: status.as_u16(),
            reason: error.to_string(),
        }
    }
}

fn policy(scope: &Scope, rest: &str) -> String {
    // A valid scope holds nothing that a path would have to escape.
    format!("policies/{scope}{rest}")
}

fn page(before: Option<u64>, limit: u32) -> String {
    let before = before.map_or_else(String::new, |before| format!("&before={before}"));
    format!("?limit={limit}{before}")
}

/// Percent-encodes everything that is not plain in a path part or a query value.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
