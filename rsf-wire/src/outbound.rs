//! What goes out: one buffer that gathers frames, and bodies that wait for windows, taking turns.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use bytes::{Buf, Bytes};

use crate::budget::Held;
use crate::closed::Closed;
use crate::frame::{self, ConnectionError, END_STREAM, ErrorCode, MAX_31_BITS, Settings, kind};
use crate::hpack::{Constants, Encoder, Literals, Pair};
use crate::inbound::{DEFAULT_TABLE, DEFAULT_WINDOW};
use crate::limits::Limits;
use crate::refusals::Refusal;

mod streaming;
mod writing;

use streaming::More;
pub(crate) use writing::{Large, Writing};

/// Turns of streams that are gone, passed over later.
const STALE_TURNS: usize = 64;
/// Bytes of a DATA frame at most: what any peer takes, and little enough that streams in turn do not wait for long.
const SMALLEST_MAX_FRAME: usize = 16_384;
/// A buffer that grew beyond this is given back when it is empty.
const KEPT_BYTES: usize = 64 * 1024;
/// Bytes of a piece from which on it is handed to the socket where it lies, and not copied.
const LARGE_BYTES: usize = 4 * 1024;

/// The writing side of a connection.
pub(crate) struct Outbound {
    /// Frames that wait to be taken by the connection's future.
    gathered: Vec<u8>,
    /// What stands between them without having been copied, and its bytes.
    large: Large,
    large_bytes: usize,
    /// Bytes that were taken, all told.
    taken: u64,
    encoder: Encoder,
    block: Vec<u8>,
    max_frame: usize,
    initial_window: i64,
    window: i64,
    waiting: HashMap<u32, Waiting>,
    /// Those of them that may rest: streams, and slow unary replies that are not whole yet.
    open: usize,
    closed: Closed,
    /// Waiting streams whose own window is open, in the order of their turns.
    turns: VecDeque<u32>,
    limit: usize,
    /// Whole bodies that wait (a server's: what a client sends is its own).
    unsent: Option<Held>,
    /// Who is to be woken: outside the lock, where there is one.
    pub(crate) wakers: Vec<Waker>,
}

