//! A socket that tells when the peer has said its first word.
//!
//! The system accepts connections for a process that is stopped, hangs, or is about to close its port. A connection
//! carries calls only when the peer's SETTINGS have come, or what is sent on it would end in doubt.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A socket whose first bytes are told of.
pub(super) struct Greeting {
    stream: TcpStream,
    /// `None` once they have come.
    greeted: Option<oneshot::Sender<()>>,
}

impl Greeting {
    /// The receiver gets the word, or an error where the connection ends before it.
    pub(super) fn of(stream: TcpStream) -> (Greeting, oneshot::Receiver<()>) {
        let (greeted, receiver) = oneshot::channel();
        let greeted = Some(greeted);
        (Greeting { stream, greeted }, receiver)
    }
}

impl AsyncRead for Greeting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.greeted.is_some()
            && buffer.filled().len() > before
            && let Some(greeted) = self.greeted.take()
        {
            // Nobody waits where connecting was given up.
            let _ = greeted.send(());
        }
        read
    }
}

impl AsyncWrite for Greeting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
