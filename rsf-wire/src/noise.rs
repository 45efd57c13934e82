//! Frames that belong to no call, counted: a peer may send some with each call, and some on its own, but no flood.

use std::time::Duration;

use tokio::time::Instant;

use crate::frame::{ConnectionError, ErrorCode, Frame};
use crate::limits::Limits;
use crate::refusals::Refusal;

/// The time for which [`Limits::control_frames`] holds.
const PERIOD: Duration = Duration::from_secs(10);
/// Frames that a call brings with it for nothing: updates of two windows, a PING, a reset.
const WITH_A_CALL: u32 = 4;
/// What a frame counts that makes us look at all streams.
const COSTLY: u32 = 10;
/// A window raised by less is raised for nothing: so little is never read at once, but by who wants us to send crumbs.
const SMALL_INCREMENT: u32 = 1024;

/// The noise of one connection.
#[derive(Debug)]
pub(crate) struct Noise {
    count: u32,
    limit: u32,
    /// When the count began. The clock is only read when the limit is met.
    since: Instant,
}

impl Noise {
    pub(crate) fn new(limits: &Limits) -> Self {
        Noise {
            count: 0,
            limit: limits.control_frames,
            since: Instant::now(),
        }
    }

    /// Hears a frame.
    #[inline]
    pub(crate) fn hear(&mut self, frame: &Frame) -> Result<(), ConnectionError> {
        let cost = match frame {
            // Where it begins a call that makes up for noise; else it is no call's, and no noise of its own.
            Frame::Headers { complete: true, .. } | Frame::Continuation { complete: true, .. } => {
                return Ok(());
            }
            Frame::Data { data, end, .. } if *end || !data.is_empty() => {
                self.count = self.count.saturating_sub(1);
                return Ok(());
            }
            Frame::WindowUpdate { increment, .. } if *increment >= SMALL_INCREMENT => return Ok(()),
            Frame::Settings(_) | Frame::GoAway { .. } => COSTLY,
            _ => 1,
        };
        self.count(cost)
    }

    /// Hears that a piece of a body, which was heard as such, belongs to a call that is over.
    #[cold]
    pub(crate) fn hear_waste(&mut self) -> Result<(), ConnectionError> {
        self.count(2)
    }

    /// Hears that calls began: requests of a server, replies of a client.
    #[inline]
    pub(crate) fn hear_calls(&mut self, calls: u32) {
        self.count = self.count.saturating_sub(WITH_A_CALL.saturating_mul(calls));
    }

    #[inline]
    fn count(&mut self, cost: u32) -> Result<(), ConnectionError> {
        self.count = self.count.saturating_add(cost);
        if self.count <= self.limit {
            Ok(())
        } else {
            self.met()
        }
    }

    #[cold]
    fn met(&mut self) -> Result<(), ConnectionError> {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.count, self.since) = (0, now);
            return Ok(());
        }
        Refusal::ControlFrames.note();
        let reason = "too many frames that belong to no call";
        Err(ConnectionError::new(ErrorCode::ENHANCE_YOUR_CALM, reason))
    }
}
