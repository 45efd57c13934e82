//! What callers and the connection share: pending calls, open streams, and the output.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::streaming::{STREAMING, Streaming};
use super::{CallError, Fate, Life, Reply, Request};
use crate::frame::{ConnectionError, ErrorCode};
use crate::hpack::{Constants, Headers, Literals};
use crate::limits::Limits;
use crate::message::Gathered;
use crate::outbound::{Outbound, Writing};
use crate::streams::Streams;

mod events;

/// Streams that a peer is taken to admit until it says how many.
const STREAMS_BEFORE_SETTINGS: u32 = 100;
/// Places of calls that were given up, left in the queue beside as many as half of it.
const STALE_PLACES: usize = 64;
pub(super) const NO_PATH: &str = "the request has no path";

pub(super) struct State {
    pub(super) out: Outbound,
    /// What requests name: `http` or `https`.
    pub(super) scheme: &'static [u8],
    pub(super) authority: Box<str>,
    pub(super) limits: Limits,
    calls: Slab<Call>,
    pub(super) streamings: Slab<Streaming>,
    /// The slot of each open stream.
    pub(super) streams: Streams<usize>,
    /// Calls that wait for a stream: slot, and the call's number, for the slot may be another's by then.
    pub(super) queue: VecDeque<(usize, u64)>,
    /// Those of them that were given up, as far as they still stand there.
    stale: usize,
    pub(super) next_call: u64,
    next_stream: u32,
    /// The stream from which on the connection is aging.
    ages_at: u32,
    admitted: u32,
    /// Whether the peer's first SETTINGS came: what they do not limit is not limited.
    greeted: bool,
    life: Life,
    abandoned: bool,
    /// Replies that began, counted round and round.
    pub(super) replies: u32,
    /// How often something came, and whether the peer was given up because nothing did.
    pub(super) heard: u64,
    /// How often a full socket got room again.
    pub(super) relieved: u64,
    silent: bool,
    /// The connection's future, where it sleeps.
    sleeper: Option<Waker>,
    /// The same where it waits for a socket that takes nothing: what callers send does not wake it.
    stuck: Option<Waker>,
}

struct Call {
    number: u64,
    /// 0 while it waits for a stream.
    stream: u32,
    /// Where its HEADERS stand in all that goes out.
    begins: u64,
    queued: Option<Box<Queued>>,
    waker: Option<Waker>,
    headers: Option<Headers>,
    body: Gathered,
    /// Bytes that count against the stream's window.
    unacknowledged: u32,
    outcome: Option<Result<Reply, CallError>>,
}

/// A request that waits for a stream.
struct Queued {
    path: Box<str>,
    constant: Vec<(Box<str>, Box<[u8]>)>,
    varying: Literals,
    body: bytes::Bytes,
}

impl State {
    pub(super) fn new(scheme: &'static [u8], authority: &str, limits: Limits) -> Self {
        State {
            out: Outbound::new(&limits, false),
            scheme,
            authority: authority.into(),
            ages_at: limits.last_stream / 8 * 7,
            limits,
            calls: Slab::new(),
            streamings: Slab::new(),
            streams: Streams::default(),
            queue: VecDeque::new(),
            stale: 0,
            next_call: 0,
            next_stream: 1,
            admitted: STREAMS_BEFORE_SETTINGS,
            greeted: false,
            life: Life::Ready,
            abandoned: false,
            replies: 0,
            heard: 0,
            relieved: 0,
            silent: false,
            sleeper: None,
            stuck: None,
        }
    }

    pub(super) fn send(&mut self, request: Request<'_>) -> usize {
        self.next_call += 1;
        let slot = self.calls.insert(Call {
            number: self.next_call,
            stream: 0,
            begins: 0,
            queued: None,
            waker: None,
            headers: None,
            body: Gathered::default(),
            unacknowledged: 0,
            outcome: None,
        });
        self.count_streams();
        if self.life >= Life::Draining {
            self.finish(slot, Err(not_written("the connection is closing")));
        } else if request.path.is_empty() {
            self.finish(slot, Err(not_written(NO_PATH)));
        } else if self.queue.is_empty() && self.may_open() {
            self.open(slot, request);
        } else if self.may_queue() {
            let own = |(name, value): &(&str, &[u8])| ((*name).into(), (*value).into());
            let queued = Queued {
                path: request.path.into(),
                constant: request.constant.iter().map(own).collect(),
                varying: request.varying,
                body: request.body,
            };
            self.calls[slot].queued = Some(Box::new(queued));
            self.queue.push_back((slot, self.next_call));
        } else {
            self.finish(
                slot,
                Err(not_written("too many calls wait for a stream of this connection")),
            );
        }
        slot
    }

