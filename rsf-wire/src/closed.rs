//! Streams that are over, told apart: those of which more may still be on its way, and those that the peer ended itself.

use std::collections::VecDeque;

/// Streams that are remembered by number; older ones are only known to be old.
const REMEMBERED: usize = 1024;
/// Gaps in a peer's numbers that are remembered: nobody leaves many.
const GAPS: usize = 16;

/// The memory of one connection: at most 4 KiB, and nothing while all streams end as they should.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    /// Streams that we ended before the peer did, in the order in which we did.
    given_up: VecDeque<u32>,
    /// The greatest of those that are not remembered any more.
    forgotten: u32,
    /// First and last of the streams that the peer passed over.
    passed_over: VecDeque<(u32, u32)>,
}

impl Closed {
    /// We ended this stream; the peer may not know yet.
    pub(crate) fn give_up(&mut self, stream: u32) {
        if self.given_up.len() == REMEMBERED
            && let Some(oldest) = self.given_up.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.given_up.push_back(stream);
    }

    /// Whether frames of this stream, which is over, are no fault of the peer's. Never a wrong no.
    pub(crate) fn may_speak(&self, stream: u32) -> bool {
        stream <= self.forgotten || self.given_up.iter().rev().any(|given_up| *given_up == stream)
    }

    /// The peer opened `opened` after `last`, which closes all between them.
    pub(crate) fn pass_over(&mut self, last: u32, opened: u32) {
        if self.passed_over.len() == GAPS {
            self.passed_over.pop_front();
        }
        self.passed_over.push_back((last + 1, opened - 1));
    }

    /// Whether the peer passed this stream over, as far as is remembered.
    pub(crate) fn was_passed_over(&self, stream: u32) -> bool {
        let mut gaps = self.passed_over.iter();
        gaps.any(|(first, last)| (*first..=*last).contains(&stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_was_given_up_is_never_accused() {
        let mut closed = Closed::default();
        for stream in (1..10_000).step_by(4) {
            closed.give_up(stream);
        }
        assert!((1..10_000).step_by(4).all(|stream| closed.may_speak(stream)));
        assert!(!closed.may_speak(9_999) && !closed.may_speak(8_003));
        assert_eq!(closed.given_up.len(), REMEMBERED);
    }

    #[test]
    fn gaps_are_remembered_for_a_while() {
        let mut closed = Closed::default();
        closed.pass_over(1, 7);
        assert!(closed.was_passed_over(3) && closed.was_passed_over(5));
        assert!(!closed.was_passed_over(1) && !closed.was_passed_over(7));
        for i in 2..100 {
            closed.pass_over(i * 10, i * 10 + 9);
        }
        assert!(!closed.was_passed_over(3));
        assert_eq!(closed.passed_over.len(), GAPS);
    }
}
