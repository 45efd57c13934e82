//! The admin port: metrics, health, status, snapshots for peers, and an operator's overrides. The service port speaks gRPC only.

pub(crate) mod snapshots;

pub mod overrides;
pub(crate) mod token;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a process's admin port shows.
pub struct AdminPage {
    /// `GET /metrics`, in Prometheus' text form.
    pub metrics: Registry,
    /// `GET /readyz`: 200 while it is true, else 503.
    pub ready: Box<dyn Fn() -> bool + Send + Sync>,
    /// `GET /status`, JSON.
    pub status: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
}

/// Serves `/metrics`, `/healthz`, `/readyz` and `/status` until `shutdown`. Applications have this by themselves; it is
/// for processes that are none, such as a pump.
pub async fn serve(listener: TcpListener, page: Arc<AdminPage>, shutdown: CancellationToken) {
    serve_with(listener, page, Router::new(), shutdown).await;
}

/// Serves routes of the process's own besides. What they change they must guard: the other pages are open to whoever
/// reaches the port.
pub async fn serve_with(
    listener: TcpListener,
    page: Arc<AdminPage>,
    own: Router,
    shutdown: CancellationToken,
) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route(
            "/status",
            get(|State(page): State<Arc<AdminPage>>| async move { Json((page.status)()) }),
        )
        .with_state(page)
        .merge(own);
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

async fn ready(State(page): State<Arc<AdminPage>>) -> Response {
    match (page.ready)() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}