    pub(super) fn poll(&mut self, slot: usize, cx: &mut Context<'_>) -> Poll<Result<Reply, CallError>> {
        let Some(call) = self.calls.get_mut(slot) else {
            let reason = "this slot holds no call".into();
            return Poll::Ready(Err(CallError {
                fate: Fate::Written,
                reason,
            }));
        };
        match call.outcome.take() {
            Some(outcome) => {
                self.calls.remove(slot);
                Poll::Ready(outcome)
            }
            None => {
                match &mut call.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    pub(super) fn cancel(&mut self, slot: usize) {
        let Some(call) = self.calls.try_remove(slot) else {
            return;
        };
        if call.queued.is_some() && call.outcome.is_none() {
            self.leave_queue();
        }
        if call.outcome.is_none() && call.stream != 0 {
            self.streams.remove(call.stream);
            self.out.reset(call.stream, ErrorCode::CANCEL);
            self.open_queued();
        }
    }

    pub(super) fn close(&mut self) {
        self.life = self.life.max(Life::Draining);
    }

    /// Nobody can ask for any outcome any more.
    pub(super) fn abandon(&mut self) {
        self.close();
        self.abandoned = true;
        self.wake_stuck();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Has the connection woken though its socket takes nothing.
    fn wake_stuck(&mut self) {
        self.sleeper = self.stuck.take().or(self.sleeper.take());
    }

    pub(super) fn life(&self) -> Life {
        self.life
    }

    pub(super) fn pending(&self) -> usize {
        self.calls.len() + self.streamings.len()
    }

    pub(super) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether the connection has nothing left to do.
    pub(super) fn is_finished(&self) -> bool {
        let idle = self.streams.len() == 0 && self.calls.iter().all(|(_, call)| call.outcome.is_some());
        self.life >= Life::Draining && (self.abandoned || idle && self.streamings_are_over())
    }

    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.out.wakers)
    }

    /// The connection's waker, where it sleeps and has something to do.
    pub(super) fn wake_connection(&mut self) -> Option<Waker> {
        if self.out.is_empty() && self.life < Life::Draining {
            return None;
        }
        self.sleeper.take()
    }

    pub(super) fn sleep(&mut self, waker: &Waker) {
        self.sleeper = Some(waker.clone());
    }

    /// Waits for the socket, or to be given up with its peer.
    pub(super) fn wait_for_socket(&mut self, waker: &Waker) {
        self.stuck = Some(waker.clone());
    }

    /// The output was taken: there is room again.
    pub(super) fn output_taken(&mut self) {
        // Calls that wait before bodies that do: a large one would take all the room each time.
        self.open_queued();
        self.out.pump();
    }

    /// The connection is gone: all that is pending fails. `written` says how far the output got.
    pub(super) fn end(&mut self, reason: &Arc<str>, written: &Writing) {
        self.life = Life::Closed;
        self.queue.clear();
        self.stale = 0;
        self.streams = Streams::default();
        self.end_streamings(reason, written);
        for (_, call) in &mut self.calls {
            if call.outcome.is_none() {
                let unwritten = call.stream == 0 || call.begins >= written.total;
                let fate = if unwritten {
                    Fate::NotWritten
                } else {
                    Fate::Written
                };
                call.outcome = Some(Err(CallError {
                    fate,
                    reason: reason.clone(),
                }));
                self.out.wakers.extend(call.waker.take());
            }
        }
    }

    /// Takes no more calls once the ids of streams are used up.
    pub(super) fn count_streams(&mut self) {
        if self.next_stream > self.ages_at {
            self.age();
        }
    }

    #[cold]
    fn age(&mut self) {
        let life = match self.next_stream > self.limits.last_stream {
            true => Life::Draining,
            false => Life::Aging,
        };
        self.life = self.life.max(life);
    }

    /// The peer has not answered a PING.
    pub(super) fn fall_silent(&mut self) {
        self.silent = true;
        self.wake_stuck();
        self.close();
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// The id of a stream that is opened now.
    pub(super) fn next_stream(&mut self) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        stream
    }

    pub(super) fn may_open(&self) -> bool {
        self.streams.len() < self.admitted as usize
            && !self.out.is_full()
            && self.next_stream <= self.limits.last_stream
    }

    fn open(&mut self, slot: usize, request: Request<'_>) {
        let stream = self.next_stream();
        let Some(call) = self.calls.get_mut(slot) else {
            return;
        };
        call.stream = stream;
        call.begins = self.out.position();
        self.streams.insert(stream, slot);
        let constants = Constants {
            before: &[
                (":method", b"POST"),
                (":scheme", self.scheme),
                (":authority", self.authority.as_bytes()),
            ],
            path: request.path,
            after: &[("te", b"trailers"), ("content-type", b"application/grpc")],
            own: request.constant,
        };
        self.out.block(stream, constants, &request.varying, false);
        self.out.body(stream, request.body, 0, None);
    }

    /// Whether one more call may wait for a stream.
    pub(super) fn may_queue(&self) -> bool {
        self.queue.len().saturating_sub(self.stale) < self.limits.queued_calls
    }

    /// A call that waits for a stream was given up. Its place is passed over later, and taken away where there are many.
    pub(super) fn leave_queue(&mut self) {
        self.stale += 1;
        if self.stale <= self.queue.len() / 2 + STALE_PLACES {
            return;
        }
        let (calls, streamings) = (&self.calls, &self.streamings);
        self.queue.retain(|(slot, number)| match slot & STREAMING {
            0 => calls.get(*slot).is_some_and(|call| call.number == *number),
            _ => streamings
                .get(slot ^ STREAMING)
                .is_some_and(|call| call.waits_as(*number)),
        });
        self.stale = 0;
    }

    /// Opens streams for calls that wait, as far as peer and buffer allow.
    pub(super) fn open_queued(&mut self) {
        while self.may_open()
            && let Some((slot, number)) = self.queue.pop_front()
        {
            if slot & STREAMING != 0 {
                if !self.begin_queued(slot, number) {
                    self.stale = self.stale.saturating_sub(1);
                }
                continue;
            }
            let waiting = self.calls.get_mut(slot).filter(|call| call.number == number);
            let Some(queued) = waiting.and_then(|call| call.queued.take()) else {
                self.stale = self.stale.saturating_sub(1);
                continue;
            };
            let constant: Vec<(&str, &[u8])> = queued.constant.iter().map(|(n, v)| (&**n, &**v)).collect();
            let request = Request {
                path: &queued.path,
                constant: &constant,
                varying: queued.varying,
                body: queued.body,
            };
            self.open(slot, request);
        }
        if !self.queue.is_empty() && self.next_stream > self.limits.last_stream {
            self.turn_away_queued("the connection has used up its streams");
        }
    }

    /// Calls that wait for a stream will get none.
    fn turn_away_queued(&mut self, reason: &str) {
        self.close();
        self.stale = 0;
        for (slot, number) in std::mem::take(&mut self.queue) {
            if slot & STREAMING != 0 {
                self.turn_away(slot, number, reason);
                continue;
            }
            let waits = |call: &Call| call.number == number && call.stream == 0;
            if self.calls.get(slot).is_some_and(waits) {
                self.finish(slot, Err(not_written(reason)));
            }
        }
    }

    fn finish(&mut self, slot: usize, outcome: Result<Reply, CallError>) {
        if let Some(call) = self.calls.get_mut(slot) {
            call.outcome = Some(outcome);
            self.out.wakers.extend(call.waker.take());
            if call.stream != 0 {
                self.streams.remove(call.stream);
            }
        } else if let Err(error) = outcome {
            self.finish_streaming(slot, error.into());
        }
    }

    /// The stream is broken, and the connection is not: the peer and the caller are told.
    fn fail_stream(&mut self, stream: u32, slot: usize, code: ErrorCode, reason: &str) {
        self.out.reset(stream, code);
        let (fate, reason) = (Fate::Written, reason.into());
        self.finish(slot, Err(CallError { fate, reason }));
    }

    /// A part of a reply to a call that is over. Where we ended that it may have been on its way, else the server has
    /// lost count of its streams.
    fn check_may_speak(&mut self, stream: u32) -> Result<(), ConnectionError> {
        self.check_was_open(stream)?;
        if self.out.closed().may_speak(stream) {
            return Ok(());
        }
        let reason = "a part of a reply came after its end";
        Err(ConnectionError::new(ErrorCode::STREAM_CLOSED, reason))
    }

    /// A frame of a stream that is not open: ignored where it was open once, an error where it never was.
    fn check_was_open(&self, stream: u32) -> Result<(), ConnectionError> {
        if stream % 2 == 1 && stream < self.next_stream {
            return Ok(());
        }
        Err(ConnectionError::protocol(
            "a frame of a stream that was never opened",
        ))
    }
}

fn not_written(reason: &str) -> CallError {
    CallError {
        fate: Fate::NotWritten,
        reason: reason.into(),
    }
}
