//! `/overrides`: what an operator overrides of services' instances in this process: shown to everybody, changed with the
//! token of [`Settings::admin_token_file`](crate::Settings::admin_token_file) alone.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use rsf_registry::RegistryAgent;
use rsf_registry::agent::ServiceOverride;
use serde::{Deserialize, Serialize};

use super::token::AdminToken;

/// The most bytes of what is pushed: as many as the file of static instances may have.
const MAX_BODY: usize = rsf_registry::limits::MAX_RECORD;

/// What `PUT /overrides/<service>` is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushOverride {
    /// Milliseconds after which it ends by itself, 1 000 to 86 400 000.
    pub ttl_ms: u64,
    /// What is to hold.
    #[serde(rename = "override")]
    pub what: ServiceOverride,
}

/// Why a request that changes something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What is wrong and what to do.
    pub error: String,
}

struct Port {
    /// The page must not keep the application alive.
    agent: Weak<RegistryAgent>,
    token: Option<AdminToken>,
}

/// The routes over the overrides of `agent`. Without a token nobody can change them here.
pub(crate) fn routes(agent: &Arc<RegistryAgent>, token: Option<AdminToken>) -> Router {
    let agent = Arc::downgrade(agent);
    Router::new()
        .route("/overrides", get(show))
        .route("/overrides/{service}", put(push).delete(clear))
        .with_state(Arc::new(Port { agent, token }))
}

async fn show(State(port): State<Arc<Port>>) -> Response {
    match port.agent.upgrade() {
        Some(agent) => Json(agent.overrides()).into_response(),
        None => ending(),
    }
}

async fn push(State(port): State<Arc<Port>>, Path(service): Path<String>, request: Request) -> Response {
    // Before the body is read: who has no token costs no memory.
    if let Err(refused) = port.authenticate(request.headers()).await {
        return refused;
    }
    let body = match axum::body::to_bytes(request.into_body(), MAX_BODY).await {
        Ok(body) => body,
        Err(error) => {
            let most = MAX_BODY >> 20;
            let reason = format!("the body cannot be read: {error}; it may have {most} MiB");
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, reason);
        }
    };
    let asked: PushOverride = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => {
            let form = r#"give {"ttl_ms": 600000, "override": {"pin": ["host:port"]}}, or "add" and "remove" instead of "pin""#;
            return refuse(StatusCode::BAD_REQUEST, format!("{error}; {form}"));
        }
    };
    let Some(agent) = port.agent.upgrade() else {
        return ending();
    };
    match agent.push_override(&service, asked.what, Duration::from_millis(asked.ttl_ms)) {
        Ok(()) => {
            tracing::warn!(
                service,
                ttl_ms = asked.ttl_ms,
                "an operator overrides this service's instances"
            );
            Json(agent.overrides()).into_response()
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn clear(State(port): State<Arc<Port>>, Path(service): Path<String>, headers: HeaderMap) -> Response {
    if let Err(refused) = port.authenticate(&headers).await {
        return refused;
    }
    let Some(agent) = port.agent.upgrade() else {
        return ending();
    };
    match agent.clear_override(&service) {
        true => {
            tracing::warn!(
                service,
                "an operator ends the override of this service's instances"
            );
            Json(agent.overrides()).into_response()
        }
        false => {
            let none = format!(
                "nothing is pushed for service `{service}` here; what its file of static instances says is changed there"
            );
            refuse(StatusCode::NOT_FOUND, none)
        }
    }
}

impl Port {
    async fn authenticate(&self, headers: &HeaderMap) -> Result<(), Response> {
        let Some(token) = &self.token else {
            let none = "this process has no token for its admin port, so nobody can change anything here: start it with \
                        RSF_ADMIN_TOKEN_FILE";
            return Err(refuse(StatusCode::FORBIDDEN, none.to_owned()));
        };
        match token.opened_by(headers).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let wrong = "send `Authorization: Bearer <token>` with the token in this process's RSF_ADMIN_TOKEN_FILE";
                Err(refuse(StatusCode::UNAUTHORIZED, wrong.to_owned()))
            }
            Err(problem) => {
                tracing::error!(
                    problem,
                    "the admin port's token cannot be used; nobody can change anything there"
                );
                let unknown = "this process cannot read its token just now; its log says why";
                Err(refuse(StatusCode::SERVICE_UNAVAILABLE, unknown.to_owned()))
            }
        }
    }
}

fn ending() -> Response {
    refuse(
        StatusCode::SERVICE_UNAVAILABLE,
        "this process is ending".to_owned(),
    )
}

fn refuse(status: StatusCode, error: String) -> Response {
    (status, Json(Refused { error })).into_response()
}

#[cfg(test)]
mod tests {
    use std::path::{Path as File, PathBuf};

    use rsf_registry::agent::OverrideStatus;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::{Application, Settings};

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    const PINNED: &str = r#"{"ttl_ms": 600000, "override": {"pin": ["127.0.0.1:9"]}}"#;

    /// A consumer whose registry is dead: an operator's word is for such days.
    async fn consumer(state: &File, token_file: Option<PathBuf>) -> Application {
        let settings = Settings {
            registry: Some("rsf://127.0.0.1:1".into()),
            state: Some(state.to_owned()),
            admin_token_file: token_file,
            ..Settings::default()
        };
        let builder = Application::builder("customers").settings(settings);
        builder.start().await.unwrap()
    }

