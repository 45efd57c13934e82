//! Streams that are read and written while they last: what their user and their connection share.
//!
//! The connection's window is raised as bytes come, a stream's as its reader takes them: a slow reader stops its own
//! sender and nobody else. The other way a writer is told when there is room: bytes that wait for windows and socket are
//! bounded a stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::budget::Held;
use crate::client::{CallError, Fate};
use crate::frame::ErrorCode;
use crate::hpack::{Headers, Literals};
use crate::inbound::SMALL_PIECE;
use crate::limits::Limits;

/// Why a stream ended before its time, and how far its request got.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct StreamError {
    /// How far.
    pub fate: Fate,
    /// What the RST_STREAM said, where there was one.
    pub code: Option<ErrorCode>,
    /// For people.
    pub reason: Arc<str>,
}

impl From<CallError> for StreamError {
    fn from(error: CallError) -> Self {
        StreamError {
            fate: error.fate,
            code: None,
            reason: error.reason,
        }
    }
}

impl From<StreamError> for CallError {
    fn from(error: StreamError) -> Self {
        CallError {
            fate: error.fate,
            reason: error.reason,
        }
    }
}

/// What a stream's user wants of the connection.
pub(crate) enum Order {
    /// A response's headers (a server's): those that every gRPC response has stand before `fields` where `grpc` says so.
    Head {
        grpc: bool,
        fields: Literals,
        end: bool,
    },
    Data {
        data: Bytes,
        end: bool,
    },
    /// The end, behind trailers.
    Trailers(Literals),
    /// So many bytes were taken: the peer may send as many more.
    Release(u32),
    /// Nobody reads any more.
    Unread,
    /// Nobody writes any more, and the end was not said.
    Unfinished,
    Reset(ErrorCode),
    /// Nobody holds the stream any more.
    Gone,
}

/// Where orders go.
pub(crate) trait Link: Send + Sync + 'static {
    fn order(&self, order: Order);
}

/// Both of a user's halves hold it.
struct Hold {
    pipe: Arc<Pipe>,
    link: Box<dyn Link>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.link.order(Order::Gone);
    }
}

/// The user's halves of a stream; `finished` where nothing will be written.
pub(crate) fn halves(pipe: Arc<Pipe>, link: impl Link, finished: bool) -> (Outgoing, Incoming) {
    let link = Box::new(link);
    let hold = Arc::new(Hold { pipe, link });
    let incoming = Incoming { hold: hold.clone() };
    (Outgoing { hold, finished }, incoming)
}

/// The half that is written. Dropped before its end was said, it resets the stream.
pub struct Outgoing {
    hold: Arc<Hold>,
    finished: bool,
}

impl Outgoing {
    /// Waits for room. The caller is woken too when the stream is over, so that whatever it writes can be dropped.
    ///
    /// # Errors
    /// The stream is over: by a reset, with its connection, or because the peer has answered and wants no more.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.hold.pipe.poll_room(cx)
    }

    /// Sends a piece, `end` with the last one. Meant for where there is room; without it the piece waits all the same.
    pub fn send(&mut self, data: Bytes, end: bool) {
        if data.is_empty() && !end {
            return;
        }
        self.finished |= end;
        self.hold.pipe.inner.lock().waiting += data.len();
        self.hold.link.order(Order::Data { data, end });
    }

    /// Ends with trailers.
    pub fn finish(mut self, trailers: Literals) {
        self.finished = true;
        self.hold.link.order(Order::Trailers(trailers));
    }

    /// Ends the stream as broken, in both directions.
    pub fn reset(mut self, code: ErrorCode) {
        self.finished = true;
        self.hold.link.order(Order::Reset(code));
    }

    pub(crate) fn head(&mut self, grpc: bool, fields: Literals, end: bool) {
        self.finished |= end;
        self.hold.link.order(Order::Head { grpc, fields, end });
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.finished {
            self.hold.link.order(Order::Unfinished);
        }
    }
}

/// The half that is read. Dropped before its end, it cancels a client's call; at a server the rest of the request is
/// thrown away as it comes, as far as its window reaches.
pub struct Incoming {
    hold: Arc<Hold>,
}

