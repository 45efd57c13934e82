//! Bytes on their way into the socket: what was gathered in one piece, and large pieces where they lie.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::KEPT_BYTES;

/// Slices that are handed to the socket at once.
const SLICES: usize = 32;

/// Pieces that were not copied, each with its place among the bytes that were.
pub(crate) type Large = VecDeque<(usize, Bytes)>;

/// Bytes on their way into the socket.
#[derive(Default)]
pub(crate) struct Writing {
    pub(crate) bytes: Vec<u8>,
    pub(crate) large: Large,
    written: usize,
    unflushed: bool,
    /// Whether the socket was full when it was last asked.
    blocked: bool,
    /// How often a full socket got room again: its peer lives, and has taken something.
    pub(crate) relieved: u64,
    /// Bytes that went into the socket, all told.
    pub(crate) total: u64,
}

impl Writing {
    pub(crate) fn is_done(&self) -> bool {
        self.written == self.bytes.len() && !self.unflushed && self.large.is_empty()
    }

    /// Writes all; `Ready` when it is flushed.
    pub(crate) fn poll(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        while !self.large.is_empty() {
            let taken = self.poll_slices(io, cx);
            self.blocked |= taken.is_pending();
            let bytes = ready!(taken)?;
            self.wrote(bytes)?;
            self.pass(bytes);
        }
        while self.written < self.bytes.len() {
            let taken = Pin::new(&mut *io).poll_write(cx, &self.bytes[self.written..]);
            self.blocked |= taken.is_pending();
            let bytes = ready!(taken)?;
            self.wrote(bytes)?;
            self.written += bytes;
        }
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        self.written = 0;
        ready!(Pin::new(io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Err(Error::from(ErrorKind::WriteZero));
        }
        self.unflushed = true;
        self.relieved += u64::from(std::mem::take(&mut self.blocked));
        self.total += bytes as u64;
        Ok(())
    }

    /// Hands over as much as one call takes, copied and large pieces in their order.
    fn poll_slices(&self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut count, mut from) = (0, self.written);
        for (place, piece) in self.large.iter().take(SLICES / 2) {
            slices[count] = IoSlice::new(&self.bytes[from..*place]);
            slices[count + 1] = IoSlice::new(piece);
            count += 2;
            from = *place;
        }
        Pin::new(io).poll_write_vectored(cx, &slices[..count])
    }

    /// Goes forward by bytes that were written.
    fn pass(&mut self, mut bytes: usize) {
        while let Some((place, piece)) = self.large.front_mut() {
            let copied = bytes.min(*place - self.written);
            self.written += copied;
            bytes -= copied;
            let step = bytes.min(piece.len());
            piece.advance(step);
            bytes -= step;
            if piece.has_remaining() {
                return;
            }
            self.large.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, and slices only where it is asked to.
    struct Slow {
        taken: Vec<u8>,
        step: usize,
        vectored: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
            let count = self.step.min(bytes.len());
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<Result<usize>> {
            if !self.vectored {
                let first = slices.iter().find(|slice| !slice.is_empty());
                return self.poll_write(cx, first.map_or(&[], |slice| slice));
            }
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn large_pieces_stand_where_they_belong_however_the_socket_takes_them() {
        for vectored in [false, true] {
            for step in 1..40 {
                let mut writing = Writing {
                    bytes: (0..20).collect(),
                    ..Writing::default()
                };
                for (place, length) in [(0, 3), (5, 1), (5, 7), (20, 2)] {
                    let piece = Bytes::from(vec![100 + length as u8; length]);
                    writing.large.push_back((place, piece));
                }
                let mut slow = Slow {
                    taken: Vec::new(),
                    step,
                    vectored,
                };
                let mut cx = Context::from_waker(std::task::Waker::noop());
                assert!(matches!(writing.poll(&mut slow, &mut cx), Poll::Ready(Ok(()))));
                let mut wanted = vec![103; 3];
                wanted.extend([0, 1, 2, 3, 4, 101]);
                wanted.extend([107; 7]);
                wanted.extend(5..20);
                wanted.extend([102; 2]);
                assert_eq!(slow.taken, wanted, "{step} {vectored}");
                assert!(writing.is_done());
                assert_eq!(writing.total, wanted.len() as u64);
            }
        }
    }
}
