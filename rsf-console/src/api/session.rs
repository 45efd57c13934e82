//! Browser sessions: `/login` and `/logout`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{AppendHeaders, IntoResponse, Redirect, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use super::Shared;
use super::error::{ApiError, Body, Query};
use crate::auth::CSRF_HEADER;

#[derive(Deserialize)]
pub(super) struct Login {
    #[serde(default)]
    token: String,
}

/// The link that a terminal prints: begins a session and leads to the page, where the token is out of the address.
pub(super) async fn open_with_link(
    State(shared): State<Arc<Shared>>,
    Query(login): Query<Login>,
) -> Result<Response, ApiError> {
    if login.token.is_empty() {
        return Ok(Redirect::to("/").into_response());
    }
    let cookie = begin(&shared, &login)?;
    Ok((AppendHeaders([(header::SET_COOKIE, cookie)]), Redirect::to("/")).into_response())
}

/// The page's own form.
pub(super) async fn open(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Body(login): Body<Login>,
) -> Result<Response, ApiError> {
    own(&headers)?;
    let cookie = begin(&shared, &login)?;
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        StatusCode::NO_CONTENT,
    )
        .into_response())
}

pub(super) async fn close(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    own(&headers)?;
    let cookie = shared.sessions.end(&headers);
    Ok((
        AppendHeaders([(header::SET_COOKIE, cookie)]),
        StatusCode::NO_CONTENT,
    )
        .into_response())
}

fn begin(shared: &Shared, login: &Login) -> Result<String, ApiError> {
    if !shared.token.is(login.token.trim()) {
        return Err(ApiError::unauthorized());
    }
    shared.sessions.begin().map_err(|error| {
        ApiError::unavailable(format!("the system has no randomness for a session: {error}"))
    })
}

fn own(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(CSRF_HEADER) {
        Ok(())
    } else {
        Err(ApiError::forged())
    }
}