impl Incoming {
    /// A response's headers, once.
    ///
    /// # Errors
    /// There will be none.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Headers, StreamError>> {
        let mut inner = self.hold.pipe.inner.lock();
        match (inner.head.take(), &inner.end) {
            (Some(head), _) => Poll::Ready(Ok(head)),
            (None, End::Broken(error)) => Poll::Ready(Err(error.clone())),
            (None, _) => inner.read_later(cx),
        }
    }

    /// The next piece of the body; `None` behind the last.
    ///
    /// # Errors
    /// The stream broke; all that came before was handed out.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let mut inner = self.hold.pipe.inner.lock();
        let piece = inner.next_piece();
        let length = piece.as_ref().map_or(0, Bytes::len);
        // Without a piece it may be padding that is given back.
        let release = inner.taken(length as u32, self.hold.pipe.window / 2);
        let polled = match (piece, &inner.end) {
            (Some(piece), _) => Poll::Ready(Some(Ok(piece))),
            (None, End::Open) => inner.read_later(cx),
            (None, End::Done) => Poll::Ready(None),
            (None, End::Broken(error)) => Poll::Ready(Some(Err(error.clone()))),
        };
        drop(inner);
        self.hold.pipe.give_back(length);
        if release > 0 {
            self.hold.link.order(Order::Release(release));
        }
        polled
    }

    /// The trailers, once; there are none before the body's end.
    pub fn take_trailers(&mut self) -> Option<Headers> {
        self.hold.pipe.inner.lock().trailers.take()
    }

    /// Whether all was read, trailers included.
    pub fn is_ended(&self) -> bool {
        let inner = self.hold.pipe.inner.lock();
        matches!(inner.end, End::Done) && inner.is_drained() && inner.trailers.is_none()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let open = matches!(self.hold.pipe.inner.lock().end, End::Open);
        if open {
            self.hold.link.order(Order::Unread);
        }
    }
}

/// What user and connection share. Held by the connection for as long as the stream is open.
pub(crate) struct Pipe {
    inner: Mutex<Inner>,
    window: u32,
    /// Bytes over which the stream breaks: a peer's that goes by no window.
    tolerated: u32,
    /// Bytes that may wait to be written.
    room: usize,
    /// Where what waits for its reader is counted (a server's).
    held: Option<Arc<Held>>,
}

/// Why a piece is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It passes the stream's window.
    Window,
    /// Too much waits for readers already.
    Memory,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.give_back(self.inner.lock().len());
    }
}

struct Inner {
    head: Option<Headers>,
    pieces: VecDeque<Bytes>,
    /// Small pieces, behind the others.
    small: BytesMut,
    trailers: Option<Headers>,
    end: End,
    unread: bool,
    /// Bytes that came and were not given back to the window, and those of them that were taken.
    outstanding: u32,
    taken: u32,
    /// Bytes that were given back before they are taken.
    free: u32,
    reader: Option<Waker>,
    /// Whether the stream is open: one that waits for a place among the streams has no room.
    opened: bool,
    /// Bytes that wait to be written.
    waiting: usize,
    /// Whether more of them would interest nobody.
    closed: bool,
    writer: Option<Waker>,
}

enum End {
    Open,
    Done,
    Broken(StreamError),
}

impl Pipe {
    /// What waits for its reader is counted in `held`, where there is one.
    pub(crate) fn new(limits: &Limits, opened: bool, held: Option<Arc<Held>>) -> Arc<Pipe> {
        Arc::new(Pipe {
            inner: Mutex::new(Inner {
                head: None,
                pieces: VecDeque::new(),
                small: BytesMut::new(),
                trailers: None,
                end: End::Open,
                unread: false,
                outstanding: 0,
                taken: 0,
                free: 0,
                reader: None,
                opened,
                waiting: 0,
                closed: false,
                writer: None,
            }),
            window: limits.stream_window,
            tolerated: limits.tolerated_window(),
            room: limits.stream_buffer,
            held,
        })
    }

