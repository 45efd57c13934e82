//! A pump's admin port: metrics, health and status for everybody; ending holds for whoever has the token.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use rsf::admin::{self, AdminPage};
use rsf_console::Token;
use rsf_pump::{PumpHandle, Role};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What `POST /release` is asked: one service, or all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Release {
    /// The key of one service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    /// Every service; stands instead of `service`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) all: bool,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Released {
    /// How many holds ended.
    pub(crate) released: usize,
}

/// Why it did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) error: String,
}

/// Serves a pump's admin port until `shutdown`. Without a token nobody can end a hold here.
pub(crate) async fn serve(
    listener: TcpListener,
    pump: PumpHandle,
    metrics: prometheus::Registry,
    token: Option<Token>,
    shutdown: CancellationToken,
) {
    let commands = Router::new()
        .route("/release", post(release))
        .with_state(Arc::new(Commands {
            pump: pump.clone(),
            token,
        }));
    admin::serve_with(listener, page(pump, metrics), commands, shutdown).await;
}

/// A standby is ready: it can take over. A leader is while its sources cover what it published.
fn page(handle: PumpHandle, metrics: prometheus::Registry) -> Arc<AdminPage> {
    let asked = handle.clone();
    Arc::new(AdminPage {
        metrics,
        ready: Box::new(move || {
            let status = asked.status();
            status.ready || status.role == Role::Standby
        }),
        status: Box::new(move || serde_json::to_value(&*handle.status()).unwrap_or_default()),
    })
}

struct Commands {
    pump: PumpHandle,
    token: Option<Token>,
}

async fn release(State(port): State<Arc<Commands>>, headers: HeaderMap, body: String) -> Response {
    if let Err(refused) = port.authenticate(&headers) {
        return refused;
    }
    let service = match serde_json::from_str(&body) {
        Ok(Release {
            service: Some(service),
            all: false,
        }) => Some(service),
        Ok(Release {
            service: None,
            all: true,
        }) => None,
        Ok(_) => {
            let either = r#"give {"service": "<key>"} or {"all": true}"#;
            return refuse(StatusCode::BAD_REQUEST, either);
        }
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    if port.pump.status().role != Role::Leading {
        let other = "this pump does not lead, so its holds are in no list: ask the pump that leads";
        return refuse(StatusCode::CONFLICT, other);
    }
    match port.pump.end_hold(service).await {
        Ok(released) => Json(Released { released }).into_response(),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

impl Commands {
    #[allow(clippy::result_large_err, reason = "the refusal is the answer")]
    fn authenticate(&self, headers: &HeaderMap) -> Result<(), Response> {
        let Some(token) = &self.token else {
            let none = "this pump has no token, so nobody can end its holds: start it with --token-file or \
                        RSF_PUMP_TOKEN_FILE";
            return Err(refuse(StatusCode::FORBIDDEN, none));
        };
        let offered = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        if offered.is_some_and(|offered| token.is(offered)) {
            return Ok(());
        }
        let wrong = "send `Authorization: Bearer <token>` with the token that the pump was started with";
        Err(refuse(StatusCode::UNAUTHORIZED, wrong))
    }
}

fn refuse(status: StatusCode, error: &str) -> Response {
    let error = error.to_owned();
    (status, Json(Refused { error })).into_response()
}
