//! A connection as a `tower::Service` of HTTP requests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;

use super::BoxError;
use super::body::Body;
use super::fields::{append, header_map, is_grpc};
use super::pump::Pump;
use crate::client::{CallError, Client, Fate, Head};
use crate::frame::ErrorCode;
use crate::hpack::{Headers, Literals};
use crate::stream::{Incoming, StreamError};

/// Sends `http::Request`s over a connection, streams included. Must be called within a tokio runtime: a body that is not
/// ready at once is sent by a task of its own.
#[derive(Clone)]
pub struct HttpClient {
    client: Arc<Client>,
}

impl HttpClient {
    /// Over this connection, which lives for as long as somebody holds it.
    pub fn new(client: Arc<Client>) -> HttpClient {
        HttpClient { client }
    }

    /// Sends a request. Its authority is the connection's, whatever its URI says.
    pub fn send<B>(&self, request: http::Request<B>) -> ResponseFuture
    where
        B: http_body::Body<Data: Buf + Send, Error: Into<BoxError>> + Send + 'static,
    {
        let (parts, body) = request.into_parts();
        let path = match parts.uri.path_and_query() {
            Some(path) => path.as_str(),
            None => "/",
        };
        let grpc = parts.method == http::Method::POST && is_grpc(&parts.headers);
        let mut fields = Literals::with_capacity(256);
        append(&parts.headers, grpc, &mut fields);
        let head = Head {
            method: parts.method.as_str(),
            path,
            authority: None,
            grpc,
            fields,
        };
        if body.is_end_stream() {
            let incoming = self.client.open(head, true).incoming;
            return self.answer(incoming);
        }
        let opened = self.client.open(head, false);
        let mut pump = Box::pin(Pump::new(opened.outgoing, body, ErrorCode::CANCEL));
        // Mostly the body is there: then nobody needs to be told when there is room.
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        if pump.as_mut().poll(&mut nobody).is_pending() {
            tokio::spawn(pump);
        }
        self.answer(opened.incoming)
    }

    fn answer(&self, incoming: Incoming) -> ResponseFuture {
        let client = self.client.clone();
        ResponseFuture(Some((incoming, client)))
    }
}

impl<B> tower_service::Service<http::Request<B>> for HttpClient
where
    B: http_body::Body<Data: Buf + Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = CallError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> ResponseFuture {
        self.send(request)
    }
}

/// Resolves to the response when its headers have come. Dropping it cancels the call.
pub struct ResponseFuture(Option<(Incoming, Arc<Client>)>);

impl Future for ResponseFuture {
    type Output = Result<http::Response<Body>, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((incoming, _)) = &mut self.0 else {
            return Poll::Ready(Err(failed("the response was taken already")));
        };
        let headers = ready!(incoming.poll_head(cx)).map_err(StreamError::into);
        let Some((incoming, client)) = self.0.take() else {
            return Poll::Pending;
        };
        let headers: Headers = match headers {
            Ok(headers) => headers,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let status = headers.get(":status").unwrap_or_default();
        let Ok(status) = http::StatusCode::from_bytes(status) else {
            return Poll::Ready(Err(failed("the response has no valid status")));
        };
        let mut response = http::Response::new(Body::new(incoming, Some(client)));
        *response.status_mut() = status;
        *response.version_mut() = http::Version::HTTP_2;
        *response.headers_mut() = header_map(&headers);
        Poll::Ready(Ok(response))
    }
}

fn failed(reason: &str) -> CallError {
    CallError {
        fate: Fate::Written,
        reason: reason.into(),
    }
}
