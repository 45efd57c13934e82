//! What the adapter says about itself: the list of methods, with a `curl` for each, and an OpenAPI document.

mod openapi;
mod sample;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{HeaderMap, Response};
use http_body_util::Full;
use serde::Serialize;

use crate::catalog::{Entry, Table};
use crate::config::AdapterConfig;
use crate::reply;
use crate::schema::MethodSchema;

pub(crate) use openapi::openapi;

#[derive(Debug, Serialize)]
struct Index {
    services: Vec<ServiceView>,
}

#[derive(Debug, Serialize)]
struct ServiceView {
    service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    implementation: Option<String>,
    /// Why it cannot be called, where it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<String>,
    methods: Vec<MethodView>,
}

#[derive(Debug, Serialize)]
struct MethodView {
    method: String,
    path: String,
    verbs: &'static [&'static str],
    input: String,
    output: String,
    /// A request to start from; absent for streaming methods, which the adapter does not serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    curl: Option<String>,
}

/// The list of methods: HTML for browsers, JSON for everybody else.
pub(crate) fn index(table: &Table, config: &AdapterConfig, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let base = format!("http://{}{}", host(config, headers), config.prefix);
    let services = table
        .services
        .iter()
        .map(|(key, entry)| service_view(key, entry, &config.prefix, &base))
        .collect();
    let index = Index { services };
    let html = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|a| a.contains("text/html"));
    if html {
        return reply::page("text/html; charset=utf-8", html_page(&index, &config.prefix));
    }
    reply::page(
        "application/json",
        serde_json::to_vec_pretty(&index).unwrap_or_default(),
    )
}

fn service_view(key: &str, entry: &Entry, prefix: &str, base: &str) -> ServiceView {
    let (service, implementation) = match key.split_once(':') {
        Some((service, implementation)) => (service, Some(implementation)),
        None => (key, None),
    };
    let (unavailable, methods) = match entry {
        Entry::Unreadable(reason) => (Some(reason.to_string()), Vec::new()),
        Entry::Ready(ready) => {
            let view = |method: &MethodSchema| method_view(service, implementation, method, prefix, base);
            (None, ready.schema.methods.iter().map(view).collect())
        }
    };
    ServiceView {
        service: service.to_owned(),
        implementation: implementation.map(str::to_owned),
        unavailable,
        methods,
    }
}

fn method_view(
    service: &str,
    implementation: Option<&str>,
    method: &MethodSchema,
    prefix: &str,
    base: &str,
) -> MethodView {
    let path = format!("/{service}/{}", method.name);
    let selector = implementation
        .map(|name| format!(" -H 'rsf-implementation: {name}'"))
        .unwrap_or_default();
    let curl = method.number.map(|_| {
        // A sample holds names out of the schema only, and those have no apostrophes.
        let sample = sample::of(&method.input);
        format!("curl -sS {base}{path} -H 'content-type: application/json'{selector} -d '{sample}'")
    });
    MethodView {
        method: method.name.clone(),
        path: format!("{prefix}{path}"),
        verbs: match (method.number, method.no_side_effects) {
            (None, _) => &[],
            (_, true) => &["POST", "GET"],
            (_, false) => &["POST"],
        },
        input: method.input.full_name().to_owned(),
        output: method.output.full_name().to_owned(),
        curl,
    }
}

/// The host that the caller used, where it can stand in a shell command unquoted; else the configured address.
fn host(config: &AdapterConfig, headers: &HeaderMap) -> String {
    let sent = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    if !sent.is_empty() && sent.chars().all(plain) {
        sent.to_owned()
    } else {
        config.listen().to_string()
    }
}

fn html_page(index: &Index, prefix: &str) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>RSF methods</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;\
         padding:0 1em}pre{overflow:auto;padding:.6em;border:1px solid #8886;border-radius:4px}\
         :root{color-scheme:light dark}</style><h1>Methods</h1>",
    );
    out.push_str(&format!(
        "<p>The same for tools: <a href='{prefix}/openapi.json'>OpenAPI</a>, or this page with \
         <code>accept: application/json</code>.</p>"
    ));
    if index.services.is_empty() {
        out.push_str("<p>No service is registered yet.</p>");
    }
    for service in &index.services {
        out.push_str(&format!("<h2>{}", escape(&service.service)));
        if let Some(implementation) = &service.implementation {
            out.push_str(&format!(
                " <small>implementation {}</small>",
                escape(implementation)
            ));
        }
        out.push_str("</h2>");
        if let Some(reason) = &service.unavailable {
            out.push_str(&format!("<p>Cannot be called: {}</p>", escape(reason)));
        }
        for method in &service.methods {
            let title = [&method.method, &method.input, &method.output].map(|name| escape(name));
            out.push_str(&format!(
                "<h3>{} <small>{} → {}</small></h3>",
                title[0], title[1], title[2]
            ));
            match &method.curl {
                Some(curl) => out.push_str(&format!("<pre>{}</pre>", escape(curl))),
                None => out.push_str("<p>Streams; not served over HTTP.</p>"),
            }
        }
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}
