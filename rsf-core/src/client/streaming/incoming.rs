//! A response's body: it holds its call's pending place, keeps its deadline, and ends in the verdict on the instance.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::client::attempt;
use crate::client::balance::Observed;
use crate::client::breaker::{Admission, Failure, Standing};
use crate::client::endpoint::Endpoint;
use crate::moment::Moment;
use crate::status::Status;
use crate::wire::status_header::{from_http, read_status};

/// A try's place among its instance's pending calls, and its pass through the breaker. Dropped unsettled it says nothing
/// but where the deadline has passed in silence, so that a client that goes away does not keep the one trial of an
/// ejected instance for ever.
pub(super) struct Pass {
    endpoint: Arc<Endpoint>,
    admission: Admission,
    begun: Moment,
    deadline: Option<Moment>,
    fair_time: Duration,
    /// Something has come back.
    answered: bool,
}

impl Pass {
    pub(super) fn through(
        endpoint: Arc<Endpoint>,
        now: Moment,
        deadline: Option<Moment>,
        policy: Duration,
    ) -> Pass {
        endpoint.enter();
        Pass {
            admission: endpoint.breaker.admit(now),
            begun: now,
            deadline,
            fair_time: attempt::fair_time(policy),
            answered: false,
            endpoint,
        }
    }

    /// The response's headers are there. Whether a stream follows; where the whole answer is in them, that is the
    /// verdict.
    pub(super) fn begins(&mut self, response: &http::Response<tonic::body::Body>) -> bool {
        let ok = response.status() == http::StatusCode::OK;
        match read_status(response.headers()) {
            None if ok => return true,
            None => {
                let status = Status::new(from_http(response.status()), "");
                self.ends(Some(status));
            }
            Some(status) => self.ends(status),
        }
        false
    }

    /// A message of the stream is there. One from an instance on trial is enough: its stream may go on for days.
    fn goes_on(&mut self) {
        if !self.answered && self.endpoint.breaker.standing(Moment::now()) != Standing::Closed {
            self.endpoint.breaker.succeeded(&mut self.admission);
        }
        self.answered = true;
    }

    /// The status is there; it goes by the outcome table like that of every call.
    fn ends(&mut self, status: Option<Status>) {
        self.answered = true;
        let now = Moment::now();
        let overdue = self.deadline.is_some_and(|end| now >= end);
        let error = status.map(|status| attempt::answered(status, overdue));
        if self.admission.is_settled() {
            // A trial that had begun well.
            self.admission = self.endpoint.breaker.admit(now);
        }
        let fair = now.since(self.begun) >= self.fair_time;
        let observed = attempt::settle(&self.endpoint, &mut self.admission, error.as_ref(), fair, now);
        if let Some(observed) = observed.filter(|observed| *observed != Observed::Answered) {
            // How long a stream lasts says nothing about its instance, but that it failed does.
            self.endpoint.observe(now, now.since(self.begun), observed);
        }
    }

    pub(super) fn failed(&mut self) {
        self.fails(Failure::Error);
    }

    /// No response came in time.
    pub(super) fn timed_out(&mut self) {
        self.fails(Failure::Timeout);
    }

    fn fails(&mut self, failure: Failure) {
        let now = Moment::now();
        if self.admission.is_settled() {
            // A trial that had begun well.
            self.admission = self.endpoint.breaker.admit(now);
        }
        self.endpoint.breaker.failed(&mut self.admission, failure, now);
        self.endpoint
            .observe(now, now.since(self.begun), Observed::Failed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let now = Moment::now();
        let over = self.deadline.is_some_and(|end| now >= end);
        if !self.admission.is_settled() && !self.answered && over && now.since(self.begun) >= self.fair_time {
            self.timed_out();
        }
        self.endpoint.breaker.release(&mut self.admission);
        self.endpoint.leave();
    }
}

/// The response's body.
pub(super) struct Incoming {
    /// `None` after the end.
    body: Option<tonic::body::Body>,
    pass: Pass,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(super) fn new(body: tonic::body::Body, pass: Pass, timer: Option<Pin<Box<Sleep>>>) -> Incoming {
        Incoming {
            body: Some(body),
            pass,
            timer,
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        if let Some(timer) = &mut this.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            // Dropping the body cancels at the provider.
            this.body = None;
            let problem = "the stream did not end in time (grpc-timeout of the caller)";
            return Poll::Ready(Some(Err(tonic::Status::deadline_exceeded(problem))));
        }
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match frame.trailers_ref() {
                None => this.pass.goes_on(),
                // Without a status it is no gRPC; the client says so.
                Some(trailers) => this.pass.ends(read_status(trailers).flatten()),
            },
            // The connection broke, or the peer reset the stream.
            Some(Err(_)) => this.pass.failed(),
            None => this.body = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
