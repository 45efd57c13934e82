//! Requests that were answered before they ended: what still comes of them passes by for a while.
//!
//! A RST_STREAM right behind the answer would make clients that read both at once (curl) report an error in the answer's
//! place. Without any, those that stop to send when they see an answer (curl again) would wait for ever. So a PING goes out
//! behind the answer, and the stream is reset when the peer has acknowledged it: it has the answer by then.
//!
//! An answer may wait for the peer's windows for long. All that time the stream is left alone: what bounds it is
//! [`Limits::read_time`](crate::Limits::read_time), and no frame is more wrong than a reset in front of an answer.

use std::collections::VecDeque;

use super::ServerConnection;
use crate::frame::{self, ConnectionError, ErrorCode};

/// Streams at once; where there are more, the oldest is reset, at once or right behind its answer.
const MOST: usize = 64;
/// Bytes of one that pass by behind its answer before it is reset, where its window allows them.
const MOST_BYTES: u32 = 256 * 1024;
/// What that PING carries.
pub(super) const PING: [u8; 8] = *b"rsfrests";
/// Looks of a connection's patience, for peers that acknowledge nothing, after which one is reset: five to ten seconds by default.
const LOOKS: u32 = 2;

/// The streams of one connection.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    streams: VecDeque<Answered>,
    /// A PING is out.
    asked: bool,
}

#[derive(Debug)]
struct Answered {
    stream: u32,
    /// Bytes that may still pass by.
    left: u32,
    looks: u32,
    /// Its answer went out before the PING that is out.
    asked: bool,
}

/// What comes of what a peer said.
#[derive(Debug, PartialEq, Eq)]
enum Passed {
    /// It was no such stream's.
    No,
    /// Nobody needs it.
    By,
    /// It was too much.
    Over,
}

impl Lingering {
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Ends one; whether it was there.
    pub(super) fn end(&mut self, stream: u32) -> bool {
        let place = self.streams.iter().position(|answered| answered.stream == stream);
        place.and_then(|place| self.streams.remove(place)).is_some()
    }

    /// Begins one; which other has to go for it.
    fn begin(&mut self, stream: u32, left: u32) -> Option<u32> {
        let oldest = (self.streams.len() == MOST)
            .then(|| self.streams.pop_front())
            .flatten();
        self.streams.push_back(Answered {
            stream,
            left,
            looks: 0,
            asked: false,
        });
        oldest.map(|answered| answered.stream)
    }

    /// `owed` says whether the stream's answer is not out yet.
    fn pass(&mut self, stream: u32, bytes: u32, end: bool, owed: bool) -> Passed {
        let Some(answered) = self.streams.iter_mut().find(|answered| answered.stream == stream) else {
            return Passed::No;
        };
        let fits = owed || bytes <= answered.left;
        if !owed {
            answered.left = answered.left.saturating_sub(bytes);
        }
        if end || !fits {
            self.end(stream);
        }
        match end || fits {
            true => Passed::By,
            false => Passed::Over,
        }
    }

    /// Some time has passed for those whose answer is out.
    fn look(&mut self, owed: impl Fn(u32) -> bool) {
        for answered in &mut self.streams {
            answered.looks += u32::from(!owed(answered.stream));
        }
    }

    /// One that has to go, if any.
    fn late(&mut self) -> Option<u32> {
        let late = self.streams.iter().position(|answered| answered.looks >= LOOKS)?;
        self.streams.remove(late).map(|answered| answered.stream)
    }
}

impl<S, H: ?Sized, D> ServerConnection<S, H, D> {
    /// Lets pass by what still comes of a request whose answer is out, or waits to go out.
    pub(in crate::server) fn linger(&mut self, stream: u32) {
        self.out.closed().give_up(stream);
        let left = MOST_BYTES.min(self.limits.tolerated_window() / 4);
        if let Some(oldest) = self.lingering.begin(stream, left) {
            self.cut_off(oldest);
        }
        self.ask_for_rests();
    }

    /// Sends a PING behind the answers that are out, where there are such and no PING is out.
    pub(super) fn ask_for_rests(&mut self) {
        if self.lingering.asked {
            return;
        }
        for answered in &mut self.lingering.streams {
            // What waits for the peer's windows will stand behind the PING.
            answered.asked = !self.out.owes(answered.stream);
            self.lingering.asked |= answered.asked;
        }
        if self.lingering.asked {
            frame::write_ping(self.out.control(), false, PING);
        }
    }

    /// The peer has all that went out before the PING.
    pub(super) fn hear_rests(&mut self) {
        if !std::mem::take(&mut self.lingering.asked) {
            return;
        }
        let out = &mut self.out;
        self.lingering.streams.retain(|answered| {
            if answered.asked {
                frame::write_reset(out.control(), answered.stream, ErrorCode::NO_ERROR);
            }
            !answered.asked
        });
        self.ask_for_rests();
    }

    /// DATA of a stream that is not open; whether it passes by. What passes by is noise.
    pub(super) fn passes_by(&mut self, stream: u32, flow: u32, end: bool) -> Result<bool, ConnectionError> {
        let owed = self.out.owes(stream);
        match self.lingering.pass(stream, flow, end, owed) {
            Passed::No => return Ok(false),
            Passed::By => {}
            Passed::Over => self.cut_off(stream),
        }
        self.inbound.hear_waste()?;
        Ok(true)
    }

    /// Resets those that have lingered for long; whether there were any.
    pub(super) fn reset_lingering(&mut self) -> bool {
        self.lingering.look(|stream| self.out.owes(stream));
        let mut some = false;
        while let Some(stream) = self.lingering.late() {
            self.cut_off(stream);
            some = true;
        }
        some
    }

    /// Tells the peer that nobody reads on, behind its answer.
    fn cut_off(&mut self, stream: u32) {
        if !self.out.cut_off(stream) {
            frame::write_reset(self.out.control(), stream, ErrorCode::NO_ERROR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_passes_by_until_it_ends_or_is_too_much() {
        let mut lingering = Lingering::default();
        for stream in [1, 3, 5] {
            assert_eq!(lingering.begin(stream, 100), None);
        }
        assert_eq!(lingering.pass(7, 1, false, false), Passed::No);
        assert_eq!(lingering.pass(1, 1000, false, true), Passed::By);
        assert_eq!(lingering.pass(1, 60, false, false), Passed::By);
        assert_eq!(lingering.pass(1, 60, false, false), Passed::Over);
        assert_eq!(lingering.pass(1, 1, false, false), Passed::No);
        assert_eq!(lingering.pass(3, 1000, true, false), Passed::By);
        assert!(!lingering.end(3) && lingering.end(5) && lingering.is_empty());
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut lingering = Lingering::default();
        assert!((0..MOST as u32).all(|stream| lingering.begin(stream, 0).is_none()));
        assert_eq!(lingering.begin(100, 0), Some(0));
        for _ in 0..LOOKS {
            assert_eq!(lingering.late(), None);
            lingering.look(|stream| !(2..4).contains(&stream));
        }
        let late: Vec<u32> = std::iter::from_fn(|| lingering.late()).collect();
        assert_eq!(late, [2, 3]);
    }
}
