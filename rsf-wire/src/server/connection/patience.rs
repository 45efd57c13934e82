//! What a server does not wait for: halves of prefaces, frames and bodies, and readers that do not read.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

use super::{ServerConnection, Stage};
use crate::client::Ended;
use crate::frame::{ConnectionError, ErrorCode};
use crate::limits::Limits;
use crate::refusals::Refusal;
use crate::server::Handler;

/// Between two looks at most.
const LONGEST_TICK: Duration = Duration::from_secs(5);
/// Bytes that a reader takes in [`Limits::read_time`] at least.
const LEAST_READ: u64 = 16 * 1024;

/// One timer a connection, which runs only while the peer owes something.
pub(super) struct Patience {
    tick: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the peer has finished nothing, and what it had finished by then.
    input: Option<(Instant, u32)>,
    /// Since when it has read nearly nothing, and what it had read by then.
    output: Option<(Instant, u64)>,
}

impl Patience {
    pub(super) fn new(limits: &Limits) -> Self {
        let times = [
            limits.preface_time,
            limits.frame_time,
            limits.body_time,
            limits.read_time,
        ];
        let shortest = times.into_iter().min().unwrap_or(LONGEST_TICK);
        Patience {
            tick: (shortest / 2).clamp(Duration::from_millis(1), LONGEST_TICK),
            timer: None,
            input: None,
            output: None,
        }
    }
}

impl<S, H, D> ServerConnection<S, H, D>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Handler + ?Sized,
    D: Future<Output = ()> + Unpin,
{
    /// Looks at the clock where there is something to wait for. `Ready` where that has something to do: streams that
    /// were reset, or the connection's end.
    pub(super) fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if !self.waits() {
            // A timer that runs still is left to run out: it is cheaper than to be set anew with the next call.
            (self.patience.input, self.patience.output) = (None, None);
            if self.patience.timer.is_none() {
                return Poll::Pending;
            }
        }
        loop {
            let tick = self.patience.tick;
            let timer = self.patience.timer.get_or_insert_with(|| Box::pin(sleep(tick)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            timer.as_mut().reset(now + tick);
            if !self.waits() {
                self.patience.timer = None;
                return Poll::Pending;
            }
            self.check_input(now)?;
            self.check_output(now)?;
            if self.reset_lingering() | self.reset_silent_bodies()? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn waits(&self) -> bool {
        self.streams.len() > 0
            || !self.lingering.is_empty()
            || self.out.waiting() > 0
            || !self.writing.is_done()
            || self.inbound.unfinished().is_some()
    }

    fn check_input(&mut self, now: Instant) -> Result<(), ConnectionError> {
        let Some((what, finished)) = self.inbound.unfinished() else {
            self.patience.input = None;
            return Ok(());
        };
        let (since, then) = *self.patience.input.get_or_insert((now, finished));
        if then != finished {
            self.patience.input = Some((now, finished));
            return Ok(());
        }
        let (time, reason) = match what {
            Refusal::SlowPreface => (self.limits.preface_time, "the preface did not come in time"),
            _ => (self.limits.frame_time, "a frame was begun and not finished"),
        };
        late(what, now - since, time, ErrorCode::PROTOCOL_ERROR, reason)
    }

    fn check_output(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if self.writing.is_done() && self.out.owed() == 0 {
            self.patience.output = None;
            return Ok(());
        }
        let total = self.writing.total;
        let (since, then) = *self.patience.output.get_or_insert((now, total));
        if total - then >= LEAST_READ {
            self.patience.output = Some((now, total));
            return Ok(());
        }
        let reason = "what waits for the peer is not read";
        let time = self.limits.read_time;
        late(
            Refusal::SlowReader,
            now - since,
            time,
            ErrorCode::ENHANCE_YOUR_CALM,
            reason,
        )
    }

    /// Resets requests of which nothing came since long; whether there were any.
    fn reset_silent_bodies(&mut self) -> Result<bool, ConnectionError> {
        let tick = self.patience.tick;
        let time = self.limits.body_time;
        let mut silent = Vec::new();
        for (stream, open) in self.streams.iter_mut() {
            if let Stage::Receiving { body, .. } = &mut open.stage
                && body.wait(tick) > time
            {
                silent.push(stream);
            }
        }
        for stream in &silent {
            Refusal::SlowBody.note();
            self.fail(*stream, ErrorCode::CANCEL)?;
        }
        Ok(!silent.is_empty())
    }
}

fn late(
    what: Refusal,
    waited: Duration,
    time: Duration,
    code: ErrorCode,
    reason: &'static str,
) -> Result<(), ConnectionError> {
    if waited < time {
        return Ok(());
    }
    what.note();
    Err(ConnectionError::new(code, reason))
}