/// A body that is not out yet.
struct Waiting {
    rest: Bytes,
    window: i64,
    in_turn: bool,
    /// The trailers that follow; without them the body ends the stream.
    trailers: Option<Trailers>,
    /// The stream is reset behind all that: nobody reads what its request still has to say.
    cut_off: bool,
    /// What a stream has that may get more than `rest`.
    more: Option<Box<More>>,
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
            large: Large::new(),
            large_bytes: 0,
            taken: 0,
            encoder: Encoder::new(DEFAULT_TABLE),
            block: Vec::new(),
            max_frame: SMALLEST_MAX_FRAME,
            initial_window: i64::from(DEFAULT_WINDOW),
            window: i64::from(DEFAULT_WINDOW),
            waiting: HashMap::new(),
            open: 0,
            closed: Closed::default(),
            turns: VecDeque::new(),
            limit: limits.unwritten_bytes,
            unsent: server.then(|| Held::new(limits.unsent_bytes, limits.process_bytes)),
            wakers: Vec::new(),
        }
    }

    /// Where the next frame will stand in all that goes out.
    pub(crate) fn position(&self) -> u64 {
        self.taken + self.unwritten() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    fn unwritten(&self) -> usize {
        self.gathered.len() + self.large_bytes
    }

    /// Whether so much waits for the socket that bodies and new calls wait too.
    pub(crate) fn is_full(&self) -> bool {
        self.unwritten() >= self.limit
    }

    /// Whether so much waits that the peer is read no more until it reads us.
    pub(crate) fn is_flooded(&self) -> bool {
        self.unwritten() >= 2 * self.limit
    }

    /// Whether far more waits than calls bring: a peer that reads nothing is told things all the same.
    pub(crate) fn is_drowned(&self) -> bool {
        self.unwritten() >= 16 * self.limit + KEPT_BYTES
    }

    /// Frames to be appended to directly: control frames, which no window holds back.
    pub(crate) fn control(&mut self) -> &mut Vec<u8> {
        &mut self.gathered
    }

    /// Moves what has gathered into `into`, which is empty.
    pub(crate) fn take(&mut self, into: &mut Writing) {
        self.taken += self.unwritten() as u64;
        self.large_bytes = 0;
        std::mem::swap(&mut self.gathered, &mut into.bytes);
        std::mem::swap(&mut self.large, &mut into.large);
    }

    /// A reply's HEADERS, trailers, or those of a request that is not gRPC's.
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
    /// `false` where too much waits already: the stream was reset.
    pub(crate) fn body(&mut self, stream: u32, body: Bytes, credit: i64, trailers: Option<Trailers>) -> bool {
        let window = self.initial_window + credit;
        let length = body.len() as i64;
        let fits = body.len() <= SMALLEST_MAX_FRAME && length <= window && length <= self.window;
        if fits && self.turns.is_empty() && !self.is_full() {
            self.window -= length;
            self.data(stream, body, trailers.is_none());
            if let Some(trailers) = trailers {
                self.headers(stream, trailers.constant, &trailers.varying, true);
            }
            return true;
        }
        if !self.hold(body.len()) {
            self.reset(stream, ErrorCode::ENHANCE_YOUR_CALM);
            return false;
        }
        let in_turn = window > 0 || body.is_empty();
        self.waiting.insert(
            stream,
            Waiting {
                rest: body,
                window,
                in_turn,
                trailers,
                cut_off: false,
                more: None,
            },
        );
        if in_turn {
            self.turns.push_back(stream);
        }
        self.pump();
        true
    }

    /// Counts bytes that wait for the peer; `false` where they are too many.
    fn hold(&mut self, bytes: usize) -> bool {
        let fits = self.unsent.as_ref().is_none_or(|unsent| unsent.grow(bytes));
        if !fits {
            Refusal::Unsent.note();
        }
        fits
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
            let allowed = waiting.window.min(self.window).max(0) as usize;
            if allowed == 0 && self.window <= 0 && !waiting.rest.is_empty() {
                return;
            }
            self.turns.pop_front();
            let part = waiting
                .rest
                .split_to(allowed.min(SMALLEST_MAX_FRAME).min(waiting.rest.len()));
            waiting.window -= part.len() as i64;
            self.window -= part.len() as i64;
            if let Some(unsent) = &self.unsent
                && waiting.is_counted()
            {
                unsent.shrink(part.len());
            }
            let finished = waiting.is_over(part.len(), &mut self.wakers);
            waiting.in_turn = !finished && waiting.window > 0 && !waiting.rest.is_empty();
            if waiting.in_turn {
                self.turns.push_back(stream);
            }
            if !finished {
                if part.has_remaining() {
                    self.data(stream, part, false);
                }
                continue;
            }
            if let Some(waiting) = self.waiting.remove(&stream) {
                self.last(stream, part, waiting);
            }
        }
    }

    /// Sends a body's last part and what stands behind it.
    fn last(&mut self, stream: u32, part: Bytes, waiting: Waiting) {
        if waiting.trailers.is_none() || part.has_remaining() {
            self.data(stream, part, waiting.trailers.is_none());
        }
        if let Some(trailers) = waiting.trailers {
            self.headers(stream, trailers.constant, &trailers.varying, true);
        }
        if waiting.cut_off {
            frame::write_reset(&mut self.gathered, stream, ErrorCode::NO_ERROR);
        }
        if let Some(more) = waiting.more {
            self.open -= usize::from(more.may_rest());
        }
    }

    /// Streams whose body is not all out yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Those of them that wait for the peer alone, and may not rest.
    pub(crate) fn owed(&self) -> usize {
        self.waiting.len() - self.open
    }

    /// Whether the stream's body is not all out yet.
    pub(crate) fn owes(&self, stream: u32) -> bool {
        self.waiting.contains_key(&stream)
    }

    /// Resets a stream as soon as its body and trailers are out; `false` where they are.
    pub(crate) fn cut_off(&mut self, stream: u32) -> bool {
        let waiting = self.waiting.get_mut(&stream);
        waiting.map(|waiting| waiting.cut_off = true).is_some()
    }

    /// Gives a stream up without telling the peer. Its turn, if any, is passed over later.
    pub(crate) fn forget(&mut self, stream: u32) {
        if !self.waiting.is_empty()
            && let Some(waiting) = self.waiting.remove(&stream)
        {
            let rests = waiting.more.as_ref().is_some_and(|more| more.may_rest());
            self.open -= usize::from(rests);
            if let Some(unsent) = &self.unsent
                && waiting.is_counted()
            {
                unsent.shrink(waiting.len());
            }
            // A peer that closes its window could else make us remember turns for ever.
            if self.turns.len() > 2 * self.waiting.len() + STALE_TURNS {
                self.turns.retain(|stream| self.waiting.contains_key(stream));
            }
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
        if waiting.gets_turn() {
            self.turns.push_back(stream);
        }
        self.pump();
        Ok(())
    }

    /// Takes the peer's SETTINGS over and acknowledges them.
    pub(crate) fn settings(&mut self, settings: &Settings) -> Result<(), ConnectionError> {
        // In this order: the encoder tells the peer of a table that shrank for a moment too (RFC 7541, 4.2).
        for bytes in [settings.least_header_table_size, settings.header_table_size]
            .into_iter()
            .flatten()
        {
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
                if waiting.gets_turn() {
                    self.turns.push_back(*stream);
                }
            }
            self.pump();
        }
        Ok(())
    }

    fn data(&mut self, stream: u32, data: Bytes, end: bool) {
        let flags = if end { END_STREAM } else { 0 };
        frame::write_head(&mut self.gathered, data.len(), kind::DATA, flags, stream);
        if data.len() < LARGE_BYTES {
            self.gathered.extend_from_slice(&data);
        } else {
            self.large_bytes += data.len();
            self.large.push_back((self.gathered.len(), data));
        }
    }
}
