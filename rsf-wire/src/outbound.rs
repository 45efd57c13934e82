//! What goes out: one buffer that gathers frames, and bodies that wait for windows, taking turns.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::closed::Closed;
use crate::frame::{self, ConnectionError, END_STREAM, ErrorCode, MAX_31_BITS, Settings, kind};
use crate::hpack::{Constants, Encoder, Literals, Pair};
use crate::inbound::{DEFAULT_TABLE, DEFAULT_WINDOW};
use crate::limits::Limits;

const SMALLEST_MAX_FRAME: usize = 16_384;
/// A buffer that grew beyond this is given back when it is empty.
const KEPT_BYTES: usize = 64 * 1024;

/// The writing side of a connection.
pub(crate) struct Outbound {
    /// Frames that wait to be taken by the connection's future.
    gathered: Vec<u8>,
    /// Bytes that were taken, all told.
    taken: u64,
    encoder: Encoder,
    block: Vec<u8>,
    max_frame: usize,
    initial_window: i64,
    window: i64,
    waiting: HashMap<u32, Waiting>,
    closed: Closed,
    /// Waiting streams whose own window is open, in the order of their turns.
    turns: VecDeque<u32>,
    limit: usize,
}

/// A body that is not out yet.
struct Waiting {
    rest: Bytes,
    window: i64,
    in_turn: bool,
    /// The trailers that follow; without them the body ends the stream.
    trailers: Option<Trailers>,
}

/// Trailers that wait for their body: constants are few and known to the server.
pub(crate) struct Trailers {
    pub(crate) constant: &'static [Pair<'static>],
    pub(crate) varying: Literals,
}

impl Outbound {
    /// Begins with our preface (a client's), SETTINGS and connection window.
    pub(crate) fn new(limits: &Limits, server: bool) -> Self {
        let mut gathered = Vec::new();
        if !server {
            gathered.extend_from_slice(frame::PREFACE);
        }
        Settings::write(limits, server, &mut gathered);
        let wanted = limits.connection_window.min(MAX_31_BITS);
        if wanted > DEFAULT_WINDOW {
            frame::write_window_update(&mut gathered, 0, wanted - DEFAULT_WINDOW);
        }
        Outbound {
            gathered,
            taken: 0,
            encoder: Encoder::new(DEFAULT_TABLE),
            block: Vec::new(),
            max_frame: SMALLEST_MAX_FRAME,
            initial_window: i64::from(DEFAULT_WINDOW),
            window: i64::from(DEFAULT_WINDOW),
            waiting: HashMap::new(),
            closed: Closed::default(),
            turns: VecDeque::new(),
            limit: limits.unwritten_bytes,
        }
    }

