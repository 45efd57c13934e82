//! Unchanged tonic clients over a channel: routed, balanced and broken like every call, but not retried.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::attempt;
use super::breaker::{Admission, Failure};
use super::channel::Channel;
use super::endpoint::Endpoint;
use crate::outcome::Reason;
use crate::status::Status;
use crate::wire::Fate;
use crate::wire::headers::{CALLER, TARGET, TOKEN, without_reason};
use crate::wire::status_header::{from_http, read_status};

/// A `tower::Service` that tonic's generated clients take as their transport:
/// `GreeterClient::new(app.tonic_channel("greet.v1.Greeter"))`.
#[derive(Clone)]
pub struct TonicChannel {
    channel: Channel,
}

impl TonicChannel {
    pub(super) fn new(channel: Channel) -> Self {
        TonicChannel { channel }
    }
}

type Answer = Result<http::Response<tonic::body::Body>, tonic::Status>;

impl tower::Service<http::Request<tonic::body::Body>> for TonicChannel {
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::Status;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<tonic::body::Body>) -> Self::Future {
        let channel = self.channel.clone();
        Box::pin(async move {
            let state = channel.state();
            let snapshot = state
                .snapshot(None)
                .await
                .map_err(|error| refusal(&error.to_string()))?;
            let now = Instant::now();
            let endpoint = snapshot.pools[0].pick(None, &[], now);
            let endpoint = endpoint.ok_or_else(|| refusal(&snapshot.explain_empty(&state.key)))?;
            let mut pass = Pass::through(endpoint.clone(), now);
            let place = endpoint.enter();
            let linked = match endpoint.connection() {
                Some(linked) => linked,
                None => match endpoint.connecting().await {
                    Ok(linked) => linked,
                    Err(error) => {
                        pass.failed();
                        return Err(refusal(&format!("{} ({error})", Reason::Connect)));
                    }
                },
            };
            if let Some(caller) = &state.shared.caller {
                request.headers_mut().insert(CALLER, caller.clone());
            }
            if let Some(token) = state.shared.token.header() {
                request.headers_mut().insert(TOKEN, token);
            }
            if let Some(target) = endpoint.target_to_verify(&linked) {
                request.headers_mut().insert(TARGET, target);
            }
            match linked.connection.http(request).await {
                Ok(response) => {
                    pass.answered(&response);
                    // The place is held until the body has been read to its end or dropped.
                    let response = without_reason(response);
                    Ok(response.map(|body| tonic::body::Body::new(HeldBody { body, _place: place })))
                }
                Err(error) => {
                    if error.fate == Fate::Written {
                        pass.failed();
                    }
                    Err(refusal(&error.reason))
                }
            }
        })
    }
}

/// A call's pass through its instance's breaker. Dropped unsettled it says nothing, so that a client that goes away
/// does not keep the one trial of an ejected instance for ever.
struct Pass {
    endpoint: Arc<Endpoint>,
    admission: Admission,
}

impl Pass {
    fn through(endpoint: Arc<Endpoint>, now: Instant) -> Pass {
        let admission = endpoint.breaker.admit(now);
        Pass { endpoint, admission }
    }

    /// A status in the headers (trailers-only) goes by the outcome table like that of every call. Once a stream has
    /// begun, its instance has answered, however the stream ends.
    fn answered(&mut self, response: &http::Response<tonic::body::Body>) {
        let error = match read_status(response.headers()) {
            Some(Some(status)) => Some(attempt::answered(status)),
            Some(None) => None,
            None if response.status() == http::StatusCode::OK => None,
            None => Some(attempt::answered(Status::new(from_http(response.status()), ""))),
        };
        attempt::settle(&self.endpoint, &mut self.admission, error.as_ref());
    }

    fn failed(&mut self) {
        let breaker = &self.endpoint.breaker;
        breaker.failed(&mut self.admission, Failure::Error, Instant::now());
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.endpoint.breaker.release(&mut self.admission);
    }
}

fn refusal(message: &str) -> tonic::Status {
    tonic::Status::unavailable(message)
}

/// A response body that keeps its call's pending place.
struct HeldBody {
    body: tonic::body::Body,
    _place: super::endpoint::PendingPlace,
}

impl http_body::Body for HeldBody {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
