//! One connection of a server: reads, hands requests over, writes what has gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::running::{Replies, Running, start};
use super::{Call, Handler, Response};
use crate::client::Ended;
use crate::frame::{self, ConnectionError, ErrorCode, MAX_31_BITS};
use crate::hpack::{Fault, Headers, Literals};
use crate::inbound::{Event, Inbound};
use crate::limits::Limits;
use crate::message::{Gathered, MessageError, PREFIX_BYTES};
use crate::outbound::{Outbound, Trailers, Writing};
use crate::streams::Streams;

/// What the PING between the two GOAWAYs carries.
const DRAIN_PING: [u8; 8] = *b"rsfdrain";
const GRPC: (&str, &[u8]) = ("content-type", b"application/grpc");
const HEADERS: &[(&str, &[u8])] = &[(":status", b"200"), GRPC];
const OK: &[(&str, &[u8])] = &[("grpc-status", b"0")];

pub(super) struct ServerConnection<S, H: ?Sized, D> {
    io: S,
    handler: Arc<H>,
    limits: Limits,
    drain: D,
    draining: Draining,
    inbound: Inbound,
    out: Outbound,
    writing: Writing,
    streams: Streams<Stream>,
    /// The greatest stream that the peer opened.
    last: u32,
    replies: Arc<Replies>,
    finished: Vec<(u32, Response)>,
    /// Bytes of unfinished bodies.
    buffered: usize,
    early_resets: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    /// The first GOAWAY and the PING are out: requests on their way are still taken.
    Announced,
    /// The second is: streams above this one are ignored.
    Above(u32),
}

/// A request under way.
struct Stream {
    stage: Stage,
    /// What the peer added to the stream's window before there was anything to send.
    credit: i64,
    /// Whether the request has ended.
    ended: bool,
}

enum Stage {
    Receiving { headers: Headers, body: Gathered, unacknowledged: u32 },
    Running { _task: Running },
}