    /// So many bytes wait for their reader no more.
    fn give_back(&self, bytes: usize) {
        if let Some(held) = &self.held {
            held.shrink(bytes);
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut inner = self.inner.lock();
        if let End::Broken(error) = &inner.end {
            return Poll::Ready(Err(error.clone()));
        }
        if inner.closed {
            return Poll::Ready(Err(StreamError {
                fate: Fate::Written,
                code: None,
                reason: "the stream is over".into(),
            }));
        }
        set(&mut inner.writer, cx);
        match inner.opened && inner.waiting < self.room {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// The stream has got its place.
    pub(crate) fn open(&self) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.opened = true;
        inner.writer.take()
    }

    /// So many bytes were written. The writer, where that gave it room.
    pub(crate) fn written(&self, bytes: usize) -> Option<Waker> {
        let mut inner = self.inner.lock();
        let full = inner.waiting >= self.room;
        inner.waiting = inner.waiting.saturating_sub(bytes);
        (full && inner.waiting < self.room).then(|| inner.writer.take())?
    }

    pub(crate) fn head(&self, head: Headers) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.head = Some(head);
        inner.reader.take()
    }

    /// A piece came that counts as `flow` bytes.
    pub(crate) fn push(&self, data: Bytes, flow: u32) -> Result<Option<Waker>, Unfit> {
        let mut inner = self.inner.lock();
        inner.outstanding = inner.outstanding.saturating_add(flow);
        if inner.outstanding > self.tolerated {
            return Err(Unfit::Window);
        }
        if inner.unread {
            return Ok(None);
        }
        inner.taken += flow - data.len() as u32;
        if data.is_empty() {
            // Padding alone: the reader gives it back where it is worth it.
            let worth = inner.taken >= self.window / 2;
            return Ok(worth.then(|| inner.reader.take()).flatten());
        }
        if !self.held.as_ref().is_none_or(|held| held.grow(data.len())) {
            return Err(Unfit::Memory);
        }
        // Put together: a peer may send a window's worth of single bytes.
        if data.len() < SMALL_PIECE {
            inner.small.extend_from_slice(&data);
        } else {
            if !inner.small.is_empty() {
                let small = inner.small.split().freeze();
                inner.pieces.push_back(small);
            }
            inner.pieces.push_back(data);
        }
        Ok(inner.reader.take())
    }

    /// What came before there was a stream to read it from, and was given back to the window.
    pub(crate) fn begin(&self, gathered: Bytes) {
        let mut inner = self.inner.lock();
        if !gathered.is_empty() {
            // It was counted while it gathered, and is so until it is read.
            if let Some(held) = &self.held {
                held.keep(gathered.len());
            }
            inner.free = gathered.len() as u32;
            inner.pieces.push_back(gathered);
        }
    }

    /// What is read has its end, perhaps with trailers.
    pub(crate) fn end(&self, trailers: Option<Headers>) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.trailers = trailers;
        if matches!(inner.end, End::Open) {
            inner.end = End::Done;
        }
        inner.reader.take()
    }

    /// What is written interests nobody any more.
    pub(crate) fn close(&self) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.writer.take()
    }

    /// Both halves end here; what was read to its end stays so.
    pub(crate) fn fail(&self, error: StreamError) -> [Option<Waker>; 2] {
        let mut inner = self.inner.lock();
        if matches!(inner.end, End::Open) {
            inner.end = End::Broken(error);
        }
        inner.closed = true;
        [inner.reader.take(), inner.writer.take()]
    }

    /// Nobody reads any more.
    pub(crate) fn discard(&self) {
        let mut inner = self.inner.lock();
        inner.unread = true;
        self.give_back(inner.len());
        inner.pieces = VecDeque::new();
        inner.small = BytesMut::new();
    }
}

impl Inner {
    fn read_later<T>(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        set(&mut self.reader, cx);
        Poll::Pending
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        match self.pieces.pop_front() {
            None if self.small.is_empty() => None,
            None => Some(self.small.split().freeze()),
            piece => piece,
        }
    }

    /// Bytes that wait for their reader.
    fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + self.small.len()
    }

    fn is_drained(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }

    /// Counts bytes that were taken; those that are to be given back to the window, from `worth` on.
    fn taken(&mut self, bytes: u32, worth: u32) -> u32 {
        let free = bytes.min(self.free);
        self.free -= free;
        self.taken += bytes - free;
        if self.taken < worth || !matches!(self.end, End::Open) {
            return 0;
        }
        self.outstanding -= self.taken;
        std::mem::take(&mut self.taken)
    }
}