    /// Where the next frame will stand in all that goes out.
    pub(crate) fn position(&self) -> u64 {
        self.taken + self.gathered.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Whether so much waits for the socket that bodies and new calls wait too.
    pub(crate) fn is_full(&self) -> bool {
        self.gathered.len() >= self.limit
    }

    /// Whether so much waits that the peer is read no more until it reads us.
    pub(crate) fn is_flooded(&self) -> bool {
        self.gathered.len() >= 2 * self.limit
    }

    /// Frames to be appended to directly: control frames, which no window holds back.
    pub(crate) fn control(&mut self) -> &mut Vec<u8> {
        &mut self.gathered
    }

    /// Moves what has gathered into `into`, which is empty.
    pub(crate) fn take(&mut self, into: &mut Vec<u8>) {
        into.clear();
        if into.capacity() > KEPT_BYTES {
            *into = Vec::new();
        }
        self.taken += self.gathered.len() as u64;
        std::mem::swap(&mut self.gathered, into);
    }

    /// A reply's HEADERS, or trailers.
    pub(crate) fn headers(&mut self, stream: u32, own: &[Pair<'_>], varying: &Literals, end: bool) {
        let constants = Constants {
            own,
            ..Constants::default()
        };
        self.block(stream, constants, varying, end);
    }

    /// HEADERS.
    pub(crate) fn block(&mut self, stream: u32, constants: Constants<'_>, varying: &Literals, end: bool) {
        self.block.clear();
        self.encoder.encode(constants, varying, &mut self.block);
        frame::write_headers(&mut self.gathered, stream, &self.block, end, self.max_frame);
    }

    /// Sends a body, at once where the windows allow it. `credit` is what the peer added to the stream's window so far.
    pub(crate) fn body(&mut self, stream: u32, body: Bytes, credit: i64, trailers: Option<Trailers>) {
        let window = self.initial_window + credit;
        let length = body.len() as i64;
        let fits = body.len() <= self.max_frame && length <= window && length <= self.window;
        if fits && self.turns.is_empty() && !self.is_full() {
            self.window -= length;
            self.data(stream, &body, trailers.is_none());
            if let Some(trailers) = trailers {
                self.headers(stream, trailers.constant, &trailers.varying, true);
            }
            return;
        }
        let in_turn = window > 0 || body.is_empty();
        self.waiting.insert(
            stream,
            Waiting {
                rest: body,
                window,
                in_turn,
                trailers,
            },
        );
        if in_turn {
            self.turns.push_back(stream);
        }
        self.pump();
    }

    /// Sends what windows and buffer allow, a frame a stream in turn.
    pub(crate) fn pump(&mut self) {
        while !self.is_full()
            && let Some(&stream) = self.turns.front()
        {
            let Some(waiting) = self.waiting.get_mut(&stream) else {
                self.turns.pop_front();
                continue;
            };
            let allowed = self
                .max_frame
                .min(waiting.window.min(self.window).max(0) as usize);
            if allowed == 0 && self.window <= 0 && !waiting.rest.is_empty() {
                return;
            }
            self.turns.pop_front();
            let part = waiting.rest.split_to(allowed.min(waiting.rest.len()));
            waiting.window -= part.len() as i64;
            self.window -= part.len() as i64;
            let finished = waiting.rest.is_empty();
            waiting.in_turn = !finished && waiting.window > 0;
            if waiting.in_turn {
                self.turns.push_back(stream);
            }
            let trailers = finished.then(|| self.waiting.remove(&stream)).flatten();
            let trailers = trailers.and_then(|waiting| waiting.trailers);
            if finished || part.has_remaining() {
                self.data(stream, &part, finished && trailers.is_none());
            }
            if let Some(trailers) = trailers {
                self.headers(stream, trailers.constant, &trailers.varying, true);
            }
        }
    }

    /// Streams whose body is not all out yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the stream's body is not all out yet.
    pub(crate) fn owes(&self, stream: u32) -> bool {
        self.waiting.contains_key(&stream)
    }

    /// Gives a stream up without telling the peer. Its turn, if any, is passed over later.
    pub(crate) fn forget(&mut self, stream: u32) {
        if !self.waiting.is_empty() {
            self.waiting.remove(&stream);
        }
    }

    /// Whether a stream that the peer gave `credit` has a window that HTTP/2 cannot count.
    pub(crate) fn overflows(&self, credit: i64) -> bool {
        self.initial_window + credit > i64::from(MAX_31_BITS)
    }

    /// Streams that are over.
    pub(crate) fn closed(&mut self) -> &mut Closed {
        &mut self.closed
    }

    pub(crate) fn reset(&mut self, stream: u32, code: ErrorCode) {
        self.forget(stream);
        self.closed.give_up(stream);
        frame::write_reset(&mut self.gathered, stream, code);
    }

    /// The peer raised the connection's window.
    pub(crate) fn raise_connection(&mut self, increment: u32) -> Result<(), ConnectionError> {
        self.window += i64::from(increment);
        if self.window > i64::from(MAX_31_BITS) {
            let reason = "the connection's window is raised above 2^31 - 1";
            return Err(ConnectionError::new(ErrorCode::FLOW_CONTROL_ERROR, reason));
        }
        self.pump();
        Ok(())
    }

    /// The peer raised a waiting stream's window. `Err` where it did so in a way that ends the stream.
    pub(crate) fn raise_stream(&mut self, stream: u32, increment: u32) -> Result<(), ErrorCode> {
        let Some(waiting) = self.waiting.get_mut(&stream) else {
            return Ok(());
        };
        waiting.window += i64::from(increment);
        if increment == 0 {
            return Err(ErrorCode::PROTOCOL_ERROR);
        }
        if waiting.window > i64::from(MAX_31_BITS) {
            return Err(ErrorCode::FLOW_CONTROL_ERROR);
        }
        if !waiting.in_turn && waiting.window > 0 {
            waiting.in_turn = true;
            self.turns.push_back(stream);
        }
        self.pump();
        Ok(())
    }

    /// Takes the peer's SETTINGS over and acknowledges them.
    pub(crate) fn settings(&mut self, settings: &Settings) -> Result<(), ConnectionError> {
        if let Some(bytes) = settings.header_table_size {
            self.encoder.set_table_size(bytes);
        }
        if let Some(bytes) = settings.max_frame_size {
            self.max_frame = bytes as usize;
        }
        frame::write_head(&mut self.gathered, 0, kind::SETTINGS, frame::ACK, 0);
        if let Some(window) = settings.initial_window_size {
            let change = i64::from(window) - self.initial_window;
            self.initial_window = i64::from(window);
            for (stream, waiting) in &mut self.waiting {
                waiting.window += change;
                if waiting.window > i64::from(MAX_31_BITS) {
                    let reason = "a stream's window is raised above 2^31 - 1";
                    return Err(ConnectionError::new(ErrorCode::FLOW_CONTROL_ERROR, reason));
                }
                if !waiting.in_turn && waiting.window > 0 {
                    waiting.in_turn = true;
                    self.turns.push_back(*stream);
                }
            }
            self.pump();
        }
        Ok(())
    }

    fn data(&mut self, stream: u32, data: &[u8], end: bool) {
        let flags = if end { END_STREAM } else { 0 };
        frame::write_head(&mut self.gathered, data.len(), kind::DATA, flags, stream);
        self.gathered.extend_from_slice(data);
    }
}

/// Bytes on their way into the socket.
#[derive(Default)]
pub(crate) struct Writing {
    pub(crate) bytes: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// Bytes that went into the socket, all told.
    pub(crate) total: u64,
}

impl Writing {
    pub(crate) fn is_done(&self) -> bool {
        self.written == self.bytes.len() && !self.unflushed
    }

    /// Writes all; `Ready` when it is flushed.
    pub(crate) fn poll(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.written < self.bytes.len() {
            let bytes = ready!(Pin::new(&mut *io).poll_write(cx, &self.bytes[self.written..]))?;
            if bytes == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.written += bytes;
            self.total += bytes as u64;
        }
        self.bytes.clear();
        self.written = 0;
        ready!(Pin::new(io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}