impl<S, H, D> ServerConnection<S, H, D>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler + ?Sized,
    D: Future<Output = ()> + Unpin,
{
    pub(super) fn new(io: S, handler: Arc<H>, limits: Limits, drain: D) -> Self {
        ServerConnection {
            io,
            handler,
            drain,
            draining: Draining::No,
            inbound: Inbound::new(&limits, true),
            out: Outbound::new(&limits, true),
            writing: Writing::default(),
            streams: Streams::default(),
            last: 0,
            replies: Arc::default(),
            finished: Vec::new(),
            buffered: 0,
            early_resets: 0,
            limits,
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        loop {
            self.poll_drain(cx);
            let mut progress = self.take_replies(cx);
            if !self.out.is_flooded() {
                match self.inbound.poll_read(&mut self.io, cx) {
                    Poll::Ready(Ok(true)) => {
                        self.take_in(cx)?;
                        progress = true;
                    }
                    Poll::Ready(Ok(false)) => return Poll::Ready(self.at_end()),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => {}
                }
            }
            if self.writing.is_done() {
                if self.out.is_empty() {
                    if self.is_drained() {
                        return Pin::new(&mut self.io).poll_shutdown(cx).map_err(Ended::from);
                    }
                    if progress {
                        continue;
                    }
                    return Poll::Pending;
                }
                self.out.take(&mut self.writing.bytes);
                self.out.pump();
            }
            match self.writing.poll(&mut self.io, cx) {
                Poll::Ready(written) => written?,
                Poll::Pending if progress => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) {
        if self.draining == Draining::No && Pin::new(&mut self.drain).poll(cx).is_ready() {
            self.draining = Draining::Announced;
            let out = self.out.control();
            frame::write_go_away(out, MAX_31_BITS, ErrorCode::NO_ERROR, "");
            frame::write_ping(out, false, DRAIN_PING);
        }
    }

    fn is_drained(&self) -> bool {
        matches!(self.draining, Draining::Above(_)) && self.streams.len() == 0 && self.out.waiting() == 0
    }

    fn take_replies(&mut self, cx: &Context<'_>) -> bool {
        let mut finished = std::mem::take(&mut self.finished);
        self.replies.take(&mut finished, cx);
        let some = !finished.is_empty();
        for (stream, response) in finished.drain(..) {
            self.reply(stream, response);
        }
        self.finished = finished;
        some
    }

    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        while let Some(event) = self.inbound.next()? {
            self.apply(event, cx)?;
        }
        let increment = self.inbound.window_increment();
        if increment > 0 {
            frame::write_window_update(self.out.control(), 0, increment);
        }
        Ok(())
    }

    fn apply(&mut self, event: Event, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        match event {
            Event::Headers { stream, headers, end } => self.headers(stream, headers, end, cx),
            Event::Data { stream, data, flow, end } => self.data(stream, data, flow, end, cx),
            Event::Reset { stream, .. } => {
                self.check_was_open(stream)?;
                self.out.forget(stream);
                match self.remove(stream) {
                    Some(_) => self.count_early_reset(),
                    None => Ok(()),
                }
            }
            Event::Settings(settings) => self.out.settings(&settings),
            Event::Ping(payload) => {
                frame::write_ping(self.out.control(), true, payload);
                Ok(())
            }
            Event::Pong(payload) => {
                if payload == DRAIN_PING && self.draining == Draining::Announced {
                    self.draining = Draining::Above(self.last);
                    frame::write_go_away(self.out.control(), self.last, ErrorCode::NO_ERROR, "");
                }
                Ok(())
            }
            // A client that goes away opens no streams any more, and closes when it has its replies.
            Event::GoAway { .. } => Ok(()),
            Event::Window { stream: 0, increment } => self.out.raise_connection(increment),
            Event::Window { stream, increment } => self.window(stream, increment),
        }
    }

    fn headers(
        &mut self,
        stream: u32,
        headers: Headers,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), ConnectionError> {
        if stream <= self.last {
            return self.trailers(stream, end, cx);
        }
        if stream % 2 == 0 {
            return Err(ConnectionError::protocol("a client opens streams with odd numbers"));
        }
        if matches!(self.draining, Draining::Above(_)) {
            return Ok(());
        }
        self.last = stream;
        match headers.fault() {
            Some(Fault::TooLarge) => return self.refuse(stream, 431, end),
            Some(Fault::Malformed) => return self.fail(stream, ErrorCode::PROTOCOL_ERROR),
            None => {}
        }
        if self.streams.len() + self.out.waiting() >= self.limits.concurrent_streams as usize {
            return self.fail(stream, ErrorCode::REFUSED_STREAM);
        }
        if headers.get(":path").is_none() {
            return self.fail(stream, ErrorCode::PROTOCOL_ERROR);
        }
        if headers.get(":method") != Some(b"POST") {
            return self.refuse(stream, 405, end);
        }
        let content_type = headers.get("content-type").unwrap_or_default();
        if !content_type.starts_with(GRPC.1) {
            return self.refuse(stream, 415, end);
        }
        let stage = Stage::Receiving { headers, body: Gathered::default(), unacknowledged: 0 };
        self.streams.insert(stream, Stream { stage, credit: 0, ended: end });
        if end {
            self.dispatch(stream, None, cx);
        }
        Ok(())
    }

    /// HEADERS of a stream that is open: a request's trailers, which say nothing in gRPC.
    fn trailers(&mut self, stream: u32, end: bool, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        self.data(stream, Bytes::new(), 0, end, cx)?;
        if !end && self.streams.get_mut(stream).is_some() {
            return self.fail(stream, ErrorCode::PROTOCOL_ERROR);
        }
        Ok(())
    }

    fn data(
        &mut self,
        stream: u32,
        data: Bytes,
        flow: u32,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), ConnectionError> {
        let Some(open) = self.streams.get_mut(stream) else {
            return self.check_was_open(stream);
        };
        if open.ended {
            return self.fail(stream, ErrorCode::STREAM_CLOSED);
        }
        open.ended = end;
        let Stage::Receiving { body, unacknowledged, .. } = &mut open.stage else {
            // Answered early, for its size: the rest passes by.
            return Ok(());
        };
        *unacknowledged += flow;
        if *unacknowledged > self.limits.tolerated_window() {
            return self.fail(stream, ErrorCode::FLOW_CONTROL_ERROR);
        }
        if !end && *unacknowledged > self.limits.stream_window / 2 {
            let increment = std::mem::take(unacknowledged);
            frame::write_window_update(self.out.control(), stream, increment);
        }
        let length = data.len();
        let limit = self.handler.max_message_bytes();
        if !body.push(data, limit.saturating_add(PREFIX_BYTES)) {
            self.dispatch(stream, Some(MessageError::TooLarge { limit }), cx);
            return Ok(());
        }
        self.buffered += length;
        if end {
            self.dispatch(stream, None, cx);
        } else if self.buffered > self.limits.buffered_bytes {
            return self.fail(stream, ErrorCode::REFUSED_STREAM);
        }
        Ok(())
    }

    /// The request is whole, or will not become so.
    fn dispatch(&mut self, stream: u32, problem: Option<MessageError>, cx: &mut Context<'_>) {
        let Some(open) = self.remove(stream) else {
            return;
        };
        let Stage::Receiving { headers, body, .. } = open.stage else {
            return;
        };
        let body = problem.map_or_else(|| Ok(body.finish()), Err);
        match start(&*self.handler, Call { headers, body }, stream, &self.replies, cx) {
            Ok(response) => self.send(stream, response, open.credit, open.ended),
            Err(task) => self.streams.insert(stream, Stream { stage: Stage::Running { _task: task }, ..open }),
        }
    }

    /// A task finished. Where the stream is gone it was cancelled in the same moment.
    fn reply(&mut self, stream: u32, response: Response) {
        if let Some(open) = self.streams.remove(stream) {
            self.send(stream, response, open.credit, open.ended);
        }
    }

    fn send(&mut self, stream: u32, response: Response, credit: i64, ended: bool) {
        let none = Literals::new();
        match response {
            Response::Message { headers, body, trailers } => {
                self.out.headers(stream, HEADERS, &headers, false);
                let trailers = match trailers {
                    None => Trailers { constant: OK, varying: none },
                    Some(varying) => Trailers { constant: &[], varying },
                };
                self.out.body(stream, body, credit, Some(trailers));
            }
            Response::Status(trailers) => self.out.headers(stream, HEADERS, &trailers, true),
            Response::Http(status) => {
                let status = status.to_string();
                self.out.headers(stream, &[(":status", status.as_bytes())], &none, true);
            }
        }
        if !ended && !self.out.owes(stream) {
            frame::write_reset(self.out.control(), stream, ErrorCode::NO_ERROR);
        }
        self.early_resets = self.early_resets.saturating_sub(1);
    }

    /// Answers a request that is not even looked at.
    fn refuse(&mut self, stream: u32, status: u16, ended: bool) -> Result<(), ConnectionError> {
        self.send(stream, Response::Http(status), 0, ended);
        self.count_early_reset()
    }

    /// Ends a stream that is broken or too much. Peers that make us do so all the time are as bad as those that reset
    /// streams themselves.
    fn fail(&mut self, stream: u32, code: ErrorCode) -> Result<(), ConnectionError> {
        self.remove(stream);
        self.out.reset(stream, code);
        self.count_early_reset()
    }

    fn count_early_reset(&mut self) -> Result<(), ConnectionError> {
        self.early_resets += 1;
        if self.early_resets > self.limits.early_resets {
            let reason = "too many streams were reset before their reply";
            return Err(ConnectionError::new(ErrorCode::ENHANCE_YOUR_CALM, reason));
        }
        Ok(())
    }

    fn window(&mut self, stream: u32, increment: u32) -> Result<(), ConnectionError> {
        let mut outcome = self.out.raise_stream(stream, increment);
        match self.streams.get_mut(stream) {
            Some(open) => {
                open.credit += i64::from(increment);
                if increment == 0 {
                    outcome = Err(ErrorCode::PROTOCOL_ERROR);
                } else if open.credit > i64::from(MAX_31_BITS) {
                    outcome = Err(ErrorCode::FLOW_CONTROL_ERROR);
                }
            }
            None => self.check_was_open(stream)?,
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(code) => self.fail(stream, code),
        }
    }

    fn remove(&mut self, stream: u32) -> Option<Stream> {
        let removed = self.streams.remove(stream)?;
        if let Stage::Receiving { body, .. } = &removed.stage {
            self.buffered = self.buffered.saturating_sub(body.len());
        }
        Some(removed)
    }

    /// A frame of a stream that is not open: ignored where it was open once, an error where it never was.
    fn check_was_open(&self, stream: u32) -> Result<(), ConnectionError> {
        let ignored = matches!(self.draining, Draining::Above(_));
        if stream % 2 == 1 && (stream <= self.last || ignored) {
            return Ok(());
        }
        Err(ConnectionError::protocol("a frame of a stream that was never opened"))
    }

    fn at_end(&self) -> Result<(), Ended> {
        match self.streams.len() {
            0 => Ok(()),
            _ => Err(Ended::Closed),
        }
    }

    /// Tells a peer that broke the protocol so, as far as the socket takes it at once.
    fn accuse(&mut self, error: &ConnectionError, cx: &mut Context<'_>) {
        // In the middle of a frame there is no room for another.
        if self.writing.is_done() {
            frame::write_go_away(self.out.control(), self.last, error.code, error.reason);
            self.out.take(&mut self.writing.bytes);
        }
        let _ = self.writing.poll(&mut self.io, cx);
    }
}

impl<S, H, D> Future for ServerConnection<S, H, D>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler + ?Sized,
    D: Future<Output = ()> + Unpin,
{
    type Output = Result<(), Ended>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.drive(cx));
        if let Err(Ended::Protocol(error)) = &outcome {
            self.accuse(error, cx);
        }
        Poll::Ready(outcome)
    }
}
