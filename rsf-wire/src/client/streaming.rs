//! Streaming calls beside the unary ones: their heads, what callers order, and what the peer says.
//!
//! They have a slab of their own. A slot of it carries a bit that no slot of a unary call has, so that what looks for
//! unary calls passes them by at no cost; and taken off a slot that does not have it, it names no streaming call.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::state::{NO_PATH, State};
use super::{Client, Fate, Life, Shared};
use crate::frame::{self, ErrorCode};
use crate::hpack::{Constants, Headers, Literals, Pair};
use crate::message::Announced;
use crate::outbound::{Trailers, Writing};
use crate::stream::{Incoming, Link, Order, Outgoing, Pipe, StreamError, halves};

/// What tells a streaming call's slot from a unary one's.
pub(super) const STREAMING: usize = 1 << (usize::BITS - 1);

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// `POST` for gRPC.
    pub method: &'a str,
    /// `/package.Service/Method`, or any path with its query.
    pub path: &'a str,
    /// Whom it names; `None`: the connection's. Of no account for gRPC.
    pub authority: Option<&'a str>,
    /// Whether it is gRPC: `POST`, `te` and `content-type` then stand among what is indexed.
    pub grpc: bool,
    /// The other headers.
    pub fields: Literals,
}

/// A streaming call: its two directions.
pub struct Opened {
    /// The request's body.
    pub outgoing: Outgoing,
    /// The reply: [`Incoming::poll_head`] first.
    pub incoming: Incoming,
}

impl Client {
    /// Begins a request whose body and reply are streams; `end` where it has no body. Where the peer admits no more
    /// streams it waits, without room for its body. Dropping what it returns cancels it.
    pub fn open(&self, head: Head<'_>, end: bool) -> Opened {
        let (slot, pipe) = self.shared.with(|state| state.open_streaming(head, end));
        let shared = self.shared.clone();
        let (outgoing, incoming) = halves(pipe, Caller { shared, slot }, end);
        Opened { outgoing, incoming }
    }
}

struct Caller {
    shared: Arc<Shared>,
    slot: usize,
}

impl Link for Caller {
    fn order(&self, order: Order) {
        self.shared.with(|state| state.order(self.slot, order));
    }
}

/// A streaming call, for as long as somebody holds it.
pub(super) struct Streaming {
    /// Tells it from another one in the same slot.
    number: u64,
    /// 0 while it waits for a stream.
    stream: u32,
    begins: u64,
    queued: Option<Box<Queued>>,
    pipe: Arc<Pipe>,
    headed: bool,
    over: bool,
    /// Whether the reply has no body, whatever its content-length says.
    bodiless: bool,
    announced: Announced,
}

/// A call that waits for a stream, with what was sent already though it has no room.
struct Queued {
    method: Box<str>,
    path: Box<str>,
    authority: Option<Box<str>>,
    grpc: bool,
    fields: Literals,
    pieces: VecDeque<Bytes>,
    end: bool,
    trailers: Option<Literals>,
}

const WRONG_LENGTH: &str = "another length than its content-length says";

impl Streaming {
    /// Whether it waits for a stream in the queue's place with this number.
    pub(super) fn waits_as(&self, number: u64) -> bool {
        self.number == number && self.queued.is_some()
    }

    /// Takes a reply's headers over. `None` where they announce another body than comes.
    fn begin_reply(&mut self, headers: Headers, end: bool) -> Option<Option<Waker>> {
        let bodiless = self.bodiless || headers.get(":status") == Some(b"304");
        if !bodiless {
            self.announced = Announced::of(&headers)?;
        }
        if end && !self.announced.is_met() {
            return None;
        }
        self.headed = true;
        Some(self.pipe.head(headers))
    }
}

impl State {
    fn open_streaming(&mut self, head: Head<'_>, end: bool) -> (usize, Arc<Pipe>) {
        self.next_call += 1;
        let pipe = Pipe::new(&self.limits, false, None);
        let index = self.streamings.insert(Streaming {
            number: self.next_call,
            stream: 0,
            begins: 0,
            queued: None,
            pipe: pipe.clone(),
            headed: false,
            over: false,
            bodiless: head.method == "HEAD",
            announced: Announced::default(),
        });
        let slot = index | STREAMING;
        self.count_streams();
        if self.life() >= Life::Draining {
            self.finish_streaming(slot, not_written("the connection is closing"));
        } else if head.path.is_empty() {
            self.finish_streaming(slot, not_written(NO_PATH));
        } else if self.queue.is_empty() && self.may_open() {
            self.begin(index, &head, end);
        } else if self.may_queue() {
            self.streamings[index].queued = Some(Box::new(Queued {
                method: head.method.into(),
                path: head.path.into(),
                authority: head.authority.map(Into::into),
                grpc: head.grpc,
                fields: head.fields,
                pieces: VecDeque::new(),
                end,
                trailers: None,
            }));
            self.queue.push_back((slot, self.next_call));
        } else {
            let problem = "too many calls wait for a stream of this connection";
            self.finish_streaming(slot, not_written(problem));
        }
        (slot, pipe)
    }

