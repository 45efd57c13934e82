//! Streaming requests: a task for each, what it orders, and what the peer says to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::AbortHandle;

use super::connection::{ServerConnection, Stage, Stream};
use super::running::Replies;
use super::{Handler, Response};
use crate::client::Fate;
use crate::frame::{self, ConnectionError, ErrorCode};
use crate::hpack::{Headers, Literals};
use crate::message::Announced;
use crate::outbound::Trailers;
use crate::refusals::Refusal;
use crate::stream::{Incoming, Link, Order, Outgoing, Pipe, StreamError, Unfit, halves};

const INTERNAL: u32 = 13;

/// A request whose body and answer are streams.
pub struct StreamingCall {
    /// Headers, `:path` included.
    pub headers: Headers,
    /// The request's body.
    pub body: Incoming,
    /// Where the answer goes.
    pub answer: Answer,
}

/// The answer to a streaming request. Dropped before its headers were sent, the peer is told that this server failed.
pub struct Answer {
    outgoing: Outgoing,
}

impl Answer {
    /// Sends the headers of a gRPC response: `fields` beside `:status` and `content-type`.
    pub fn grpc(mut self, fields: Literals) -> Outgoing {
        self.outgoing.head(true, fields, false);
        self.outgoing
    }

    /// Sends the headers of any response: `fields` begin with `:status`. With `end` it has no body.
    pub fn head(mut self, fields: Literals, end: bool) -> Outgoing {
        self.outgoing.head(false, fields, end);
        self.outgoing
    }

    /// Answers with a gRPC status alone: its number, and a message for people.
    pub fn status(mut self, code: u32, message: &str) {
        if let Response::Status(fields) = Response::status(code, message) {
            self.outgoing.head(true, fields, true);
        }
    }
}

/// The future of a streaming request's handler.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A streaming request under way. Dropped, it is over for its handler too.
pub(super) struct Open {
    pipe: Arc<Pipe>,
    task: Option<AbortHandle>,
    headed: bool,
    grpc: bool,
    /// Whether it is a unary request, of which nothing is acted upon before it is whole.
    unary: bool,
    announced: Announced,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        let error = StreamError {
            fate: Fate::Written,
            code: None,
            reason: "the request was reset, or its connection ended".into(),
        };
        for waker in self.pipe.fail(error).into_iter().flatten() {
            waker.wake();
        }
    }
}

struct Served {
    replies: Arc<Replies>,
    stream: u32,
}

impl Link for Served {
    fn order(&self, order: Order) {
        // A stream that nobody holds any more has said how it ends.
        if !matches!(order, Order::Gone) {
            self.replies.order(self.stream, order);
        }
    }
}

impl<S, H: Handler + ?Sized, D> ServerConnection<S, H, D> {
    pub(super) fn open_streaming(
        &mut self,
        stream: u32,
        headers: Headers,
        end: bool,
    ) -> Result<(), ConnectionError> {
        let announced = Announced::of(&headers).filter(|announced| !end || announced.is_met());
        let Some(announced) = announced else {
            return self.fail(stream, ErrorCode::PROTOCOL_ERROR);
        };
        let pipe = Pipe::new(&self.limits, true, Some(self.buffered.clone()));
        if end {
            pipe.end(None);
        }
        let open = Stream {
            stage: Stage::Running { _task: None },
            credit: 0,
            ended: end,
        };
        self.out.open(stream, open.credit, pipe.clone(), false);
        self.hand_over(stream, headers, pipe, open, announced, None);
        Ok(())
    }

    /// Hands over unary requests of which nothing more is there to be read, to handlers that take such.
    pub(super) fn hand_over_unfinished(&mut self) {
        if !self.handler.takes_slow() {
            return;
        }
        let unfinished = self
            .streams
            .iter()
            .filter(|(_, open)| matches!(open.stage, Stage::Receiving { .. }));
        let unfinished: Vec<u32> = unfinished.map(|(stream, _)| stream).collect();
        for stream in unfinished {
            self.hand_over_slow(stream);
        }
    }

    /// Hands over a unary request that is long or takes its time.
    pub(super) fn hand_over_slow(&mut self, stream: u32) {
        let Some(mut open) = self.remove(stream) else {
            return;
        };
        let stage = std::mem::replace(&mut open.stage, Stage::Running { _task: None });
        let Stage::Receiving {
            route,
            headers,
            body,
            unacknowledged,
        } = stage
        else {
            return;
        };
        if unacknowledged > 0 {
            frame::write_window_update(self.out.control(), stream, unacknowledged);
        }
        let pipe = Pipe::new(&self.limits, true, Some(self.buffered.clone()));
        let announced = Announced::rest(&body);
        pipe.begin(body.finish());
        self.out.open(stream, open.credit, pipe.clone(), true);
        self.hand_over(stream, headers, pipe, open, announced, Some(route));
    }

