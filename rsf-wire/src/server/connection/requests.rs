//! What requests become: streams, calls of the handler, replies, and the end of streams that break a rule.

use std::task::Context;

use bytes::Bytes;

use super::{Draining, ServerConnection, Stage, Stream};
use crate::frame::{self, ConnectionError, ErrorCode, Settings};
use crate::hpack::{Fault, Headers, Literals};
use crate::message::{Gathered, MessageError, PREFIX_BYTES};
use crate::outbound::Trailers;
use crate::refusals::Refusal;
use crate::server::running::start;
use crate::server::{Call, GRPC, HEADERS, Handler, Response, Route};

const OK: &[(&str, &[u8])] = &[("grpc-status", b"0")];

impl<S, H: Handler + ?Sized, D> ServerConnection<S, H, D> {
    pub(super) fn headers(
        &mut self,
        stream: u32,
        headers: Headers,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), ConnectionError> {
        if stream <= self.last {
            return self.trailers(stream, &headers, end, cx);
        }
        if stream.is_multiple_of(2) {
            return Err(ConnectionError::protocol(
                "a client opens streams with odd numbers",
            ));
        }
        if matches!(self.draining, Draining::Above(_)) {
            return Ok(());
        }
        // The next odd number is the usual one.
        if stream > (self.last + 1) | 1 {
            self.out.closed().pass_over(self.last, stream);
        }
        self.last = stream;
        match headers.fault() {
            Some(Fault::TooLarge) => {
                Refusal::HeaderList.note();
                return self.refuse(stream, 431, end);
            }
            Some(Fault::Malformed) => return self.fail(stream, ErrorCode::PROTOCOL_ERROR),
            None => {}
        }
        if self.open_streams() >= self.limits.concurrent_streams as usize {
            Refusal::ConcurrentStreams.note();
            return self.fail(stream, ErrorCode::REFUSED_STREAM);
        }
        if !headers.pseudo().are_a_requests() {
            return self.fail(stream, ErrorCode::PROTOCOL_ERROR);
        }
        self.inbound.hear_calls(1);
        let Route::Unary(route) = self.handler.route(&headers) else {
            return self.open_streaming(stream, headers, end);
        };
        if headers.get(":method") != Some(b"POST") {
            return self.refuse(stream, 405, end);
        }
        let content_type = headers.get("content-type").unwrap_or_default();
        if !content_type.starts_with(GRPC.1) {
            return self.refuse(stream, 415, end);
        }
        let body = Gathered::behind(&headers).filter(|body| body.agrees(end));
        let Some(body) = body else {
            return self.fail(stream, ErrorCode::PROTOCOL_ERROR);
        };
        let stage = Stage::Receiving {
            route,
            headers,
            body,
            unacknowledged: 0,
        };
        self.receiving += 1;
        self.streams.insert(
            stream,
            Stream {
                stage,
                credit: 0,
                ended: end,
            },
        );
        if end {
            self.dispatch(stream, None, cx);
        }
        Ok(())
    }

    /// HEADERS of a stream that is open: a request's trailers, which say nothing in gRPC.
    fn trailers(
        &mut self,
        stream: u32,
        headers: &Headers,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), ConnectionError> {
        let Some(open) = self.streams.get_mut(stream) else {
            return self.late_headers(stream);
        };
        let (sound, open) = (
            end && headers.fault().is_none() && headers.pseudo().are_none(),
            !open.ended,
        );
        if headers.fault() == Some(Fault::TooLarge) {
            Refusal::HeaderList.note();
        }
        if sound && open && self.streaming_trailers(stream, headers) {
            return Ok(());
        }
        if !sound && open {
            return self.fail(stream, ErrorCode::PROTOCOL_ERROR);
        }
        self.data(stream, Bytes::new(), 0, end, cx)
    }