    /// The status and the body of the answer to one request.
    async fn ask(app: &Application, request: &str, token: &str, body: &str) -> (u16, Value) {
        announced(app, request, token, body, body.len()).await
    }

    /// The same with a body that is said to be as long as `length`.
    async fn announced(
        app: &Application,
        request: &str,
        token: &str,
        body: &str,
        length: usize,
    ) -> (u16, Value) {
        let mut stream = TcpStream::connect(app.admin_address()).await.unwrap();
        let request = format!(
            "{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    async fn active(app: &Application) -> Vec<String> {
        let (_, page) = ask(app, "GET /overrides", "", "").await;
        let (_, status) = ask(app, "GET /status", "", "").await;
        let named = |value: &Value| -> Vec<String> {
            let read: OverrideStatus = serde_json::from_value(value.clone()).unwrap();
            read.active.into_iter().map(|active| active.service).collect()
        };
        assert_eq!(named(&page), named(&status["overrides"]));
        named(&page)
    }

    #[tokio::test]
    async fn who_has_the_token_overrides_and_nobody_else() {
        let folder = std::env::temp_dir().join(format!("rsf-overrides-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("token");
        std::fs::write(&file, TOKEN).unwrap();
        let app = consumer(&folder, Some(file)).await;
        assert!(active(&app).await.is_empty());
        let refused = [
            (
                "PUT /overrides/a.A",
                "wrong-wrong-wrong",
                PINNED,
                401,
                "RSF_ADMIN_TOKEN_FILE",
            ),
            (
                "DELETE /overrides/a.A",
                "wrong-wrong-wrong",
                "",
                401,
                "RSF_ADMIN_TOKEN_FILE",
            ),
            ("DELETE /overrides/a.A", TOKEN, "", 404, "nothing is pushed"),
            ("PUT /overrides/a.A", TOKEN, "", 400, "ttl_ms"),
            (
                "PUT /overrides/a.A",
                TOKEN,
                r#"{"override": {"pin": []}}"#,
                400,
                "ttl_ms",
            ),
            (
                "PUT /overrides/a.A",
                TOKEN,
                r#"{"ttl_ms": 1, "override": {"pin": []}}"#,
                400,
                "TTL",
            ),
            (
                "PUT /overrides/a.A",
                TOKEN,
                r#"{"ttl_ms": 2000, "override": {}}"#,
                400,
                "says nothing",
            ),
            (
                "PUT /overrides/a.A",
                TOKEN,
                r#"{"ttl_ms": 2000, "override": {"pin": ["x"]}}"#,
                400,
                "host:port",
            ),
        ];
        for (request, token, body, status, why) in refused {
            let (code, answer) = ask(&app, request, token, body).await;
            let reason: Refused = serde_json::from_value(answer).unwrap();
            assert!(
                code == status && reason.error.contains(why),
                "{request} {body}: {code} {reason:?}"
            );
        }
        assert!(active(&app).await.is_empty());
        // Without the token nobody waits for a body, however long it is said to be.
        let (code, _) = announced(&app, "PUT /overrides/a.A", "wrong-wrong-wrong", "", 1 << 30).await;
        assert_eq!(code, 401);
        let long = " ".repeat(MAX_BODY + 1);
        let (code, answer) = ask(&app, "PUT /overrides/a.A", TOKEN, &long).await;
        assert_eq!(code, 413);
        assert!(answer["error"].as_str().unwrap().contains("8 MiB"), "{answer}");
        // Longer than what a framework would take unasked.
        let long = format!("{PINNED}{}", " ".repeat(MAX_BODY - PINNED.len()));
        let (code, _) = ask(&app, "PUT /overrides/a.A", TOKEN, &long).await;
        assert_eq!((code, active(&app).await), (200, vec!["a.A".to_owned()]));
        let (code, _) = ask(&app, "DELETE /overrides/a.A", TOKEN, "").await;
        assert_eq!(code, 200);
        let (code, _) = ask(&app, "PUT /overrides/a.A%3Agold", TOKEN, PINNED).await;
        assert_eq!((code, active(&app).await), (200, vec!["a.A:gold".to_owned()]));
        let (code, _) = ask(&app, "DELETE /overrides/a.A%3Agold", TOKEN, "").await;
        assert_eq!((code, active(&app).await), (200, Vec::new()));
        std::fs::remove_file(folder.join("token")).unwrap();
        let (code, answer) = ask(&app, "PUT /overrides/a.A", "wrong-wrong-wrong", PINNED).await;
        let told = answer["error"].as_str().unwrap();
        assert!(
            code == 503 && !told.contains(folder.to_str().unwrap()),
            "{code} {told}"
        );
        app.shutdown().await;

        let app = consumer(&folder, None).await;
        let (code, _) = ask(&app, "PUT /overrides/a.A", "", PINNED).await;
        assert_eq!((code, active(&app).await), (403, Vec::new()));
        app.shutdown().await;
        std::fs::remove_dir_all(folder).unwrap();
    }
}