    /// Gives a call its stream.
    fn begin(&mut self, index: usize, head: &Head<'_>, end: bool) {
        let stream = self.next_stream();
        let Some(call) = self.streamings.get_mut(index) else {
            return;
        };
        call.stream = stream;
        call.begins = self.out.position();
        self.out.wakers.extend(call.pipe.open());
        if !end {
            self.out.open(stream, 0, call.pipe.clone(), false);
        } else {
            self.out.wakers.extend(call.pipe.close());
        }
        self.streams.insert(stream, index | STREAMING);
        if head.grpc {
            let constants = Constants {
                before: &[
                    (":method", b"POST"),
                    (":scheme", self.scheme),
                    (":authority", self.authority.as_bytes()),
                ],
                path: head.path,
                after: &[("te", b"trailers"), ("content-type", b"application/grpc")],
                own: &[],
            };
            return self.out.block(stream, constants, &head.fields, end);
        }
        // What gRPC's requests begin and end with is known of the connection: this is a request of another kind.
        let authority = head.authority.unwrap_or(&self.authority);
        let own: [Pair<'_>; 4] = [
            (":method", head.method.as_bytes()),
            (":scheme", self.scheme),
            (":path", head.path.as_bytes()),
            (":authority", authority.as_bytes()),
        ];
        self.out.headers(stream, &own, &head.fields, end);
    }

    /// Gives a call that waited its stream. `false` where it was given up, or the slot is another's by now.
    pub(super) fn begin_queued(&mut self, slot: usize, number: u64) -> bool {
        let index = slot ^ STREAMING;
        let waiting = self
            .streamings
            .get_mut(index)
            .filter(|call| call.number == number);
        let Some(queued) = waiting.and_then(|call| call.queued.take()) else {
            return false;
        };
        let head = Head {
            method: &queued.method,
            path: &queued.path,
            authority: queued.authority.as_deref(),
            grpc: queued.grpc,
            fields: queued.fields,
        };
        let bare = queued.end && queued.pieces.is_empty();
        self.begin(index, &head, bare);
        for data in queued.pieces {
            self.order(slot, Order::Data { data, end: false });
        }
        if let Some(trailers) = queued.trailers {
            self.order(slot, Order::Trailers(trailers));
        } else if queued.end && !bare {
            let data = Bytes::new();
            self.order(slot, Order::Data { data, end: true });
        }
        true
    }

    /// What a caller wants.
    fn order(&mut self, slot: usize, order: Order) {
        let Some(call) = self.streamings.get_mut(slot ^ STREAMING) else {
            return;
        };
        let stream = call.stream;
        if let Order::Gone = order {
            if !call.over {
                self.give_up(slot, ErrorCode::CANCEL);
            }
            self.streamings.remove(slot ^ STREAMING);
            return;
        }
        if call.over {
            return;
        }
        match (order, &mut call.queued) {
            (Order::Data { data, end }, Some(queued)) => {
                queued.pieces.push_back(data);
                queued.end |= end;
            }
            (Order::Trailers(trailers), Some(queued)) => queued.trailers = Some(trailers),
            (Order::Data { data, end }, None) => {
                self.out.push(stream, data, end);
            }
            (Order::Trailers(varying), None) => {
                let constant = &[];
                self.out.end(stream, Some(Trailers { constant, varying }));
            }
            (Order::Release(bytes), _) => frame::write_window_update(self.out.control(), stream, bytes),
            (Order::Reset(code), _) => self.give_up(slot, code),
            (Order::Unread | Order::Unfinished, _) => self.give_up(slot, ErrorCode::CANCEL),
            // Of a server, and above.
            (Order::Head { .. } | Order::Gone, _) => {}
        }
    }

    /// The caller has lost interest.
    fn give_up(&mut self, slot: usize, code: ErrorCode) {
        let Some(call) = self.streamings.get_mut(slot ^ STREAMING) else {
            return;
        };
        let waited = call.queued.take().is_some();
        if call.stream != 0 {
            self.out.reset(call.stream, code);
        } else if waited {
            self.leave_queue();
        }
        let reason = "the call was given up here".into();
        let fate = Fate::Written;
        let code = Some(code);
        self.finish_streaming(slot, StreamError { fate, code, reason });
        self.open_queued();
    }

    /// Ends a call, its slot apart.
    pub(super) fn finish_streaming(&mut self, slot: usize, error: StreamError) {
        let Some(call) = self.streamings.get_mut(slot ^ STREAMING) else {
            return;
        };
        call.over = true;
        call.queued = None;
        let stream = call.stream;
        // Headers came: the peer has looked at it, whatever it says.
        let fate = if call.headed { Fate::Written } else { error.fate };
        self.out.wakers.extend(
            call.pipe
                .fail(StreamError { fate, ..error })
                .into_iter()
                .flatten(),
        );
        if stream != 0 {
            self.streams.remove(stream);
        }
    }