    pub(super) fn data(
        &mut self,
        stream: u32,
        data: Bytes,
        flow: u32,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), ConnectionError> {
        let Some(open) = self.streams.get_mut(stream) else {
            return self.late_data(stream, flow, end);
        };
        if open.ended {
            return self.fail(stream, ErrorCode::STREAM_CLOSED);
        }
        open.ended = end;
        let Stage::Receiving {
            body, unacknowledged, ..
        } = &mut open.stage
        else {
            // Where it is no stream, it was answered early, for its size: the rest passes by.
            return self.streaming_data(stream, data, flow, end);
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
        let (agrees, gathered) = (body.agrees(end), body.len());
        let fits = end || self.buffered.grow(length);
        if fits && !end {
            body.count(length);
        }
        if !agrees {
            return self.fail(stream, ErrorCode::PROTOCOL_ERROR);
        }
        if end {
            self.dispatch(stream, None, cx);
        } else if gathered > self.limits.gathered_bytes && self.handler.takes_slow() {
            self.hand_over_slow(stream);
        } else if !fits {
            Refusal::Buffered.note();
            return self.fail(stream, ErrorCode::REFUSED_STREAM);
        }
        Ok(())
    }

    /// The request is whole, or will not become so.
    fn dispatch(&mut self, stream: u32, problem: Option<MessageError>, cx: &mut Context<'_>) {
        let Some(open) = self.remove(stream) else {
            return;
        };
        let Stage::Receiving {
            route, headers, body, ..
        } = open.stage
        else {
            return;
        };
        let body = problem.map_or_else(|| Ok(body.finish()), Err);
        let call = Call { headers, body, route };
        let in_place = self.in_place.allows();
        match start(&*self.handler, call, stream, &self.replies, in_place, cx) {
            Ok(response) => {
                self.send(stream, response, open.credit, open.ended);
                self.finished();
            }
            Err(task) => self.streams.insert(
                stream,
                Stream {
                    stage: Stage::Running { _task: Some(task) },
                    ..open
                },
            ),
        }
    }

    /// A task finished. Where the stream is gone it was cancelled in the same moment.
    pub(super) fn reply(&mut self, stream: u32, response: Response) {
        if let Some(open) = self.streams.remove(stream) {
            self.send(stream, response, open.credit, open.ended);
            self.finished();
        }
    }

    /// A request was let run to its reply, which makes up for one that was not.
    pub(in crate::server) fn finished(&mut self) {
        self.early_resets = self.early_resets.saturating_sub(1);
    }

    pub(in crate::server) fn send(&mut self, stream: u32, response: Response, credit: i64, ended: bool) {
        let none = Literals::new();
        match response {
            Response::Message {
                headers,
                body,
                trailers,
            } => {
                self.out.headers(stream, HEADERS, &headers, false);
                let trailers = match trailers {
                    None => Trailers {
                        constant: OK,
                        varying: none,
                    },
                    Some(varying) => Trailers {
                        constant: &[],
                        varying,
                    },
                };
                if !self.out.body(stream, body, credit, Some(trailers)) {
                    return;
                }
            }
            Response::Status(trailers) => self.out.headers(stream, HEADERS, &trailers, true),
            Response::Http(status) => {
                let status = status.to_string();
                self.out
                    .headers(stream, &[(":status", status.as_bytes())], &none, true);
            }
        }
        if !ended {
            self.linger(stream);
        }
    }

    /// Answers a request that is not even looked at.
    fn refuse(&mut self, stream: u32, status: u16, ended: bool) -> Result<(), ConnectionError> {
        self.send(stream, Response::Http(status), 0, ended);
        self.count_early_reset()
    }

    /// Ends a stream that is broken or too much. Peers that make us do so all the time are as bad as those that reset
    /// streams themselves.
    pub(in crate::server) fn fail(&mut self, stream: u32, code: ErrorCode) -> Result<(), ConnectionError> {
        self.remove(stream);
        self.lingering.end(stream);
        self.out.reset(stream, code);
        self.count_early_reset()
    }

    pub(super) fn count_early_reset(&mut self) -> Result<(), ConnectionError> {
        self.early_resets += 1;
        if self.early_resets > self.limits.early_resets {
            Refusal::EarlyResets.note();
            let reason = "too many streams were reset before their reply";
            return Err(ConnectionError::new(ErrorCode::ENHANCE_YOUR_CALM, reason));
        }
        Ok(())
    }

    pub(super) fn window(&mut self, stream: u32, increment: u32) -> Result<(), ConnectionError> {
        let mut outcome = self.out.raise_stream(stream, increment);
        match self.streams.get_mut(stream) {
            Some(open) => {
                if increment == 0 {
                    outcome = Err(ErrorCode::PROTOCOL_ERROR);
                } else if open.has_credit() {
                    open.credit += i64::from(increment);
                    if self.out.overflows(open.credit) {
                        outcome = Err(ErrorCode::FLOW_CONTROL_ERROR);
                    }
                }
            }
            None => self.check_was_open(stream)?,
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(code) => self.fail(stream, code),
        }
    }

    pub(in crate::server) fn remove(&mut self, stream: u32) -> Option<Stream> {
        let removed = self.streams.remove(stream)?;
        match &removed.stage {
            Stage::Receiving { body, .. } => {
                self.receiving -= 1;
                self.buffered.shrink(body.counted());
            }
            Stage::Streaming(_) => self.serving -= 1,
            Stage::Running { .. } => {}
        }
        Some(removed)
    }

    /// Streams that the peer has open. A streaming request's answer waits from its beginning on.
    fn open_streams(&self) -> usize {
        self.streams.len() + self.out.waiting() - self.serving
    }

    /// DATA of a stream that is not open. Where it was on its way while we ended the stream it is ignored.
    fn late_data(&mut self, stream: u32, flow: u32, end: bool) -> Result<(), ConnectionError> {
        self.check_was_open(stream)?;
        if self.passes_by(stream, flow, end)? {
            return Ok(());
        }
        if stream > self.last || self.out.closed().may_speak(stream) {
            return self.inbound.hear_waste();
        }
        self.fail(stream, ErrorCode::STREAM_CLOSED)
    }

    /// HEADERS of the same: no client that knows its own streams sends them.
    fn late_headers(&mut self, stream: u32) -> Result<(), ConnectionError> {
        self.check_was_open(stream)?;
        if self.lingering.end(stream) || self.out.closed().may_speak(stream) {
            return Ok(());
        }
        if self.out.closed().was_passed_over(stream) {
            let reason = "a stream was opened below one that is open already";
            return Err(ConnectionError::protocol(reason));
        }
        let reason = "HEADERS came on a stream that had ended";
        Err(ConnectionError::new(ErrorCode::STREAM_CLOSED, reason))
    }

    /// Checks what new SETTINGS make of the windows of streams that are open.
    pub(super) fn settings(&mut self, settings: &Settings) -> Result<(), ConnectionError> {
        self.out.settings(settings)?;
        if settings.initial_window_size.is_some()
            && self
                .streams
                .iter()
                .any(|(_, open)| open.has_credit() && self.out.overflows(open.credit))
        {
            let reason = "a stream's window is raised above 2^31 - 1";
            return Err(ConnectionError::new(ErrorCode::FLOW_CONTROL_ERROR, reason));
        }
        Ok(())
    }

    /// A frame of a stream that is not open: ignored where it was open once, an error where it never was.
    pub(super) fn check_was_open(&self, stream: u32) -> Result<(), ConnectionError> {
        let ignored = matches!(self.draining, Draining::Above(_));
        if stream % 2 == 1 && (stream <= self.last || ignored) {
            return Ok(());
        }
        Err(ConnectionError::protocol(
            "a frame of a stream that was never opened",
        ))
    }
}