fn set(waker: &mut Option<Waker>, cx: &mut Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> Arc<Pipe> {
        let limits = Limits {
            stream_window: 200_000,
            stream_buffer: 1000,
            ..Limits::default()
        };
        Pipe::new(&limits, true, None)
    }

    struct Orders(Arc<Mutex<Vec<u32>>>);

    impl Link for Orders {
        fn order(&self, order: Order) {
            if let Order::Release(bytes) = order {
                self.0.lock().push(bytes);
            }
        }
    }

    #[test]
    fn small_pieces_come_out_together_and_in_order() {
        let pipe = pipe();
        let (_outgoing, mut incoming) = halves(pipe.clone(), Orders(Arc::default()), false);
        for piece in [vec![1; 3], vec![2; 3], vec![3; 18_000], vec![4; 1]] {
            let length = piece.len() as u32;
            assert!(pipe.push(piece.into(), length).is_ok());
        }
        pipe.end(None);
        let mut cx = Context::from_waker(Waker::noop());
        let mut lengths = Vec::new();
        while let Poll::Ready(Some(Ok(piece))) = incoming.poll_data(&mut cx) {
            lengths.push((piece[0], piece.len()));
        }
        assert_eq!(lengths, [(1, 6), (3, 18_000), (4, 1)]);
        assert!(incoming.is_ended());
    }

    #[test]
    fn what_waits_keeps_no_more_alive_than_three_times_its_length() {
        for (length, kept) in [(1, false), (10_000, false), (16_383, false), (16_384, true)] {
            let (pipe, read) = (pipe(), Bytes::from(vec![0; 48 * 1024]));
            assert!(pipe.push(read.slice(..length), length as u32).is_ok());
            assert_eq!(!read.is_unique(), kept, "{length}");
        }
    }

    #[test]
    fn the_window_is_given_back_as_bytes_are_taken_and_padding_counts() {
        let (pipe, orders) = (pipe(), Arc::default());
        let (_outgoing, mut incoming) = halves(pipe.clone(), Orders(Arc::clone(&orders)), false);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..9 {
            assert!(pipe.push(Bytes::from(vec![0; 18_000]), 20_000).is_ok());
        }
        assert!(pipe.push(Bytes::from(vec![0; 20_001]), 20_001).is_err());
        assert!(orders.lock().is_empty(), "nothing was taken");
        for _ in 0..9 {
            assert!(incoming.poll_data(&mut cx).is_ready());
        }
        assert_eq!(*orders.lock(), [108_000], "five pieces and the padding of nine");
        assert!(pipe.push(Bytes::from(vec![0; 100_000]), 100_000).is_ok());
    }

    #[test]
    fn padding_alone_is_given_back_too() {
        let (pipe, orders) = (pipe(), Arc::default());
        let (_outgoing, mut incoming) = halves(pipe.clone(), Orders(Arc::clone(&orders)), false);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(incoming.poll_data(&mut cx).is_pending());
        assert!(pipe.push(Bytes::new(), 99_999).unwrap().is_none());
        assert!(pipe.push(Bytes::new(), 1).unwrap().is_some(), "it is worth it");
        assert!(incoming.poll_data(&mut cx).is_pending());
        assert_eq!(*orders.lock(), [100_000]);
    }

    #[test]
    fn what_waits_for_its_reader_is_counted_until_it_is_read_or_nobody_will() {
        let limits = Limits::default();
        let held = Arc::new(Held::new(30_000, usize::MAX));
        let fits = |bytes| {
            let fits = held.grow(bytes);
            held.shrink(if fits { bytes } else { 0 });
            fits
        };
        for end in ["read", "unread", "dropped"] {
            let pipe = Pipe::new(&limits, true, Some(held.clone()));
            let (outgoing, mut incoming) = halves(pipe.clone(), Orders(Arc::default()), false);
            let mut cx = Context::from_waker(Waker::noop());
            pipe.begin(vec![0; 10_000].into());
            assert!(pipe.push(vec![0; 19_000].into(), 19_000).is_ok());
            assert!(pipe.push(vec![0; 1_000].into(), 1_000).is_ok());
            assert_eq!(pipe.push(vec![0; 1].into(), 1).unwrap_err(), Unfit::Memory);
            match end {
                "read" => {
                    assert!(!fits(1));
                    assert!(incoming.poll_data(&mut cx).is_ready());
                    assert!(fits(10_000) && !fits(10_001));
                    while incoming.poll_data(&mut cx).is_ready() {}
                }
                "unread" => pipe.discard(),
                _ => drop((outgoing, incoming, pipe)),
            }
            assert!(fits(30_000), "{end}");
        }
    }
}
