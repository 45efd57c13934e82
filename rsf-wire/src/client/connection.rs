//! The connection's future: reads, applies, wakes; then writes what has gathered, in one piece.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::Shared;
use crate::frame::{self, ConnectionError, ErrorCode};
use crate::inbound::{Event, Inbound};
use crate::limits::Limits;
use crate::outbound::Writing;
use crate::refusals::Refusal;

/// Why a connection ended when nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The byte stream failed.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The peer broke the protocol.
    #[error("the peer broke HTTP/2: {0}")]
    Protocol(#[from] ConnectionError),
    /// It did not answer a PING.
    #[error("the peer has fallen silent: it did not answer a PING in time")]
    Silent,
    /// The peer closed it with calls under way.
    #[error("the peer closed the connection")]
    Closed,
}

/// Drives a connection; must be spawned. Ends when the connection does.
pub struct ClientConnection<S> {
    io: S,
    shared: Arc<Shared>,
    inbound: Inbound,
    writing: Writing,
    events: Vec<Event>,
    /// Whether callers that were woken have had their turn, so that what they send next goes out in one piece.
    yielded: bool,
    said_goodbye: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientConnection<S> {
    pub(super) fn new(io: S, shared: Arc<Shared>, limits: &Limits) -> Self {
        ClientConnection {
            io,
            shared,
            inbound: Inbound::new(limits, false),
            writing: Writing::default(),
            events: Vec::new(),
            yielded: false,
            said_goodbye: false,
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        loop {
            let mut progress = false;
            let state = self.shared.state.lock();
            let (drowned, silent) = (state.out.is_drowned(), state.is_silent());
            drop(state);
            if silent {
                return Poll::Ready(Err(Ended::Silent));
            }
            // A server rests when its client does not read; if both did, both would wait for ever.
            if drowned {
                Refusal::Unsent.note();
                let reason = "the server reads nothing";
                return Poll::Ready(Err(
                    ConnectionError::new(ErrorCode::ENHANCE_YOUR_CALM, reason).into()
                ));
            }
            match self.inbound.poll_read(&mut self.io, cx) {
                Poll::Ready(Ok(true)) => {
                    self.take_in()?;
                    progress = true;
                }
                Poll::Ready(Ok(false)) => return Poll::Ready(self.at_end()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {}
            }
            if self.writing.is_done() {
                match self.take_output(cx, progress) {
                    Next::Write => {}
                    Next::Read => continue,
                    Next::Sleep => return Poll::Pending,
                    Next::Finish => return Pin::new(&mut self.io).poll_shutdown(cx).map_err(Ended::from),
                }
            }
            match self.writing.poll(&mut self.io, cx) {
                Poll::Ready(written) => written?,
                Poll::Pending => {
                    let mut state = self.shared.state.lock();
                    // Nobody is left who could give a peer up that reads nothing.
                    if state.is_abandoned() {
                        return Poll::Ready(Ok(()));
                    }
                    state.relieved = self.writing.relieved;
                    if !progress {
                        state.wait_for_socket(cx.waker());
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Decodes what was read, without the lock, then applies all of it under one.
    fn take_in(&mut self) -> Result<(), ConnectionError> {
        let broken = loop {
            match self.inbound.next() {
                Ok(Some(event)) => self.events.push(event),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let increment = self.inbound.window_increment();
        let events = &mut self.events;
        let begun = self.shared.with(|state| {
            state.heard += 1;
            if increment > 0 {
                frame::write_window_update(state.out.control(), 0, increment);
            }
            let before = state.replies;
            events.drain(..).try_for_each(|event| state.apply(event))?;
            Ok::<_, ConnectionError>(state.replies.wrapping_sub(before))
        })?;
        self.inbound.hear_calls(begun);
        broken.map_or(Ok(()), Err)
    }

    fn take_output(&mut self, cx: &mut Context<'_>, progress: bool) -> Next {
        let mut state = self.shared.state.lock();
        if state.out.is_empty() {
            if state.is_finished() {
                if self.said_goodbye {
                    return Next::Finish;
                }
                self.said_goodbye = true;
                frame::write_go_away(state.out.control(), 0, ErrorCode::NO_ERROR, "");
            } else if progress {
                return Next::Read;
            } else {
                state.sleep(cx.waker());
                return Next::Sleep;
            }
        }
        if !self.yielded && state.open_streams() > 1 {
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Next::Sleep;
        }
        self.yielded = false;
        state.out.take(&mut self.writing);
        state.output_taken();
        let wakers = state.take_wakers();
        drop(state);
        // Those whose streams have room again.
        wakers.into_iter().for_each(std::task::Waker::wake);
        Next::Write
    }

    /// The peer closed: no error where nothing was under way.
    fn at_end(&self) -> Result<(), Ended> {
        match self.shared.state.lock().open_streams() {
            0 => Ok(()),
            _ => Err(Ended::Closed),
        }
    }

    /// Tells a peer that broke the protocol so, as far as the socket takes it at once.
    fn accuse(&mut self, error: &ConnectionError, cx: &mut Context<'_>) {
        let mut goodbye = Vec::new();
        frame::write_go_away(&mut goodbye, 0, error.code, error.reason);
        // In the middle of a frame there is no room for another.
        if self.writing.is_done() {
            self.writing.bytes = goodbye;
            let _ = self.writing.poll(&mut self.io, cx);
        }
    }
}

enum Next {
    Write,
    Read,
    Sleep,
    Finish,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for ClientConnection<S> {
    type Output = Result<(), Ended>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(self.drive(cx));
        if let Err(Ended::Protocol(error)) = &outcome {
            self.accuse(error, cx);
        }
        let reason = match &outcome {
            Ok(()) => "the connection is closed".into(),
            Err(error) => error.to_string().into(),
        };
        let this = &*self;
        this.shared.with(|state| state.end(&reason, &this.writing));
        Poll::Ready(outcome)
    }
}

impl<S> Drop for ClientConnection<S> {
    fn drop(&mut self) {
        let reason = "the connection's task is gone".into();
        let writing = &self.writing;
        self.shared.with(|state| state.end(&reason, writing));
    }
}
