//! The REST API under `/api/v1`: its routes, and what every request passes on its way.

mod error;
mod policies;
mod services;
mod session;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, Method, header};
use rsf_core::policy::document::MAX_DOCUMENT_BYTES;

use crate::auth::{CSRF_HEADER, Caller, Sessions, Token, caller};
use crate::fleet::Fleet;
use crate::publish::Publisher;
use crate::stats::StatsCollector;
use crate::{Console, ConsoleConfig, Parts, page};

pub(crate) use error::ApiError;

/// A document may come as a JSON string, whose escapes can double it; the rest of the request is small.
const MAX_BODY_BYTES: usize = 2 * MAX_DOCUMENT_BYTES + 16 * 1024;

/// What the handlers share.
pub(crate) struct Shared {
    pub(crate) config: Arc<ConsoleConfig>,
    pub(crate) token: Token,
    pub(crate) sessions: Sessions,
    pub(crate) parts: Parts,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) stats: Arc<StatsCollector>,
}

impl Shared {
    pub(crate) fn new(console: Console, port: u16) -> Self {
        Shared {
            config: console.config,
            token: console.token,
            sessions: Sessions::new(port),
            parts: console.parts,
            publisher: console.publisher,
            fleet: console.fleet,
            stats: console.stats,
        }
    }
}

/// Page and API. A request passes the host check, then (under `/api`) authentication, then its handler.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let scope = Router::new()
        .route(
            "/",
            get(policies::read)
                .put(policies::put)
                .patch(policies::patch)
                .delete(policies::delete),
        )
        .route("/history", get(policies::history))
        .route("/diff", get(policies::diff))
        .route("/preview", post(policies::preview))
        .route("/rollback", post(policies::rollback))
        .route("/acknowledgements", get(policies::acknowledgements));
    let api = Router::new()
        .route("/status", get(services::status))
        .route("/services", get(services::services))
        .route("/services/{key}", get(services::service))
        .route("/instances", get(services::instances))
        .route("/stats", get(services::stats))
        .route("/pump", get(services::pump))
        .route("/policies", get(policies::all))
        .nest("/policies/fleet", scope.clone())
        .nest("/policies/{kind}/{name}", scope)
        .route("/audit", get(policies::audit))
        .route("/fields", get(policies::fields))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(shared.clone(), authenticate));
    Router::new()
        .nest("/api/v1", api)
        .route("/login", get(session::open_with_link).post(session::open))
        .route("/logout", post(session::close))
        .merge(page::routes())
        .fallback(error::no_such_path)
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Refuses foreign host names, and sets the headers that keep a browser strict.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok())
        .or_else(|| request.uri().authority().map(|authority| authority.as_str()))
        .unwrap_or_default();
    let mut response = if shared.config.allows_host(host) {
        next.run(request).await
    } else {
        ApiError::foreign_host(host).into_response()
    };
    const HEADERS: [(HeaderName, &str); 5] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets through who brings the token or a session, and the page's writes only with the header that proves them its own.
async fn authenticate(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let Some(caller) = caller(&shared.token, &shared.sessions, request.headers()) else {
        return ApiError::unauthorized().into_response();
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if caller == Caller::Session && !reads && !request.headers().contains_key(CSRF_HEADER) {
        return ApiError::forged().into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}