    /// `slow` is the route of a unary request.
    fn hand_over(
        &mut self,
        stream: u32,
        headers: Headers,
        pipe: Arc<Pipe>,
        open: Stream,
        announced: Announced,
        slow: Option<usize>,
    ) {
        let replies = self.replies.clone();
        let (outgoing, body) = halves(pipe.clone(), Served { replies, stream }, false);
        let content_type = headers.get("content-type").unwrap_or_default();
        let grpc = content_type.starts_with(b"application/grpc");
        let call = StreamingCall {
            headers,
            body,
            answer: Answer { outgoing },
        };
        // A panic drops the answer, which says what is to be said.
        let serving = catch_unwind(AssertUnwindSafe(|| match slow {
            Some(route) => self.handler.slow(route, call),
            None => self.handler.stream(call),
        }));
        let serving = Open {
            pipe,
            task: serving.ok().map(|serving| tokio::spawn(serving).abort_handle()),
            headed: false,
            grpc,
            unary: slow.is_some(),
            announced,
        };
        self.serving += 1;
        let stage = Stage::Streaming(Box::new(serving));
        self.streams.insert(stream, Stream { stage, ..open });
    }

    pub(super) fn streaming_data(
        &mut self,
        stream: u32,
        data: Bytes,
        flow: u32,
        end: bool,
    ) -> Result<(), ConnectionError> {
        let Some(open) = self.serving(stream) else {
            return Ok(());
        };
        if !open.announced.count(data.len(), end) {
            return self.fail(stream, ErrorCode::PROTOCOL_ERROR);
        }
        let waker = match open.pipe.push(data, flow) {
            Ok(waker) => waker,
            Err(Unfit::Window) => return self.fail(stream, ErrorCode::FLOW_CONTROL_ERROR),
            Err(Unfit::Memory) => {
                Refusal::Buffered.note();
                // Half a unary request has done nothing, and may be sent again.
                let code = match open.unary && !open.headed {
                    true => ErrorCode::REFUSED_STREAM,
                    false => ErrorCode::ENHANCE_YOUR_CALM,
                };
                return self.fail(stream, code);
            }
        };
        let ended = end.then(|| open.pipe.end(None)).flatten();
        self.out.wakers.extend(waker.or(ended));
        Ok(())
    }

    /// A request's trailers; `false` where the stream is no streaming one, or its body is too short.
    pub(super) fn streaming_trailers(&mut self, stream: u32, trailers: &Headers) -> bool {
        let Some(open) = self.serving(stream).filter(|open| open.announced.is_met()) else {
            return false;
        };
        let waker = open.pipe.end(Some(trailers.clone()));
        self.out.wakers.extend(waker);
        if let Some(open) = self.streams.get_mut(stream) {
            open.ended = true;
        }
        true
    }

    fn serving(&mut self, stream: u32) -> Option<&mut Open> {
        match &mut self.streams.get_mut(stream)?.stage {
            Stage::Streaming(open) => Some(open),
            _ => None,
        }
    }

    /// What a handler wants.
    pub(super) fn order(&mut self, stream: u32, order: Order) {
        let Some(Stream {
            stage: Stage::Streaming(open),
            ended,
            ..
        }) = self.streams.get_mut(stream)
        else {
            return;
        };
        match order {
            Order::Head { grpc, fields, end } => {
                open.headed = true;
                let constant = if grpc { super::HEADERS } else { &[] };
                self.out.headers(stream, constant, &fields, end);
                if end {
                    self.out.forget(stream);
                    self.answered(stream);
                }
            }
            Order::Data { data, end } => {
                if !self.out.push(stream, data, end) {
                    self.remove(stream);
                } else if end {
                    self.answered(stream);
                }
            }
            Order::Trailers(varying) => {
                let constant = &[];
                self.out.end(stream, Some(Trailers { constant, varying }));
                self.answered(stream);
            }
            Order::Release(bytes) if !*ended => {
                frame::write_window_update(self.out.control(), stream, bytes);
            }
            Order::Unread => open.pipe.discard(),
            Order::Reset(code) => {
                self.remove(stream);
                self.out.reset(stream, code);
            }
            Order::Unfinished => self.break_off(stream),
            Order::Release(_) | Order::Gone => {}
        }
    }

    /// The answer has been handed over whole. The task may end in peace.
    fn answered(&mut self, stream: u32) {
        let Some(mut removed) = self.remove(stream) else {
            return;
        };
        if let Stage::Streaming(open) = &mut removed.stage {
            open.task = None;
        }
        if !removed.ended {
            self.linger(stream);
        }
        self.finished();
    }

    /// The handler ended, by a panic as a rule, and its answer did not.
    fn break_off(&mut self, stream: u32) {
        let Some(open) = self.serving(stream) else {
            return;
        };
        if open.headed {
            self.remove(stream);
            return self.out.reset(stream, ErrorCode::INTERNAL_ERROR);
        }
        let answer = match open.grpc {
            true => Response::status(INTERNAL, "the handler panicked, or gave no answer"),
            false => Response::Http(500),
        };
        self.out.forget(stream);
        if let Some(open) = self.remove(stream) {
            self.send(stream, answer, 0, open.ended);
            self.finished();
        }
    }
}
