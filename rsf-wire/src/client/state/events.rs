//! What the peer says, applied to the calls.

use bytes::Bytes;

use super::{CallError, Fate, Life, Reply, STREAMING, State};
use crate::frame::{self, ConnectionError, ErrorCode, Settings};
use crate::hpack::{Fault, Headers};
use crate::inbound::Event;
use crate::message::{Gathered, MessageError, PREFIX_BYTES};
use crate::refusals::Refusal;

const WRONG_LENGTH: &str = "the reply's body is not as long as its content-length";

impl State {
    pub(in crate::client) fn apply(&mut self, event: Event) -> Result<(), ConnectionError> {
        match event {
            Event::Headers { stream, headers, end } => self.headers(stream, headers, end),
            Event::Data {
                stream,
                data,
                flow,
                end,
            } => self.data(stream, data, flow, end),
            Event::Reset { stream, code } => self.was_reset(stream, code),
            Event::Settings(settings) => self.settings(&settings),
            Event::Ping(payload) => {
                frame::write_ping(self.out.control(), true, payload);
                Ok(())
            }
            Event::Pong(_) => Ok(()),
            Event::GoAway { last, code } => {
                self.go_away(last, code);
                Ok(())
            }
            Event::Window { stream: 0, increment } => self.out.raise_connection(increment),
            Event::Window { stream, increment } => self.window(stream, increment),
        }
    }

    fn headers(&mut self, stream: u32, headers: Headers, end: bool) -> Result<(), ConnectionError> {
        let Some(&mut slot) = self.streams.get_mut(stream) else {
            return self.check_may_speak(stream);
        };
        if let Err(problem) = self.take_headers(stream, slot, headers, end) {
            self.fail_stream(stream, slot, ErrorCode::PROTOCOL_ERROR, problem);
        }
        Ok(())
    }

