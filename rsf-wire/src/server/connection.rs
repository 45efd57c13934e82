//! One connection of a server: reads, hands requests over, writes what has gathered.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::in_place::InPlace;
use super::running::{Probe, Replies, Running};
use super::streaming::Open;
use super::{Handler, Response};
use crate::budget::Held;
use crate::client::Ended;
use crate::frame::{self, ConnectionError, ErrorCode, MAX_31_BITS};
use crate::hpack::Headers;
use crate::inbound::{Event, Inbound};
use crate::keepalive::PROBE;
use crate::limits::Limits;
use crate::message::Gathered;
use crate::outbound::{Outbound, Writing};
use crate::stream::Order;
use crate::streams::Streams;

mod lingering;
mod patience;
mod requests;

use lingering::Lingering;
use patience::Patience;

/// What the PING between the two GOAWAYs carries.
const DRAIN_PING: [u8; 8] = *b"rsfdrain";
pub(super) struct ServerConnection<S, H: ?Sized, D> {
    io: S,
    pub(super) handler: Arc<H>,
    pub(super) limits: Limits,
    drain: D,
    draining: Draining,
    inbound: Inbound,
    pub(super) out: Outbound,
    writing: Writing,
    pub(super) streams: Streams<Stream>,
    /// Those of them that are streaming requests.
    pub(super) serving: usize,
    /// Those of them that are unary requests of which not all has come.
    receiving: usize,
    /// How often something came.
    heard: u64,
    /// The greatest stream that the peer opened.
    last: u32,
    pub(super) replies: Arc<Replies>,
    finished: Vec<(u32, Response)>,
    orders: Vec<(u32, Order)>,
    /// Bytes of unfinished bodies, and of streams' that wait for their readers.
    pub(super) buffered: Arc<Held>,
    pub(super) early_resets: u32,
    lingering: Lingering,
    patience: Patience,
    in_place: InPlace,
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
pub(super) struct Stream {
    pub(super) stage: Stage,
    /// What the peer added to the stream's window before there was anything to send.
    pub(super) credit: i64,
    /// Whether the request has ended.
    pub(super) ended: bool,
}

impl Stream {
    /// Whether its window is `credit` and what all streams begin with. A streaming request's is counted where its answer
    /// goes out.
    fn has_credit(&self) -> bool {
        !matches!(self.stage, Stage::Streaming(_))
    }
}

pub(super) enum Stage {
    Receiving {
        route: usize,
        headers: Headers,
        body: Gathered,
        unacknowledged: u32,
    },
    Running {
        /// `None` for a moment, while it becomes something else.
        _task: Option<Running>,
    },
    Streaming(Box<Open>),
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
            serving: 0,
            receiving: 0,
            heard: 0,
            last: 0,
            replies: Arc::default(),
            finished: Vec::new(),
            orders: Vec::new(),
            buffered: Arc::new(Held::new(limits.buffered_bytes, limits.process_bytes)),
            early_resets: 0,
            lingering: Lingering::default(),
            patience: Patience::new(&limits),
            in_place: InPlace::new(limits.in_place_time),
            limits,
        }
    }

    /// What its probe holds on to.
    pub(super) fn replies(&self) -> &Arc<Replies> {
        &self.replies
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        loop {
            self.poll_drain(cx);
            let mut progress = self.take_replies(cx)?;
            if !self.out.is_flooded() {
                match self.inbound.poll_read(&mut self.io, cx) {
                    Poll::Ready(Ok(true)) => {
                        self.heard += 1;
                        self.take_in(cx)?;
                        progress = true;
                    }
                    Poll::Ready(Ok(false)) => return Poll::Ready(self.at_end()),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending if self.receiving > 0 => self.hand_over_unfinished(),
                    Poll::Pending => {}
                }
            }
            if self.writing.is_done() {
                if !self.lingering.is_empty() {
                    self.ask_for_rests();
                }
                if self.out.is_empty() {
                    if self.is_drained() {
                        return Pin::new(&mut self.io).poll_shutdown(cx).map_err(Ended::from);
                    }
                    self.wake();
                    if progress {
                        continue;
                    }
                    return Poll::Pending;
                }
                self.out.take(&mut self.writing);
                self.out.pump();
            }
            self.wake();
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
        matches!(self.draining, Draining::Above(_))
            && self.streams.len() == 0
            && self.out.waiting() == 0
            && self.lingering.is_empty()
    }

    fn take_replies(&mut self, cx: &Context<'_>) -> Result<bool, Ended> {
        let (mut finished, mut orders) = (
            std::mem::take(&mut self.finished),
            std::mem::take(&mut self.orders),
        );
        // A peer that is not read while it takes what waits for it, slowly, is there all the same.
        let heard = self.heard + self.writing.relieved;
        match self.replies.take(&mut finished, &mut orders, heard, cx) {
            Probe::Nothing => {}
            Probe::Ping => frame::write_ping(self.out.control(), false, PROBE),
            Probe::GiveUp => return Err(Ended::Silent),
        }
        let some = !finished.is_empty() || !orders.is_empty();
        for (stream, response) in finished.drain(..) {
            self.reply(stream, response);
        }
        for (stream, order) in orders.drain(..) {
            self.order(stream, order);
        }
        (self.finished, self.orders) = (finished, orders);
        Ok(some)
    }

    /// Wakes the tasks of streaming requests that have something to read or room to write.
    fn wake(&mut self) {
        self.out.wakers.drain(..).for_each(Waker::wake);
    }

    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        self.in_place.begin_batch();
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
            Event::Data {
                stream,
                data,
                flow,
                end,
            } => self.data(stream, data, flow, end, cx),
            Event::Reset { stream, .. } => {
                self.check_was_open(stream)?;
                let unread = self.out.owes(stream);
                self.out.forget(stream);
                self.lingering.end(stream);
                if self.remove(stream).is_some() || unread {
                    return self.count_early_reset();
                }
                Ok(())
            }
            Event::Settings(settings) => self.settings(&settings),
            Event::Ping(payload) => {
                frame::write_ping(self.out.control(), true, payload);
                Ok(())
            }
            Event::Pong(payload) => {
                if payload == lingering::PING {
                    self.hear_rests();
                } else if payload == DRAIN_PING && self.draining == Draining::Announced {
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
            self.out.take(&mut self.writing);
        }
        let _ = self.writing.poll(&mut self.io, cx);
    }
}

impl<S, H: ?Sized, D> Drop for ServerConnection<S, H, D> {
    /// Whoever was taken out of a stream to be woken would else be told neither what came nor that the stream is over.
    fn drop(&mut self) {
        self.out.wakers.drain(..).for_each(Waker::wake);
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
        self.in_place.begin_turn();
        let outcome = loop {
            if let Poll::Ready(outcome) = self.drive(cx) {
                break outcome;
            }
            if let Err(error) = ready!(self.poll_patience(cx)) {
                break Err(error);
            }
        };
        // What came with the connection's last bytes is still read.
        self.wake();
        if let Err(Ended::Protocol(error)) = &outcome {
            self.accuse(error, cx);
        }
        Poll::Ready(outcome)
    }
}
