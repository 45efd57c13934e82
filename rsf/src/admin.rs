//! The admin port: metrics, health, status. The service port speaks gRPC only.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{Encoder, Registry, TextEncoder};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use rsf_core::client::ChannelView;

/// What the admin port shows.
pub(crate) struct AdminPage {
    pub(crate) metrics: Registry,
    pub(crate) status: Box<dyn Fn() -> Status + Send + Sync>,
}

/// The process as `/status` shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    pub(crate) application: String,
    pub(crate) instance: String,
    pub(crate) incarnation: u64,
    pub(crate) namespace: String,
    pub(crate) address: String,
    pub(crate) zone: String,
    pub(crate) version: &'static str,
    /// Whether its lease is in the registry, as far as is known.
    pub(crate) registered: bool,
    /// Why the last attempt to register or renew failed.
    pub(crate) registry_error: Option<String>,
    pub(crate) draining: bool,
    pub(crate) provides: Vec<String>,
    pub(crate) calls: Vec<ChannelView>,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, page: Arc<AdminPage>, shutdown: CancellationToken) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(page);
    let served = axum::serve(listener, routes)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::warn!(%error, "the admin port has ended");
    }
}

async fn metrics(State(page): State<Arc<AdminPage>>) -> Response {
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    match encoder.encode(&page.metrics.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Ready while it takes calls: not draining. A registry that is down makes nobody unready.
async fn ready(State(page): State<Arc<AdminPage>>) -> Response {
    if (page.status)().draining {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()
    } else {
        "ready\n".into_response()
    }
}

async fn status(State(page): State<Arc<AdminPage>>) -> Json<Status> {
    Json((page.status)())
}
