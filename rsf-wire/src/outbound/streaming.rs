//! Bodies that get more while they are sent: pieces that wait for windows, and writers that wait for room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::{Outbound, Trailers, Waiting};
use crate::frame::ErrorCode;
use crate::stream::Pipe;

/// What follows on the piece that is being sent.
pub(super) struct More {
    pieces: VecDeque<Bytes>,
    ended: bool,
    /// Whether it is the reply to a unary request, which like all of them is counted and not waited for without end.
    unary: bool,
    pipe: Arc<Pipe>,
}

impl More {
    /// Whether the peer may leave it unread for as long as it likes.
    pub(super) fn may_rest(&self) -> bool {
        !(self.unary && self.ended)
    }
}

impl Outbound {
    /// A stream whose HEADERS are out or will be before any of its DATA. `credit` is what the peer added to its window so
    /// far, `unary` whether it is the reply to a unary request.
    pub(crate) fn open(&mut self, stream: u32, credit: i64, pipe: Arc<Pipe>, unary: bool) {
        let more = More {
            pieces: VecDeque::new(),
            ended: false,
            unary,
            pipe,
        };
        let waiting = Waiting {
            rest: Bytes::new(),
            window: self.initial_window + credit,
            in_turn: false,
            trailers: None,
            cut_off: false,
            more: Some(Box::new(more)),
        };
        self.open += 1;
        self.waiting.insert(stream, waiting);
    }

    /// Adds a piece to an open stream, the last one with `end`. `false` where too much waits already: the stream was
    /// reset.
    pub(crate) fn push(&mut self, stream: u32, data: Bytes, end: bool) -> bool {
        let Some(waiting) = self.waiting.get(&stream) else {
            return true;
        };
        if waiting.is_counted() && !self.hold(data.len()) {
            self.reset(stream, ErrorCode::ENHANCE_YOUR_CALM);
            return false;
        }
        self.add(stream, data, end);
        true
    }

    fn add(&mut self, stream: u32, data: Bytes, end: bool) {
        let Some(waiting) = self.waiting.get_mut(&stream) else {
            return;
        };
        let Some(more) = &mut waiting.more else {
            return;
        };
        let rested = more.may_rest();
        more.ended |= end;
        self.open -= usize::from(rested && !more.may_rest());
        if waiting.rest.is_empty() {
            waiting.rest = data;
        } else if !data.is_empty() {
            more.pieces.push_back(data);
        }
        if waiting.gets_turn() {
            self.turns.push_back(stream);
            self.pump();
        } else if end {
            self.end(stream, None);
        }
    }

    /// Ends an open stream, with or without trailers, when all its pieces are out.
    pub(crate) fn end(&mut self, stream: u32, trailers: Option<Trailers>) {
        let Some(waiting) = self.waiting.get_mut(&stream) else {
            return;
        };
        waiting.trailers = trailers;
        if let Some(more) = &mut waiting.more {
            let rested = more.may_rest();
            more.ended = true;
            self.open -= usize::from(rested && !more.may_rest());
        }
        // What holds bodies back does not hold back their end.
        if waiting.rest.is_empty()
            && let Some(waiting) = self.waiting.remove(&stream)
        {
            self.last(stream, Bytes::new(), waiting);
        }
    }
}

impl Waiting {
    /// `sent` bytes have gone: takes up the next piece where there is one. Whether nothing is left, and nothing follows.
    pub(super) fn is_over(&mut self, sent: usize, wakers: &mut Vec<Waker>) -> bool {
        let Some(more) = &mut self.more else {
            return self.rest.is_empty();
        };
        wakers.extend(more.pipe.written(sent));
        if self.rest.is_empty()
            && let Some(piece) = more.pieces.pop_front()
        {
            self.rest = piece;
        }
        self.rest.is_empty() && more.ended
    }

    /// Whether its bytes count as unsent.
    pub(super) fn is_counted(&self) -> bool {
        self.more.as_ref().is_none_or(|more| more.unary)
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        let pieces = self.more.iter().flat_map(|more| &more.pieces);
        self.rest.len() + pieces.map(Bytes::len).sum::<usize>()
    }

    /// Whether it is to stand in line from now on: it has something to send, and may.
    pub(super) fn gets_turn(&mut self) -> bool {
        let gets = !self.in_turn && self.window > 0 && !self.rest.is_empty();
        self.in_turn |= gets;
        gets
    }
}
