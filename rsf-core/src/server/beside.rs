//! What RSF answers itself beside the services: health and reflection, whose streams end with the instance.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::status::Status;
use crate::wire::status_header::write_status;

/// Health and both versions of reflection.
pub(super) const BESIDE: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// A response whose stream ends when the instance does. A health watch never ends by itself, and would keep a graceful
/// end waiting for all of its time.
pub(super) fn ending_with(
    end: &CancellationToken,
    response: http::Response<tonic::body::Body>,
) -> http::Response<tonic::body::Body> {
    let ended = Box::pin(end.clone().cancelled_owned());
    response.map(|body| {
        tonic::body::Body::new(Ending {
            body,
            ended,
            over: false,
        })
    })
}

struct Ending {
    body: tonic::body::Body,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
}

impl Body for Ending {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        // What there is goes out first: the last word of a health watch is that the instance does not serve.
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        std::task::ready!(this.ended.as_mut().poll(cx));
        this.over = true;
        let mut trailers = http::HeaderMap::new();
        write_status(
            &Status::unavailable("the instance ends; ask another one"),
            &mut trailers,
        );
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    /// A trailers-only answer must end with its headers: an empty DATA frame behind them is an error to gRPC's clients.
    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