    fn take_headers(
        &mut self,
        stream: u32,
        slot: usize,
        headers: Headers,
        end: bool,
    ) -> Result<(), &'static str> {
        match headers.fault() {
            Some(Fault::TooLarge) => {
                Refusal::HeaderList.note();
                return Err("the reply's headers are larger than is allowed");
            }
            Some(Fault::Malformed) => return Err("the reply's headers are malformed"),
            None => {}
        }
        let Some(call) = self.calls.get_mut(slot) else {
            self.streaming_headers(stream, slot, headers, end);
            return Ok(());
        };
        if call.headers.is_some() {
            if !end || !headers.pseudo().are_none() {
                return Err("the reply's trailers do not end it, or hold a pseudo-header");
            }
            if !call.body.agrees(true) {
                return Err(WRONG_LENGTH);
            }
            self.answered(stream, slot, None, Some(headers));
            return Ok(());
        }
        match headers.get(":status") {
            _ if !headers.pseudo().are_a_replys() => return Err("the reply has no valid :status"),
            // An interim response: the real one follows.
            Some([b'1', _, _]) if !end => {}
            Some([b'2'..=b'5', _, _]) => {
                call.body = Gathered::behind(&headers).ok_or(WRONG_LENGTH)?;
                call.headers = Some(headers);
                self.replies = self.replies.wrapping_add(1);
                if end {
                    self.answered(stream, slot, None, None);
                }
            }
            _ => return Err("the reply has no valid :status"),
        }
        Ok(())
    }

    fn data(&mut self, stream: u32, data: Bytes, flow: u32, end: bool) -> Result<(), ConnectionError> {
        let Some(&mut slot) = self.streams.get_mut(stream) else {
            return self.check_may_speak(stream);
        };
        let Some(call) = self.calls.get_mut(slot) else {
            self.streaming_data(stream, slot, data, flow, end);
            return Ok(());
        };
        if call.headers.is_none() {
            let problem = "the reply's body comes before its headers";
            self.fail_stream(stream, slot, ErrorCode::PROTOCOL_ERROR, problem);
            return Ok(());
        }
        call.unacknowledged += flow;
        if call.unacknowledged > self.limits.tolerated_window() {
            let problem = "the reply's body passes the stream's window";
            self.fail_stream(stream, slot, ErrorCode::FLOW_CONTROL_ERROR, problem);
            return Ok(());
        }
        let limit = self.limits.message_bytes;
        if !call.body.push(data, limit.saturating_add(PREFIX_BYTES)) {
            self.out.reset(stream, ErrorCode::CANCEL);
            self.answered(stream, slot, Some(MessageError::TooLarge { limit }), None);
        } else if !call.body.agrees(end) {
            self.fail_stream(stream, slot, ErrorCode::PROTOCOL_ERROR, WRONG_LENGTH);
        } else if end {
            self.answered(stream, slot, None, None);
        } else if call.unacknowledged > self.limits.stream_window / 2 {
            let increment = std::mem::take(&mut call.unacknowledged);
            frame::write_window_update(self.out.control(), stream, increment);
        }
        Ok(())
    }

    /// The reply is whole, or will not become so.
    fn answered(
        &mut self,
        stream: u32,
        slot: usize,
        problem: Option<MessageError>,
        trailers: Option<Headers>,
    ) {
        if self.out.owes(stream) {
            // It came before the request was out; the rest of that interests nobody.
            self.out.reset(stream, ErrorCode::CANCEL);
        }
        let Some(call) = self.calls.get_mut(slot) else {
            return;
        };
        let reply = Reply {
            headers: call.headers.take().unwrap_or_default(),
            body: problem.map_or_else(|| Ok(std::mem::take(&mut call.body).finish()), Err),
            trailers,
        };
        self.finish(slot, Ok(reply));
        self.open_queued();
    }

    fn was_reset(&mut self, stream: u32, code: ErrorCode) -> Result<(), ConnectionError> {
        let Some(&mut slot) = self.streams.get_mut(stream) else {
            return self.check_was_open(stream);
        };
        self.out.forget(stream);
        if slot & STREAMING != 0 {
            self.streaming_was_reset(slot, code);
            return Ok(());
        }
        let headed = self.calls.get(slot).is_some_and(|call| call.headers.is_some());
        // Headers came: the peer has looked at it, whatever it says.
        let refused = code == ErrorCode::REFUSED_STREAM && !headed;
        let fate = if refused { Fate::Refused } else { Fate::Written };
        let reason = format!("the peer reset the call: {code}").into();
        self.finish(slot, Err(CallError { fate, reason }));
        self.open_queued();
        Ok(())
    }

    fn settings(&mut self, settings: &Settings) -> Result<(), ConnectionError> {
        if settings.enable_push == Some(true) {
            return Err(ConnectionError::protocol("a server must not enable push"));
        }
        self.out.settings(settings)?;
        if let Some(streams) = settings.max_concurrent_streams {
            self.admitted = streams;
        } else if !self.greeted {
            self.admitted = u32::MAX;
        }
        self.greeted = true;
        self.open_queued();
        Ok(())
    }

    fn go_away(&mut self, last: u32, code: ErrorCode) {
        self.life = self.life.max(Life::Draining);
        let above: Vec<(u32, usize)> = self
            .streams
            .iter()
            .filter(|(stream, _)| *stream > last)
            .map(|(stream, slot)| (stream, *slot))
            .collect();
        for (stream, slot) in above {
            self.out.forget(stream);
            self.out.closed().give_up(stream);
            // Headers came: the peer has looked at it, whatever it says.
            let headed = self.calls.get(slot).is_some_and(|call| call.headers.is_some());
            let fate = if headed { Fate::Written } else { Fate::Refused };
            let reason = format!("the peer is going away ({code}) and gives this call up").into();
            self.finish(slot, Err(CallError { fate, reason }));
        }
        self.turn_away_queued("the peer is going away");
    }

    fn window(&mut self, stream: u32, increment: u32) -> Result<(), ConnectionError> {
        let mut outcome = self.out.raise_stream(stream, increment);
        let Some(&mut slot) = self.streams.get_mut(stream) else {
            return self.check_was_open(stream);
        };
        if increment == 0 {
            outcome = Err(ErrorCode::PROTOCOL_ERROR);
        }
        if let Err(code) = outcome {
            let problem = "the peer raised the call's window by nothing, or beyond reason";
            self.fail_stream(stream, slot, code, problem);
        }
        Ok(())
    }
}
