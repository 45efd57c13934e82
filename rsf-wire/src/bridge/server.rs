//! A host for `tower::Service`s, and the steps it is made of.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Buf;
use parking_lot::Mutex;

use super::BoxError;
use super::body::Body;
use super::fields::{append, header_map, is_grpc};
use super::pump::Pump;
use crate::frame::ErrorCode;
use crate::hpack::{Headers, Literals};
use crate::server::{Answer, Call, Handler, Handling, Route, Serving, StreamingCall};

/// Hosts a service of HTTP requests: tonic's generated ones, tonic's `Routes`, axum's `Router`. Each request gets a clone.
pub struct Host<S> {
    // Services are Send, and not all are Sync.
    service: Mutex<S>,
}

impl<S> Host<S> {
    /// A host of this service.
    pub fn new(service: S) -> Arc<Host<S>> {
        let service = Mutex::new(service);
        Arc::new(Host { service })
    }
}

impl<S, B> Handler for Host<S>
where
    S: tower_service::Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: http_body::Body<Data: Buf + Send, Error: Into<BoxError>> + Send + 'static,
{
    fn route(&self, _: &Headers) -> Route {
        Route::Streaming
    }

    fn call(&self, _: Call) -> Option<Handling> {
        None
    }

    fn stream(&self, call: StreamingCall) -> Serving {
        let mut service = self.service.lock().clone();
        Box::pin(async move {
            let Some((request, answer)) = request(call) else {
                return;
            };
            let head = *request.method() == http::Method::HEAD;
            let Ok(()) = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            let Ok(response) = service.call(request).await;
            respond(answer, response, head).await;
        })
    }
}

/// What arrived as an `http::Request`. `None` where its path or method is none: it is answered by 400.
pub fn request(call: StreamingCall) -> Option<(http::Request<Body>, Answer)> {
    let StreamingCall {
        headers,
        body,
        answer,
    } = call;
    let Some((method, uri)) = target(&headers) else {
        let mut fields = Literals::new();
        // A status is valid in any header block.
        let _ = fields.push(":status", b"400");
        answer.head(fields, true);
        return None;
    };
    let mut request = http::Request::new(Body::request(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = header_map(&headers);
    Some((request, answer))
}

fn target(headers: &Headers) -> Option<(http::Method, http::Uri)> {
    let method = http::Method::from_bytes(headers.get(":method")?).ok()?;
    let path = http::uri::PathAndQuery::try_from(headers.get(":path")?).ok()?;
    let mut uri = http::uri::Parts::default();
    if let Some(authority) = headers.get(":authority")
        && let Ok(authority) = http::uri::Authority::try_from(authority)
    {
        let encrypted = headers.get(":scheme") == Some(b"https".as_slice());
        uri.scheme = Some(match encrypted {
            true => http::uri::Scheme::HTTPS,
            false => http::uri::Scheme::HTTP,
        });
        uri.authority = Some(authority);
    }
    uri.path_and_query = Some(path);
    Some((method, http::Uri::from_parts(uri).ok()?))
}

/// Answers with a response, its body at the pace of windows and socket. `head` where the request was for headers alone.
pub async fn respond<B>(answer: Answer, response: http::Response<B>, head: bool)
where
    B: http_body::Body<Data: Buf + Send, Error: Into<BoxError>> + Send + 'static,
{
    let (parts, body) = response.into_parts();
    let end = head || body.is_end_stream();
    let mut fields = Literals::with_capacity(128);
    if parts.status == http::StatusCode::OK && is_grpc(&parts.headers) && !end {
        append(&parts.headers, true, &mut fields);
        return Pump::new(answer.grpc(fields), body, ErrorCode::INTERNAL_ERROR).await;
    }
    // A status is valid in any header block.
    let _ = fields.push(":status", parts.status.as_str().as_bytes());
    append(&parts.headers, false, &mut fields);
    let outgoing = answer.head(fields, end);
    if !end {
        Pump::new(outgoing, body, ErrorCode::INTERNAL_ERROR).await;
    }
}
