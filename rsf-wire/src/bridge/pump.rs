//! Sending a body at the pace of windows and socket.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame};

use super::BoxError;
use super::fields::append;
use crate::frame::ErrorCode;
use crate::hpack::Literals;
use crate::stream::Outgoing;

/// Sends a body; resolves when all of it was handed over, or nobody wants it any more.
pub(super) struct Pump<B> {
    /// `None` when it is over.
    outgoing: Option<Outgoing>,
    body: Pin<Box<B>>,
    /// What the peer is told where the body breaks off.
    broken: ErrorCode,
}

impl<B> Pump<B>
where
    B: Body<Error: Into<BoxError>>,
{
    pub(super) fn new(outgoing: Outgoing, body: B, broken: ErrorCode) -> Self {
        Pump {
            outgoing: Some(outgoing),
            body: Box::pin(body),
            broken,
        }
    }

    /// Sends what the body has given. Whether more may follow.
    fn send(&mut self, mut outgoing: Outgoing, frame: Option<Result<Frame<B::Data>, B::Error>>) -> bool {
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                outgoing.reset(self.broken);
                return false;
            }
            None => {
                outgoing.send(Bytes::new(), true);
                return false;
            }
        };
        let mut trailers = Literals::new();
        match frame.into_data() {
            Ok(mut data) => {
                let end = self.body.is_end_stream();
                outgoing.send(data.copy_to_bytes(data.remaining()), end);
                self.outgoing = (!end).then_some(outgoing);
                return !end;
            }
            Err(frame) => {
                if let Ok(map) = frame.into_trailers() {
                    append(&map, false, &mut trailers);
                }
            }
        }
        outgoing.finish(trailers);
        false
    }
}

impl<B> Future for Pump<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        while let Some(outgoing) = &mut this.outgoing {
            if ready!(outgoing.poll_room(cx)).is_err() {
                // The stream is over, and who reads it is told why.
                this.outgoing = None;
                break;
            }
            let frame = ready!(this.body.as_mut().poll_frame(cx));
            if let Some(outgoing) = this.outgoing.take()
                && !this.send(outgoing, frame)
            {
                break;
            }
        }
        Poll::Ready(())
    }
}
