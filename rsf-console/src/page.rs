//! The web page: files embedded in the binary, served without a session because they hold no data.

use std::sync::Arc;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use http::header;

use crate::api::Shared;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! file {
    ($path:literal, $kind:ident) => {
        (
            concat!("/", $path),
            $kind,
            include_str!(concat!("../web/", $path)),
        )
    };
}

/// Path, content type, content.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("../web/index.html")),
    file!("style.css", CSS),
    file!("icon.svg", SVG),
    file!("app.js", JS),
    file!("api.js", JS),
    file!("dom.js", JS),
    file!("format.js", JS),
    file!("i18n.js", JS),
    file!("views/login.js", JS),
    file!("views/overview.js", JS),
    file!("views/service.js", JS),
    file!("views/policies.js", JS),
    file!("views/audit.js", JS),
];

pub(crate) fn routes() -> Router<Arc<Shared>> {
    FILES.iter().fold(Router::new(), |router, (path, kind, content)| {
        router.route(
            path,
            get(move || async move { ([(header::CONTENT_TYPE, *kind)], *content).into_response() }),
        )
    })
}