    /// The peer reset the call.
    pub(super) fn streaming_was_reset(&mut self, slot: usize, code: ErrorCode) {
        let refused = code == ErrorCode::REFUSED_STREAM;
        let error = StreamError {
            fate: if refused { Fate::Refused } else { Fate::Written },
            code: Some(code),
            reason: format!("the peer reset the call: {code}").into(),
        };
        self.finish_streaming(slot, error);
        self.open_queued();
    }

    /// A response's headers that are in order, or its trailers.
    pub(super) fn streaming_headers(&mut self, stream: u32, slot: usize, headers: Headers, end: bool) {
        let Some(call) = self.streamings.get_mut(slot ^ STREAMING) else {
            return;
        };
        let problem = match headers.get(":status") {
            _ if call.headed && (!end || !headers.pseudo().are_none()) => {
                "trailers that do not end it, or hold a pseudo-header"
            }
            _ if call.headed && !call.announced.is_met() => WRONG_LENGTH,
            _ if call.headed => return self.streaming_ended(stream, slot, Some(headers)),
            _ if !headers.pseudo().are_a_replys() => "no valid :status",
            // An interim response: the real one follows.
            Some([b'1', _, _]) if !end => return,
            Some([b'2'..=b'5', _, _]) => match call.begin_reply(headers, end) {
                Some(waker) => {
                    self.out.wakers.extend(waker);
                    self.replies = self.replies.wrapping_add(1);
                    if end {
                        self.streaming_ended(stream, slot, None);
                    }
                    return;
                }
                None => WRONG_LENGTH,
            },
            _ => "no valid :status",
        };
        self.break_streaming(stream, slot, ErrorCode::PROTOCOL_ERROR, problem);
    }

    pub(super) fn streaming_data(&mut self, stream: u32, slot: usize, data: Bytes, flow: u32, end: bool) {
        let Some(call) = self.streamings.get_mut(slot ^ STREAMING) else {
            return;
        };
        if !call.headed {
            let problem = "a body before its headers";
            return self.break_streaming(stream, slot, ErrorCode::PROTOCOL_ERROR, problem);
        }
        if !call.announced.count(data.len(), end) {
            return self.break_streaming(stream, slot, ErrorCode::PROTOCOL_ERROR, WRONG_LENGTH);
        }
        match call.pipe.push(data, flow) {
            Ok(waker) => self.out.wakers.extend(waker),
            Err(_) => {
                let problem = "a body that passes the stream's window";
                return self.break_streaming(stream, slot, ErrorCode::FLOW_CONTROL_ERROR, problem);
            }
        }
        if end {
            self.streaming_ended(stream, slot, None);
        }
    }

    /// The reply is whole. What of the request is not out by now interests nobody.
    fn streaming_ended(&mut self, stream: u32, slot: usize, trailers: Option<Headers>) {
        if self.out.owes(stream) {
            self.out.reset(stream, ErrorCode::CANCEL);
        }
        if let Some(call) = self.streamings.get_mut(slot ^ STREAMING) {
            call.over = true;
            self.out.wakers.extend(call.pipe.end(trailers));
            self.out.wakers.extend(call.pipe.close());
        }
        self.streams.remove(stream);
        self.open_queued();
    }

    fn break_streaming(&mut self, stream: u32, slot: usize, code: ErrorCode, problem: &str) {
        self.out.reset(stream, code);
        let error = StreamError {
            fate: Fate::Written,
            code: Some(code),
            reason: format!("the peer broke HTTP/2: the reply has {problem}").into(),
        };
        self.finish_streaming(slot, error);
        self.open_queued();
    }

    /// A call that waits for a stream will get none.
    pub(super) fn turn_away(&mut self, slot: usize, number: u64, reason: &str) {
        let call = self.streamings.get(slot ^ STREAMING);
        if call.is_some_and(|call| call.number == number && call.stream == 0) {
            self.finish_streaming(slot, not_written(reason));
        }
    }

    /// The connection is gone. `written` says how far the output got.
    pub(super) fn end_streamings(&mut self, reason: &Arc<str>, written: &Writing) {
        for (_, call) in &mut self.streamings {
            if call.over {
                continue;
            }
            let unwritten = call.stream == 0 || call.begins >= written.total;
            let error = StreamError {
                fate: if unwritten {
                    Fate::NotWritten
                } else {
                    Fate::Written
                },
                code: None,
                reason: reason.clone(),
            };
            call.over = true;
            call.queued = None;
            self.out
                .wakers
                .extend(call.pipe.fail(error).into_iter().flatten());
        }
    }

    /// Whether no streaming call has anything left to do.
    pub(super) fn streamings_are_over(&self) -> bool {
        self.streamings.iter().all(|(_, call)| call.over)
    }
}

fn not_written(reason: &str) -> StreamError {
    StreamError {
        fate: Fate::NotWritten,
        code: None,
        reason: reason.into(),
    }
}
